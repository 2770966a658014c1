"""No value of a data set leaves by a log line, an error body, a metric, a failure, a dead letter or a name.

Every element of many files holds a canary (canaries.py). The real service and commands get them; where no
bytes make it fail, its seams do (canary_seams.py). All that comes out is searched.
Which errors there are is read from the error tree and the source: a new one fails here until it has a case.
"""

import ast
import base64
import importlib
import json
import pkgutil
import re
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pytest

import app
from app.dicom.pixels.preview_error import PreviewError
from app.model.errors import DicomlakeError
from tests import pushes
from tests.parts import ROOT
from tests.system.e2e.canaries import (
    KEPT,
    NO_BUS,
    NUMBER,
    REFUSED,
    WHOLE,
    WORD,
    check_lines,
    data_sets,
    files,
    large,
    leaks,
    tight,
)
from tests.system.e2e.canary_service import CanaryService, Said
from tests.system.e2e.service import Service, until

CANARY = WORD.decode()
INJECTED = {
    "DicomlakeError": "the root: everything raised is below it",
    "PermanentError": "a branch: everything raised is below it",
    "TransientError": "no worker process can be forked",
    "Unrenderable": "raised with a code of PreviewError, or as DecodeFailed",
    "CannotDeidentify": "a lake with a profile: tests/system/e2e/test_deidentify.py",
    "AnnounceUnavailable": "a target of announcements is down",
    "DeadlineExceeded": "a delivery of nine minutes",
    "Overloaded": "the memory of all objects in hand is used up",
}
"""Errors that no bytes, request or command can make, so a seam raises them; and what would."""
SEAMS = [
    *(f"raise@fetch@{name}@.dcm" for name in INJECTED),
    *("raise@fetch@ValueError@.dcm", "raise@write@KeyError@.dcm", "raise@append_instances@OSError@.dcm"),
    *("raise@append_failures@ValueError@.dcm", "raise@dead_letter@ValueError@.dcm"),
    *(f"raise@worker@{kind}@.dcm" for kind in ("ValueError", "MemoryError", "SystemExit", "abort", "sleep")),
    "raise@ack@ValueError@.dcm",
]
LAST = "raise@publish@ValueError@.dcm"
"""It holds up what watches the folder, from then on."""
TRIGGERS = f"""
CREATE TRIGGER refused BEFORE INSERT ON instances WHEN NEW.study_description = '{REFUSED}'
BEGIN SELECT RAISE(ABORT, '{CANARY}'); END;
CREATE TRIGGER full BEFORE INSERT ON queue WHEN NEW.topic = 'dead_letter' AND NEW.attributes LIKE '%{NO_BUS}%'
BEGIN SELECT RAISE(ABORT, '{CANARY}'); END;
CREATE TRIGGER kept BEFORE DELETE ON dead_letter WHEN OLD.attributes LIKE '%{KEPT}%'
BEGIN SELECT RAISE(ABORT, '{CANARY}'); END;
"""
PROMPT = {
    "delivery__permanent_attempts": 1,
    "delivery__max_attempts": 2,
    "delivery__backoff_min_s": 0.1,
    # What was committed together with what the triggers refuse comes again when its lease ends.
    "delivery__deadline_s": 8,
    "delivery__ack_deadline_s": 10,
    "delivery__backoff_max_s": 0.1,
    "workers__memory_bytes": 160 << 20,
    "workers__timeout_s": 2,
    "workers__count": 2,
    "log__level": "debug",
}
TOKEN = {"aud": "https://dicomlake.example", "email": "push@p.example", "email_verified": True}
LOGS = ("json", "text", "json")
GUARDED = {
    "api__auth": "iam",
    "api__audience": TOKEN["aud"],
    "api__service_accounts": '["push@p.example"]',
    "delivery__min_free_bytes": 1 << 60,
}


HEAD = b"POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"


def requests():
    """Yield requests that are none, or whose events are none; the file itself in every place of them."""
    length = b"content-length: %d\r\n\r\n" % len(WHOLE)
    message = {"data": CANARY, "attributes": {"eventType": CANARY, "bucketId": CANARY}, "messageId": "1"}
    event = json.dumps({"message": message, "subscription": CANARY}).encode()
    yield WHOLE
    yield b"GET /" + WORD + b"\xff HTTP/1.1\r\n\r\n"
    yield b"GET http://[" + WORD + b" HTTP/1.1\r\nhost: x\r\n\r\n"
    yield HEAD + b"x: " + WORD + b"\0\r\n\r\n"
    yield HEAD + b"transfer-encoding: chunked\r\n\r\n" + WHOLE
    yield HEAD + length + WHOLE
    yield HEAD + b"content-encoding: gzip\r\n" + length + WHOLE
    yield HEAD + b"content-length: 99999999\r\n\r\n" + WHOLE
    yield HEAD + (b"x: " + WORD + b"\r\n") * 300 + length + WHOLE
    yield HEAD + b"content-length: %d\r\n\r\n" % len(event) + event


def look_up(said, service):
    """Ask for what is not there, cannot be searched by, or is had in no such form."""
    study = f"{service.url}/dicomweb/studies"
    for query in ("limit=" + CANARY, "StudyDate=" + CANARY, CANARY + "=1", f"PatientName={CANARY}%00"):
        said.add("search", httpx.get(f"{study}?{query}").content)
        said.add("search", httpx.get(f"{service.url}/search?{query}").content)
    said.add("form", httpx.get(study, headers={"accept": "image/" + CANARY}).content)
    said.add("instance", httpx.get(f"{study}/{CANARY}/series/1/instances/1/metadata").content)


def run_all(said, lake):
    """Every file, every seam and every bad request, to a lenient service that logs JSON."""
    with_all = files() | {"document_too_large.dcm": large()}
    service = said.running.enter_context(CanaryService(lake, **PROMPT, log__format="json"))
    with closing(sqlite3.connect(lake / "lake.db", timeout=30)) as database:
        database.executescript(TRIGGERS)
    (lake / "output/metadata").mkdir(parents=True)
    (lake / "output/metadata/blocked").write_bytes(b"")
    names = [*with_all, *SEAMS, "blocked/x.dcm"]
    for name in names:
        service.drop(name, with_all.get(name, WHOLE))
    sql = "SELECT object_uri FROM instances UNION SELECT object_uri FROM dead_letters"
    assert until(lambda: len(service.rows(sql)) >= len(names) - 1, 120), service.rows(sql)
    again = [name for name in SEAMS if "worker" not in name]
    paths = [service.landing / name for name in (*again, "text.dcm", "refused.dcm", "mixed.zip", NO_BUS)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: service.answers(said, path), paths))
    whole = service.landing / "whole.dcm"
    for change in ({"size": "9"}, {"generation": "17"}):
        push = pushes.wrapped(whole)
        resource = pushes.resource(whole) | change
        push["message"]["attributes"]["objectGeneration"] = resource["generation"]
        push["message"]["data"] = base64.b64encode(json.dumps(resource).encode()).decode()
        said.add("answer", httpx.post(service.url, json=push).content)
    for request in requests():
        service.send(said, request)
    look_up(said, service)
    service.break_off(HEAD + b"content-length: 9999\r\n\r\n" + WHOLE)
    service.drop(LAST, WHOLE)
    assert until(lambda: b"watching is held up" in service.log.read_bytes())
    service.keep(said)
    service.end(said)
    return service


def run_tight(said, lake):
    """What is over a limit or not valid, to a strict service that logs text."""
    with_all, limits = tight()
    service = said.running.enter_context(CanaryService(lake, **PROMPT, **limits, log__format="text"))
    for name, content in with_all.items():
        service.drop(name, content)
    sql = "SELECT object_uri FROM instances UNION SELECT object_uri FROM dead_letters"
    assert until(lambda: len(service.rows(sql)) == len(with_all)), service.log.read_text()[-3000:]
    service.keep(said)
    service.end(said)


def run_guarded(said, lake):
    """Pushes without a token, with one for another service, and with a good one to a disk that is full."""
    service = said.running.enter_context(CanaryService(lake, **PROMPT, **GUARDED))
    path = service.drop("whole.dcm", WHOLE)
    now = int(time.time())
    claims = TOKEN | {"iss": "https://accounts.google.com", "iat": now, "exp": now + 600}
    for wrong in ({"aud": CANARY}, {"iss": CANARY}, {"email": CANARY}, {"iat": CANARY}, {}):
        payload = base64.urlsafe_b64encode(json.dumps(claims | wrong).encode()).decode()
        headers = {"authorization": f"Bearer x.{payload}.x"}
        said.add("answer", httpx.post(service.url, json=pushes.wrapped(path), headers=headers).content)
    said.add("answer", httpx.post(service.url, headers={"authorization": f"Bearer {CANARY}"}).content)
    service.end(said)


def commands(folder):
    """Yield commands that fail, or tell how others did."""
    yield "dump", str(folder / "mistaken.dcm")
    yield "--set", "metadata.strict=true", "dump", str(folder / "whole.dcm")
    yield "render", str(folder / "whole.dcm"), "-o", str(folder / "x.png"), "--frame", "7"
    yield "render", str(folder / "whole.dcm"), "-o", str(folder / "x.png"), "--window", "1.2.3,4"
    yield "render", str(folder / "unsupported_photometric.dcm"), "-o", str(folder / "x.gif")
    yield "query", "SELECT patient_name -> patient_name FROM instances"
    yield "query", "SELECT nothing FROM instances"
    yield "dlq", "show", "4711"
    yield "dlq", "list"
    yield "dlq", "purge"
    yield "--set", "api.port=many", "config", "check"
    yield "--set", f"deidentify.key={'k' * 40}", "deidentify", str(folder), str(folder.with_name("clean"))
    yield "deidentify", "--check", str(folder)


def run_commands(said, lake, service, folder):
    """The commands on the lake that the service has left, and an `ingest` into another."""
    folder.mkdir()
    for name, content in files().items():
        (folder / name).write_bytes(content)
    other = Service(lake, log__level="debug")
    some = [str(folder / f"{name}.dcm") for name in data_sets()]
    (folder / "two\nlines.dcm").write_bytes(content)
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda words: (words, service.run(*words)), commands(folder)))
    changing = (("ingest", *some, str(folder / "two\nlines.dcm")), ("dlq", "requeue", "--all"))
    ended += [(words, other.run(*words)) for words in changing]
    folder.rename(folder.with_name("gone"))
    prune = "ingest", "--prune", str(folder)
    ended += [(words, other.run(*words)) for words in (prune, (*prune, "--yes"))]
    for words, result in ended:
        asked = {"dump", "query"} & set(words)  # what they print is what was asked for
        shown = re.sub(r'"modality":"[^"]*"', "", result.stdout)  # which `ingest` tells of what it has stored
        said.add(" ".join(words[:2]), result.stderr + ("" if asked else shown))
        said.codes |= {"config"} if result.returncode == 2 and "api.port" in result.stderr else set()


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    found, folder = Said(), tmp_path_factory.mktemp("canaries")
    with found.running:
        service = run_all(found, folder / "all")
        run_tight(found, folder / "tight")
        run_guarded(found, folder / "guarded")
        run_commands(found, folder / "other", service, folder / "files")
    return found


def tree():
    """Return the codes of the error classes of all modules, those given in the source, and of previews."""
    for module in pkgutil.walk_packages(app.__path__, "app."):
        importlib.import_module(module.name)
    codes, kinds = {str(code) for code in PreviewError}, [DicomlakeError]
    while kinds:
        kind = kinds.pop()
        codes.add(kind.code)
        kinds += kind.__subclasses__()
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg in ("code", "fault"):
                values = [one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)]
                codes |= {value for value in values if isinstance(value, str) and value}
    return codes


pytestmark = pytest.mark.xdist_group("canaries")


def test_no_value_of_a_data_set_leaves(said):
    assert leaks(said.texts) == []
    assert said.left == [], "what a worker or a decoder has put aside"


def test_every_error_there_is_was_made_to_happen(said):
    unreachable = {"bad_window", "bad_viewport"}  # settings refuse such a window before any data set is read
    # A browser's answer says `not_found` instead; and the members of one version of an archive never change.
    unreachable |= {"no_such_value", "no_such_member"}
    unreachable |= {"not_allowed", "uploads_off"}  # this service lets everybody do everything
    unreachable |= {"orthanc_unavailable", "orthanc_damaged"}  # no Orthanc is there
    unreachable |= {"forward_refused", "forward_unavailable"}  # no receiver; see test_forward.py
    unreachable |= {"object_released"}  # nothing is old enough for retention
    assert sorted(tree() - said.codes) == sorted(unreachable)


def test_the_canaries_were_where_they_belong(said):
    assert len(leaks({"rows": said.rows})) > 1000
    assert str(NUMBER).encode() in said.rows


def test_nothing_but_lines_of_the_log_is_on_stderr(said):
    logs = [text for where, text in said.texts.items() if where.endswith(" log")]
    assert [check_lines(text, form) - {"DEBUG", "INFO"} for text, form in zip(logs, LOGS, strict=True)] == [
        {"WARNING", "ERROR", "CRITICAL"},
        {"ERROR", "CRITICAL"},
        {"WARNING", "ERROR", "CRITICAL"},
    ]
