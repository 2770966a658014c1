"""The folders of two customers to a receiver that fails in every way; the service is killed in the middle.

python -m tests.system.e2e.test_forward [--files 60]
"""

import argparse
import base64
import json
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from tests import data
from tests.receiver import PictureReceiver
from tests.system.e2e.service import Service, until

CUSTOMERS = ("acme", "beta")
QUICK = {
    "delivery__permanent_attempts": 1,
    "delivery__backoff_min_s": 0.1,
    "delivery__backoff_max_s": 1,
    "workers__count": 1,
}


def answer(body, before):
    """Refuse every tenth picture for good; fail once in turn for most others."""
    number = int(body["file_name"].split(".")[0])
    if number % 10 == 9:
        return 422
    return 204 if before else (503, (429, "1"), None, 204, 500)[number % 5]


def files(count):
    """Yield name and content: every fifteenth is junk, the others pictures."""
    for number in range(count):
        junk = number % 15 == 14
        ct = data.ct(SOPInstanceUID=f"{data.SERIES}.{number}", PatientName="Canary^Qzxjvkw")
        yield f"{CUSTOMERS[number % 2]}/{number}.dcm", b"not DICOM\0" * 40 if junk else ct


def run(lake, count):
    """Return the receiver and the service's tables after all files have ended; killed after a third."""
    receiver = PictureReceiver(answer)
    service = Service(lake, forward__urls=json.dumps([receiver.url, f"file:{lake / 'encoded'}"]), **QUICK)
    try:
        service.start()
        for name, content in files(count):
            service.drop(name, content)
        assert until(lambda: len(receiver.accepted) > count // 3), service.log.read_text()
        service.stop(signal.SIGKILL)
        with service.start():
            left = "SELECT id FROM queue"
            ended = "SELECT object_uri FROM instances_current UNION SELECT object_uri FROM dead_letters"
            assert until(lambda: len(service.rows(ended)) == count and not service.rows(left), 120), (
                service.log.read_text()
            )
            return receiver, service
    finally:
        receiver.close()


def summary(receiver, service):
    """Return what came of it, in numbers."""
    states = service.rows(
        "SELECT substr(target, 1, 4) AS target, status, COUNT(DISTINCT row_id) AS n FROM deliveries"
        " GROUP BY 1, 2"
    )
    letters = service.rows("SELECT code, COUNT(*) AS n FROM dead_letters GROUP BY 1")
    return {
        "rows": len(service.rows("SELECT row_id FROM instances_current")),
        "requests": len(receiver.requests),
        "answers": dict(receiver.answers),
        "arrived": len(receiver.accepted),
        "arrived_again": receiver.repeats.total(),
        "encoded": len(list((service.lake / "encoded").rglob("*.png.txt"))),
        "deliveries": {f"{one['target']} {one['status']}": one["n"] for one in states},
        "dead_letters": {one["code"]: one["n"] for one in letters},
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return run(tmp_path_factory.mktemp("forward") / "lake", 30)


def test_every_picture_arrives_or_is_a_dead_letter_with_its_reason(ran):
    receiver, service = ran
    stored = {row["row_id"] for row in service.rows("SELECT row_id FROM instances_current")}
    assert len(stored) == 28
    sql = "SELECT reason, code FROM dead_letters ORDER BY code"
    letters = [(one["code"], one["reason"]) for one in service.rows(sql)]
    # 9, 19; 29 is junk, as 14 is
    assert letters[:2] == [("forward_refused", f"forward: {receiver.url}: it answers 422")] * 2
    assert [code for code, _ in letters[2:]] == ["not_dicom"] * 2
    assert len(receiver.accepted) == 26
    assert set(receiver.accepted) <= stored
    delivered = service.rows("SELECT DISTINCT row_id, target FROM deliveries WHERE status = 'delivered'")
    assert len(delivered) == 26 + 28


def test_pictures_are_whole_and_of_the_customer_that_has_sent_them(ran):
    receiver, service = ran
    for body in receiver.accepted.values():
        number = int(body["file_name"].split(".")[0])
        assert body["collection"] == CUSTOMERS[number % 2]
        encoded = service.lake / "encoded" / body["collection"] / f"{number}.dcm.png.txt"
        assert encoded.read_text() == body["picture"]
        assert base64.b64decode(body["picture"]).startswith(b"\x89PNG")


def test_a_repetition_has_the_key_of_the_first(ran):
    receiver, _ = ran
    assert receiver.answers["None"] >= 5
    assert receiver.repeats.total() >= receiver.answers["None"]
    assert len({body["file_name"] for body in receiver.accepted.values()}) == len(receiver.accepted)


def test_no_name_of_a_patient_is_on_the_wire_or_in_the_log(ran):
    receiver, service = ran
    told = service.log.read_bytes() + b"".join(
        repr(headers).encode() + body for headers, body in receiver.requests
    )
    assert b"Qzxjvkw" not in told


def main():
    """Print what came of it."""
    parser = argparse.ArgumentParser(description="two customers, a receiver that fails, a killed service")
    parser.add_argument("--files", type=int, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        json.dump(summary(*run(Path(scratch) / "lake", given.files)), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
