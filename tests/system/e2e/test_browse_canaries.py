"""No value of a data set, and nothing that a client sends, is in the log, in a refusal or in an error text.

The page and DICOMweb show values to who may see them; so all that is answered with 200 is left out here.
"""

import time
from itertools import product

import httpx
import pytest

from app.api.users import Tokens
from tests import data
from tests.system.e2e.canaries import CANARY, WORD
from tests.system.e2e.service import Service, until

KEY = "k" * 32
SECRET = WORD.decode()
TEXTS = (
    "PatientName",
    "PatientID",
    "AccessionNumber",
    "InstitutionName",
    "StudyDescription",
    "SeriesDescription",
)
STUDY, SERIES, INSTANCE = "/studies/1.2.7", "/series/1.2.7.1", "/instances/1.2.7.1.1"
UIDS = {"StudyInstanceUID": "1.2.7", "SeriesInstanceUID": "1.2.7.1", "SOPInstanceUID": "1.2.7.1.1"}
HERE = f"{STUDY}{SERIES}{INSTANCE}"
PAGES = ("/", "/studies", STUDY, f"{STUDY}{SERIES}", HERE, "/overview", "/dead-letters", "/upload")
LOOKED_AT = (
    *PAGES,
    *("/files", "/files/a", "/files/a/1.dcm/tag?tag=PatientName", "/files/a/1.dcm/png", "/search"),
    *(f"/dicomweb/{level}" for level in ("studies", "series", "instances")),
    *(f"/dicomweb{HERE}{what}" for what in ("", "/metadata", "/rendered", "/thumbnail", "/frames/1")),
)
ASKED_FOR = (
    *(
        f"{path}?{name}={SECRET}"
        for path, name in product(("/studies", "/search"), ("patient_name", "from", SECRET))
    ),
    *(f"/dicomweb/studies?{name}={SECRET}" for name in ("PatientName", "StudyDate", "limit", "Rows", SECRET)),
    *(
        f"/dicomweb{HERE}/{what}"
        for what in (f"rendered?window={SECRET}", f"frames/{SECRET}", f"bulkdata/{SECRET}")
    ),
    *(
        f"{path}/{SECRET}"
        for path in (STUDY, "/studies", "/files", "/files/a", "/dicomweb/studies", "", "/static")
    ),
    *(f"/files/a/1.dcm/{what}={SECRET}" for what in ("tag?tag", "png?frame", "png?window")),
    *(f"/login?next={SECRET}", f"/upload/outcome?object={SECRET}&generation={SECRET}"),
)
"""What a client may type; the status is 200, 204, 303 or an error."""


def part(content: bytes, boundary: bytes = b"b") -> bytes:
    return b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--" + boundary + b"--\r\n"


STORED = (
    ("application/dicom", WORD),
    ("application/dicom", data.ct(**UIDS, PatientName=SECRET)[:600]),
    ('multipart/related; type="application/dicom"; boundary=b', part(WORD)),
    ('multipart/related; type="application/dicom"; boundary=b', part(WORD, WORD)),
    ('multipart/related; type="application/dicom"; boundary=b', WORD),
    ('multipart/related; type="application/dicom"; boundary=b', b"--b" + WORD),
    ('multipart/related; type="application/dicom"; boundary=b', b"--b\r\n" + WORD + b"\0: x\r\n\r\n"),
    (f"multipart/related; type={SECRET}; boundary=b", part(WORD)),
    (SECRET, WORD),
)
"""Bodies that are no whole instance, in types that are none."""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Ask for everything with each role and without; return what was refused or failed, and the log."""
    tokens = {
        role: Tokens(KEY).issue("ann", role, time.time(), 3600) for role in ("read-only", "user", "admin")
    }
    settings = {"api__users": "token", "api__users_key": KEY, "delivery__max_attempts": 1}
    with Service(tmp_path_factory.mktemp("canaries") / "lake", **settings) as service:
        service.drop("a/1.dcm", data.ct(**UIDS, **dict.fromkeys(TEXTS, SECRET)))
        service.drop("a/2.dcm", data.ct(PatientName=SECRET)[:-20])
        assert until(lambda: service.current() and service.rows("SELECT 1 FROM dead_letters"))
        errors: list[tuple[str, int, bytes]] = []
        statuses: set[int] = set()

        def ask(method, path, headers, **body):
            answer = httpx.request(method, service.url + path, headers=headers, timeout=60, **body)
            statuses.add(answer.status_code)
            if answer.status_code >= 400:
                told = repr(sorted(answer.headers.items())).encode()
                if SECRET not in path:  # who types a value may read it again
                    errors.append((f"{method} {path}", answer.status_code, answer.content + told))

        senders = [{}, {"Authorization": f"Bearer {SECRET}"}, {"Cookie": f"dicomlake={SECRET}"}]
        senders += [{"Authorization": f"Bearer {token}"} for token in tokens.values()]
        for headers, accept in product(senders, ("text/html", "*/*")):
            for path in (*LOOKED_AT, *ASKED_FOR):
                ask("GET", path, headers | {"Accept": accept})
            for kind, content in STORED:
                ask("POST", "/dicomweb/studies", headers | {"Content-Type": kind}, content=content)
            files = {"files": ("1.dcm", WORD)}
            ask("POST", "/upload", headers | {"Accept": accept}, files=files, data={"study": "b"})
            ask(
                "POST",
                "/dead-letters/chosen",
                headers | {"Accept": accept},
                data={"do": SECRET, "id": SECRET},
            )
            ask("POST", "/login", headers | {"Accept": accept}, data={"token": SECRET, "next": SECRET})
            ask("GET", "/files", headers | {"Origin": f"http://{SECRET}"})
            ask(
                "GET",
                f"/dicomweb{HERE}",
                headers | {"Accept": SECRET, "If-None-Match": SECRET, "Range": SECRET},
            )
    return errors, statuses, service


def test_neither_values_nor_what_clients_send_are_in_the_log(said):
    _, statuses, service = said
    assert {200, 400, 401, 403, 404, 406, 409, 415} <= statuses
    assert not statuses & {500, 501, 502}
    lines = service.log.read_bytes().splitlines()
    assert len(lines) > 300  # equal ones are folded
    assert [line for line in lines if CANARY.search(line)] == []


def test_every_look_at_a_patient_is_one_line_of_who_and_what(said):
    _, _, service = said
    looks = [line for line in service.lines() if line["message"] == "access" and line.get("instance")]
    seen = {(line.get("user"), line["route"], line["http_status"]) for line in looks}
    for what in ("", "/metadata", "/rendered", "/thumbnail"):
        route = f"/dicomweb/studies/{{study}}/series/{{series}}/instances/{{instance}}{what}"
        assert ("ann", route, 200) in seen
    assert {line.get("user") for line in looks if line["http_status"] == 401} == {None}
    assert all((line["study"], line["series"], line["instance"]) == tuple(UIDS.values()) for line in looks)


def test_no_refusal_and_no_error_quotes_a_value(said):
    errors, _, _ = said
    assert len(errors) > 150
    assert [(what, status) for what, status, content in errors if CANARY.search(content)] == []
