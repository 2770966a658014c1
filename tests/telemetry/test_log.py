"""What reaches a log line, and what cannot."""

import asyncio
import gc
import io
import json
import logging
import subprocess
import sys
import threading
import time
import warnings
from contextlib import redirect_stderr
from contextvars import copy_context

import pytest

from app.model.errors import ConfigError, StorageUnavailable
from app.telemetry.log import ALLOWED, Repeats, bind, configure
from app.telemetry.trace import trace_fields
from tests.parts import ROOT
from tests.processes import wait_until

log = logging.getLogger("dicomlake")


@pytest.fixture
def lines():
    """Configure logging onto a buffer; call with a format, then read the lines."""
    buffer = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def start(format="json", level="info"):
        root.handlers[:] = [one for one in root.handlers if one not in handlers]
        with redirect_stderr(buffer):
            configure(level, format)
        return lambda: buffer.getvalue().splitlines()

    yield start
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def test_a_line_is_json_in_the_field_names_of_cloud_logging(lines):
    read = lines()
    log.info("ingested", extra={"status": "stored", "took_s": 0.4, "generation": 17})
    line = json.loads(read()[0])
    assert line.pop("time").endswith("Z")
    assert line == {
        "severity": "INFO",
        "message": "ingested",
        "status": "stored",
        "took_s": 0.4,
        "generation": 17,
    }


def flood(count):
    for _ in range(count):
        log.warning("refused", extra={"code": "too_many_connections", "http_status": 503})
        logging.getLogger("uvicorn.error").warning("Invalid %s request.", "HTTP")


def test_lines_that_are_equal_but_for_their_time_are_folded_and_counted(lines):
    read, begin = lines(), time.monotonic()
    flood(500)
    log.warning("refused", extra={"code": "bad_request", "http_status": 400})
    assert wait_until(lambda: sum(json.loads(line).get("count", 1) for line in read()) == 1001)
    written = [json.loads(line) for line in read()]
    assert len(written) <= 3 + 2 * (1 + time.monotonic() - begin)
    assert [line.get("code") for line in written[:3]] == ["too_many_connections", None, "bad_request"]
    assert not [line for line in written[:3] if "count" in line]
    by_text = {line["message"]: 0 for line in written}
    for line in written:
        by_text[line["message"]] += line.get("count", 1)
    assert by_text == {"refused": 501, "Invalid %s request.": 500}


def test_lines_of_different_traces_are_folded_too_for_senders_choose_them(lines):
    read = lines()
    for number in range(1, 100):
        with bind(**trace_fields(f"00-{number:032x}-{number:016x}-01", "", "")):
            log.warning("refused", extra={"code": "unauthorized"})
    assert len(read()) < 50


def test_the_next_configuration_and_the_end_of_the_process_lose_no_count(lines):
    read = lines()
    flood(2)
    lines()
    assert [json.loads(line).get("count") for line in read()] == [None, None, 1, 1]
    program = (
        "import logging; from app.telemetry.log import configure; configure('info', 'text');"
        "[logging.getLogger('app').info('x') for _ in range(3)]"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [line.split("INFO")[1].split() for line in ended.stderr.splitlines()] == [["x"], ["x", "count=2"]]


def test_lines_with_a_count_of_their_own_are_all_written(lines):
    read = lines()
    for _ in range(3):
        log.info("passed over", extra={"count": 7})
    assert [json.loads(line)["count"] for line in read()] == [7, 7, 7]


def test_what_is_remembered_of_lines_is_bounded():
    repeats = Repeats()
    for number in range(100_000):
        assert repeats.is_first(f"{number}", {}, now=5.0)
    assert len(repeats) <= 1000


def test_of_equal_lines_the_first_is_written_and_the_others_once_a_second():
    repeats = Repeats()
    assert repeats.is_first("a", {"n": 1}, now=5.0)
    assert not repeats.is_first("a", {"n": 2}, now=5.1)
    assert not repeats.is_first("a", {"n": 3}, now=5.9)
    assert repeats.is_first("b", {"n": 4}, now=5.9)
    assert list(repeats.due(now=5.99)) == []
    assert list(repeats.due(now=6.0)) == [({"n": 3}, 2)]
    assert not repeats.is_first("a", {"n": 5}, now=6.5)  # it goes on
    assert repeats.is_first("b", {"n": 6}, now=6.5)
    assert list(repeats.due(now=7.0)) == [({"n": 5}, 1)]
    assert list(repeats.due(now=8.0)) == []
    assert repeats.is_first("a", {"n": 7}, now=8.0)


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_key_that_is_not_allowed_is_dropped(lines, format):
    read = lines(format)
    log.info("x", extra={"patient_name": "DOE^JANE", "row": {"a": "DOE^JANE"}, "code": "bad_event"})
    assert "DOE" not in read()[0]
    assert "bad_event" in read()[0]


@pytest.mark.parametrize("format", ["json", "text"])
@pytest.mark.parametrize(
    "name",
    ["a\nINFO forged", "a\r\nb", "a\x1b[31mb", "a\x7fb", "a\x85b", "a\u2028b", "x\u202emcd.exe", "s\ud800"],
)
def test_an_object_name_cannot_forge_a_line(lines, format, name):
    read = lines(format)
    log.info("ingested", extra={"object": name})
    assert len(read()) == 1
    assert all(" " <= character <= "~" for character in read()[0])


def test_text_quotes_a_value_that_looks_like_another_key(lines):
    read = lines("text")
    log.info("ingested", extra={"object": "a status=stored", "code": "ok"})
    assert read()[0].endswith(' ingested code=ok object="a status=stored"')


def test_json_gives_the_name_back_unchanged(lines):
    read = lines()
    log.info("x", extra={"object": "Müller\n🩻.dcm"})
    assert json.loads(read()[0])["object"] == "Müller\n🩻.dcm"


def test_a_foreign_exception_shows_its_class_but_not_its_text(lines):
    read = lines()
    try:
        try:
            raise ValueError("value DOE^JANE is not valid")
        except ValueError as exc:
            raise RuntimeError("DOE^JANE") from exc
    except RuntimeError:
        log.exception("failed")
    assert "DOE" not in read()[0]
    assert json.loads(read()[0])["error"] == "RuntimeError < ValueError"


def test_our_error_shows_its_text_and_the_place_in_our_code(lines):
    read = lines()
    try:
        configure("loud", "json")
    except ConfigError:
        log.exception("stopped")
    line = json.loads(read()[0])
    assert line["error"] == "ConfigError"
    assert line["reason"] == "log.level: is none of debug, info, warning, error, critical"
    assert line["at"].startswith("app/telemetry/log.py:")
    assert "test_log" not in line["at"]


def test_an_exception_as_message_or_argument_keeps_its_text_to_itself(lines):
    read = lines()
    log.error(ValueError("DOE^JANE"))
    log.error("failed: %s", ValueError("DOE^JANE"))
    assert [json.loads(line)["message"] for line in read()] == ["ValueError", "failed: %s"]


def test_an_argument_that_does_not_fit_costs_only_itself(lines):
    read = lines()
    log.info("%d files", "many")
    assert json.loads(read()[0])["message"] == "%d files"


def test_other_libraries_keep_their_arguments_to_themselves(lines):
    read = lines()
    logging.getLogger("library").warning("cannot read %s", "DOE^JANE", extra={"object": "DOE^JANE"})
    logging.getLogger("library").info("quiet")
    (line,) = map(json.loads, read())
    line.pop("time")
    assert line == {"severity": "WARNING", "message": "cannot read %s", "logger": "library"}


def test_of_what_another_library_has_put_together_only_the_first_line_is_told(lines):
    async def forget():
        asyncio.get_running_loop().create_future().set_exception(ValueError("DOE^JANE"))

    read = lines()
    asyncio.run(forget())
    gc.collect()
    logging.getLogger("uvicorn.error").error(
        "Traceback (most recent call last):\n  ...\nValueError: DOE^JANE"
    )
    assert [json.loads(line)["message"] for line in read()] == [
        "Future exception was never retrieved",
        "Traceback (most recent call last):",
    ]


UNFORESEEN = """
import sys, threading
from app.cli import commands as cli; from app.telemetry import log

class Failing:
    def __del__(self):
        raise ValueError("DOE^JANE")

def fail():
    raise ValueError("DOE^JANE")

@cli.cli.command()
def broken():
    {}
    thread = threading.Thread(target=fail, name="DOE^JANE")
    thread.start()
    thread.join()
    threading.Thread(target=exit).start()
    Failing()
    fail()

sys.argv[1:] = ["broken"]
cli.main()
"""


@pytest.mark.parametrize("before", ["log.configure('critical', 'text')", "pass"])
def test_an_error_that_nobody_catches_ends_as_a_line_without_its_text(before):
    program = [sys.executable, "-c", UNFORESEEN.format(before)]
    ended = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 1
    assert "DOE" not in ended.stderr + ended.stdout
    lines = ended.stderr.splitlines()
    assert [" CRITICAL unforeseen error=ValueError at=" in line for line in lines] == [True] * 3
    assert "app/cli/commands.py:" in lines[-1]


def test_pydicom_and_warnings_are_silent(lines, capfd):
    read = lines("text", "debug")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning("DOE^JANE", UserWarning, "file.py", 1)
    assert capfd.readouterr().err == ""
    logging.getLogger("pydicom").critical("value DOE^JANE")
    logging.getLogger("pydicom.charset").error("value DOE^JANE")
    logging.getLogger("python_multipart.multipart").warning(
        "Expected boundary character 45, got 68 at index 2"
    )
    assert read() == []


def test_bound_ids_are_on_every_line_inside_and_on_none_after(lines):
    read = lines()
    with bind(message_id="7", correlation_id="c"):
        log.info("one")
        with bind(object="a.dcm"):
            log.info("two")
    log.info("three")
    one, two, three = map(json.loads, read())
    assert (one["message_id"], one["correlation_id"]) == ("7", "c")
    assert (two["message_id"], two["object"]) == ("7", "a.dcm")
    assert "message_id" not in three


def test_bound_ids_follow_a_copied_context_and_do_not_mix_between_threads(lines):
    read = lines()
    with bind(message_id="1"):
        inside = threading.Thread(target=copy_context().run, args=(log.info, "inside"))
        outside = threading.Thread(target=log.info, args=("outside",))
        for thread in (inside, outside):
            thread.start()
            thread.join()
    inside_line, outside_line = map(json.loads, read())
    assert inside_line["message_id"] == "1"
    assert "message_id" not in outside_line


def test_a_level_hides_what_is_below_it(lines):
    read = lines(level="WARNING")
    log.info("quiet")
    logging.getLogger("app.bus.local.bus").warning("loud", extra={"code": "x"})
    assert [json.loads(line)["code"] for line in read()] == ["x"]


def test_configuring_twice_does_not_double_lines(lines):
    lines()
    read = lines("text")
    log.info("once")
    assert len(read()) == 1


@pytest.mark.parametrize(("level", "format"), [("loud", "json"), ("info", "xml"), ("", "json")])
def test_a_wrong_setting_is_named(level, format):
    with pytest.raises(ConfigError, match=r"^log\."):
        configure(level, format)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**63, b"bytes", {"a": 1}, ["DOE"]])
def test_a_value_that_is_no_json_scalar_shows_only_its_type(lines, value):
    read = lines()
    log.info("x", extra={"code": value})
    assert json.loads(read()[0])["code"] == type(value).__name__


def test_a_long_value_is_cut(lines):
    read = lines()
    log.info("x", extra={"object": "a" * 100_000})
    assert json.loads(read()[0])["object"] == "a" * 2048


def test_a_transient_error_of_ours_names_the_class_of_its_cause(lines):
    read = lines()
    cause = OSError("secret")
    try:
        raise StorageUnavailable("ServiceUnavailable") from cause
    except StorageUnavailable as error:
        log.warning("failed", exc_info=error)
    line = json.loads(read()[0])
    assert (line["error"], line["reason"]) == ("StorageUnavailable < OSError", "ServiceUnavailable")


def test_no_allowed_key_is_a_field_that_logging_itself_uses():
    record = logging.LogRecord("n", logging.INFO, "p", 1, "m", None, None)
    assert not ALLOWED & record.__dict__.keys()
    assert not ALLOWED & {"time", "severity", "message", "logger", "error", "reason", "at"}


def test_an_integer_too_long_to_print_does_not_lose_the_line(lines):
    read = lines("text")
    log.info("x", extra={"attempt": 10**5000})
    assert read()[0].endswith(" x attempt=int")
