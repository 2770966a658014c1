"""No name of an object, of a member, or of anything else that a sender chooses forges a line of the log."""

import json

import httpx
import pytest

from tests import pushes
from tests.archives import zipped
from tests.system.e2e.canaries import check_lines
from tests.system.e2e.service import Service, until

PROMPT = {"delivery__permanent_attempts": 1, "delivery__max_attempts": 2, "workers__count": 1}
FORGED = "2026-01-01T00:00:00.000000Z ALERT    forged"
LANDED = (
    f"x\x85{FORGED}.dcm",
    f"x\u2028{FORGED}\u2029.dcm",
    f"x\x0b{FORGED}\x0c\x1c\x1e.dcm",
    "x\x1b[2J\x1b[1;31mforged\x9b31m.dcm",
    "x severity=ALERT message=forged.dcm",
    'x","severity":"ALERT","message":"forged"}.dcm',
    "x\u202emcd.forged",
    "\ufeffx\x7fforged\x08\x08.dcm",
    "%(asctime)s %s {forged} ${forged}.dcm",
)
"""Names that a folder can hold and an object can have."""
TOLD = (
    *LANDED,
    f"x\n{FORGED}.dcm",
    f"x\r\n{FORGED}.dcm",
    'x","severity":"ALERT"}\n{"severity":"ALERT","message":"forged"}.dcm',
    "x\x00forged.dcm",
    "x\ud800forged.dcm",
)


def forge(service):
    """Use names for files, members, objects of events, messages and subscriptions."""
    packed = service.drop(
        "members.zip", zipped([(name.replace("\ud800", "?"), b"no DICOM") for name in TOLD])
    )
    for name in LANDED:
        service.drop(name, b"no DICOM")
    service.drop("x\nforged.dcm", b"no DICOM")
    for number, name in enumerate(TOLD):
        push = pushes.wrapped(packed, attempt=1)
        push["message"]["attributes"]["objectId"] = name
        push["message"] |= {"data": "", "messageId": f"{number}{name}", "message_id": f"{number}{name}"}
        push["subscription"] = name
        headers = {"traceparent": "00-forged", "content-type": "application/json"}
        answer = httpx.post(service.url, content=json.dumps(push), headers=headers)
        assert 200 <= answer.status_code < 500


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_name_forges_a_line_of_the_log(form, tmp_path):
    with Service(tmp_path / "lake", log__format=form, **PROMPT) as service:
        forge(service)
        assert until(lambda: len(service.rows("SELECT * FROM dead_letters")) >= len(LANDED))
        ingested = service.run(
            "--set", f"log.format={form}", "--set", "log.level=info", "ingest", service.landing
        )
    text = service.log.read_bytes()
    assert text.count(b"forged") >= len(TOLD) + len(LANDED)
    assert check_lines(text, form) == {"INFO", "WARNING", "ERROR"}
    said = [line for line in ingested.stderr.split("\n") if "forged" in line]
    assert len(said) >= len(LANDED)
    assert check_lines("\n".join([*said, ""]).encode(), form) == {"ERROR", "INFO"}
