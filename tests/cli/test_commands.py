"""The command line by its facts: what it says, with which exit code, whatever becomes of its output."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from app.cli.commands import cli
from app.cli.context import masked, run
from app.warehouse import open_warehouse
from tests import data
from tests.parts import ROOT, need
from tests.system.e2e.service import until

CT = get_testdata_file("CT_small.dcm")
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in, so that the default lake would be there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def say(here, monkeypatch):
    """Run one command in this process, by its words; returns exit code, stdout and stderr."""

    def run_here(*words):
        result = CliRunner().invoke(cli, words)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout, result.stderr

    return run_here


@pytest.fixture
def lake(say):
    """A lake with one instance and one dead letter."""
    Path("in").mkdir()
    Path("in/ct.dcm").write_bytes(Path(CT).read_bytes())
    Path("in/x.dcm").write_text("just a text")
    assert say("ingest", "in")[0] == 1
    return say


def begin(here, *words, python=(), more_env=(), **more):
    """Start the command as a process of its own; `python` are options of the interpreter."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **dict(more_env)}
    env.pop("PYTHONUNBUFFERED", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    return subprocess.Popen([sys.executable, *python, "-m", "app", *words], cwd=here, env=env, **pipes)


@pytest.mark.parametrize(
    "words",
    [
        ("query", "SELECT 1"),
        ("dlq", "list"),
        ("dlq", "show", "1"),
        ("dlq", "requeue", "1"),
        ("dlq", "requeue", "--all"),
        ("dlq", "purge"),
    ],
)
def test_without_a_lake_reading_says_so_and_makes_none(say, here, words):
    place = here / "lake/lake.db"
    sentence = (
        f"Error: there is no warehouse yet at {place}; run `dicomlake serve` or `dicomlake ingest` first\n"
    )
    assert say(*words) == (2, "", sentence)
    assert list(here.iterdir()) == []


def test_bytes_are_base64_in_a_table_and_in_json(lake):
    sql = "SELECT x'00ff' AS b, x'' AS e, NULL AS n, 'ä' AS t"
    assert json.loads(lake("query", "--json", sql)[1]) == [{"b": "AP8=", "e": "", "n": None, "t": "ä"}]
    assert lake("query", sql)[1].splitlines()[2].split() == ["AP8=", "''", "ä"]


def test_columns_of_one_name_are_both_shown(lake):
    assert lake("query", "--json", "SELECT 1 AS a, 2 AS a")[1] == '[{"a":1,"a_2":2}]\n'


def test_a_result_or_a_value_too_large_is_one_sentence(lake):
    status, said, why = lake("query", ENDLESS.replace("COUNT(*)", "x"))
    assert (status, said) == (1, "")
    assert why == "Error: bad_query: the result is over 256 MiB; add LIMIT, or ask for fewer columns\n"
    assert lake("query", "SELECT zeroblob(1000000000)")[2] == "Error: bad_query: a value is over 256 MiB\n"


def test_dead_letters_are_listed_shown_and_purged(lake):
    (listed,) = [json.loads(line) for line in lake("dlq", "list")[1].splitlines()]
    status, said, _ = lake("dlq", "show", listed["message_id"])
    assert (status, json.loads(said)["attempts"][0]["permanent"]) == (0, True)
    assert '"permanent":true' in said
    assert lake("dlq", "purge") == (0, '{"purged":1}\n', "")
    assert lake("dlq", "list") == (0, "", "")


def test_what_is_requeued_and_fails_again_stays_and_says_why(lake, here):
    (letter,) = map(json.loads, lake("dlq", "list")[1].splitlines())
    status, said, _ = lake("dlq", "requeue", "--all")
    line = json.loads(said)
    assert status == 1
    assert line.pop("do").startswith("put the right file in its place")
    assert line == {
        "message_id": letter["message_id"],
        "object_uri": f"file://{here}/in/x.dcm",
        "status": "dead_lettered",
        "code": "not_dicom",
        "reason": "describe: the bytes are plain text",
    }
    assert len(lake("dlq", "list")[1].splitlines()) == 1
    Path("in/x.dcm").unlink()
    status, said, _ = lake("dlq", "requeue", "--all")
    assert (status, json.loads(said)["status"]) == (0, "superseded")
    assert lake("dlq", "list")[1] == ""


def plant(here, count):
    """Put so many dead letters into the default lake."""
    with closing(open_warehouse(f"sqlite:{here}/lake/lake.db")) as warehouse:
        warehouse.create()
        moment = datetime(2026, 3, 1, tzinfo=UTC)
        rows = [{"message_id": f"m{n}", "publish_time": moment, "data": b""} for n in range(count)]
        warehouse.append("dead_letter", rows)


def test_many_dead_letters_are_purged_without_a_word_where_nobody_looks(say, here):
    plant(here, 250)
    assert say("dlq", "purge") == (0, '{"purged":250}\n', "")


@pytest.mark.parametrize(("count", "shown"), [(250, True), (3, False)])
def test_how_far_a_long_purge_is_can_be_seen_on_a_terminal(here, count, shown):
    plant(here, count)
    reader, terminal = os.openpty()
    process = begin(here, "dlq", "purge", stderr=terminal)
    os.close(terminal)
    assert process.communicate(timeout=60)[0] == f'{{"purged":{count}}}\n'
    seen = b""
    with suppress(OSError):  # as a terminal ends on Linux
        while piece := os.read(reader, 4096):
            seen += piece
    os.close(reader)
    assert (b"purge" in seen and b"100%" in seen) == shown
    assert shown or seen == b""


def on_terminal(here, *words, columns=60):
    """Run the command on a terminal and return its lines as they look in the end: a CR goes back."""
    reader, terminal = os.openpty()
    size = {"COLUMNS": str(columns), "LINES": "24"}
    process = begin(here, *words, stdout=terminal, stderr=terminal, more_env=size)
    os.close(terminal)
    seen = b""
    with suppress(OSError):  # as a terminal ends on Linux
        while piece := os.read(reader, 4096):
            seen += piece
    os.close(reader)
    process.wait(60)
    shown = []
    for line in seen.decode().replace("\r\n", "\n").split("\n"):
        cells = ""
        for part in line.split("\r"):
            cells = part + cells[len(part) :]
        shown.append(cells.rstrip())
    return shown, seen.decode()


@pytest.mark.parametrize("columns", [60, 20])
def test_the_bar_and_the_lines_keep_apart_on_a_terminal(here, columns):
    (here / "in").mkdir()
    for number in range(300):
        (here / f"in/{number:03d}.txt").write_text("no DICOM")
    (*lines, bar, last, end), seen = on_terminal(here, "ingest", "in", columns=columns)
    assert [json.loads(line)["object_uri"] for line in lines] == [
        f"file://{here}/in/{number:03d}.txt" for number in range(300)
    ]
    assert bar == "ingest 100%: 300 of 300"[: columns - 1]
    assert json.loads(last) == {"summary": {"files": 300, "ignored": 300}}
    assert end == ""
    drawn = re.findall(r"ingest [0-9]+%[^\r\n]*", seen)
    assert max(map(len, drawn)) < columns
    assert len(set(drawn)) > 2


def test_the_bar_of_a_requeue_and_its_lines_keep_apart(lake, here):
    plant(here, 150)
    (*lines, bar, end), _ = on_terminal(here, "dlq", "requeue", "--all")
    assert len([json.loads(line) for line in lines]) == 151
    assert (bar, end) == ("requeue 100%: 151 of 151", "")


@pytest.mark.parametrize(
    ("options", "printed"),
    [((), 3), (("--failures",), 1), (("--quiet",), 0), (("--quiet", "--failures"), 1)],
)
def test_ingest_prints_every_line_or_the_failed_ones_or_none(say, options, printed):
    Path("in").mkdir()
    Path("in/a.dcm").write_bytes(Path(CT).read_bytes())
    Path("in/b.txt").write_text("a note")
    Path("in/x.dcm").write_text("just a text")
    status, said, why = say("ingest", *options, "in")
    *lines, last = map(json.loads, said.splitlines())
    assert (status, len(lines), why) == (1, printed, "")
    assert last["summary"] == {
        **{"files": 3, "stored": 1, "ignored": 1, "dead_lettered": 1},
        "codes": {"not_dicom": 1},
        "see": "dicomlake dlq list",
    }
    if printed == 1:
        assert lines[0]["object_uri"].endswith("/in/x.dcm")


def test_quiet_shows_no_bar(here):
    (here / "in").mkdir()
    (here / "in/a.txt").write_text("a note")
    assert on_terminal(here, "ingest", "--quiet", "in")[0] == ['{"summary":{"files":1,"ignored":1}}', ""]


def test_what_is_no_regular_file_is_not_opened(say, here):
    os.mkfifo(here / "pipe")
    for words in (("dump", "pipe"), ("render", "pipe", "-o", "x.png")):
        status, said, why = say(*words)
        assert (status, said) == (2, "")
        assert "pipe is no regular file" in why


def test_untrusted_files_are_read_within_the_limits_of_the_workers(say):
    for words in (("dump", CT), ("render", CT, "-o", "x.png")):
        status, said, why = say("--set", "workers.timeout_s=0.001", *words)
        assert (status, said) == (1, "")
        assert why == "Error: limit_exceeded: took longer than 0.001 s\n"
    assert json.loads(say("dump", CT)[1])["00080060"] == {"vr": "CS", "Value": ["CT"]}
    assert json.loads(say("dump", CT, "--flat")[1])["modality"] == "CT"
    assert say("render", CT, "-o", "x.png") == (0, '{"preview":"x.png"}\n', "")


@pytest.mark.parametrize("words", [("dump",), ("dump", "--flat")])
def test_dump_of_a_file_that_is_cut_off_shows_what_there_is_and_then_the_fault(say, words):
    Path("cut.dcm").write_bytes(Path(CT).read_bytes()[:20_000])
    status, said, why = say(*words, "cut.dcm")
    assert (status, why) == (1, "Error: truncated: the value of 7FE00010 is cut off\n")
    shown = json.loads(said)
    assert (shown["rows"] if "rows" in shown else shown["00280010"]["Value"][0]) == 128
    assert "7FE00010" not in shown


def test_dump_shows_the_items_that_were_read_of_a_sequence_that_is_cut_off(say):
    raw = Path(get_testdata_file("rtplan.dcm")).read_bytes()
    Path("cut.dcm").write_bytes(raw[:2000])
    status, said, why = say("dump", "cut.dcm")
    assert (status, why[:17]) == (1, "Error: truncated:")
    assert json.loads(said)["300A0010"]["Value"][0]["300A0012"] == {"vr": "IS", "Value": [1]}


def test_dump_of_what_would_be_refused_as_not_valid_shows_it_whole(say):
    Path("bad.dcm").write_bytes(data.ct(StudyDate="notadate"))
    assert say("dump", "bad.dcm")[0] == 0
    status, said, why = say("--set", "metadata.strict=true", "dump", "bad.dcm")
    assert (status, why) == (1, "Error: invalid_value: element 00080020 is not valid\n")
    assert json.loads(said)["00080020"] == {"vr": "DA", "Value": ["notadate"]}
    Path("none.dcm").write_text("just a text")
    assert say("dump", "none.dcm")[:2] == (1, "")


def test_the_port_of_the_demo_can_be_chosen(say):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, why = say("demo", "--once", "--port", str(port))
    assert status == 2
    assert why == (
        f"Error: port {port} on 127.0.0.1 is in use; stop what uses it or choose another with --port N"
        " (make demo PORT=N)\n"
    )


def test_make_takes_a_port_too():
    need("make", shutil.which("make") is not None, "install make")
    for target, command in (("demo", "dicomlake demo"), ("run", "dicomlake serve")):
        for given, words in (([], command), (["PORT=9"], f"{command} --port 9")):
            told = subprocess.run(
                ["make", "--no-print-directory", "-n", target, *given],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            assert told.stdout.splitlines()[-1].removeprefix(".venv/bin/").strip() == words


def test_passwords_in_urls_are_shown_nowhere(say):
    url = "mysql://user:pa:ss@wo@host/db?password=secret&sslmode=require"
    status, said, _ = say("--set", f"warehouse.url={url}", "config", "show")
    shown = {line["setting"]: line["value"] for line in map(json.loads, said.splitlines())}
    assert status == 0
    assert shown["warehouse.url"] == "mysql://user:***@host/db?password=***&sslmode=require"
    status, said, why = say("--set", f"warehouse.url={url}", "query", "SELECT 1")
    assert (status, said) == (2, "")
    assert "user:***@host" in why
    assert "secret" not in why


def test_secrets_of_announcements_are_shown_nowhere(say):
    hidden = {"sasl.username": "lake", "sasl.password": "secret", "ssl.key.pem": "secret", "linger.ms": 5}
    given = {
        "urls": ["https://user:secret@host/hook?token=secret", "kafka://host/topic"],
        "dead_letter_urls": ["kafka://host/dlq"],
        "headers": {"Authorization": "Bearer secret"},
        "kafka": hidden,
    }
    words = [
        word for key, value in given.items() for word in ("--set", f"announce.{key}={json.dumps(value)}")
    ]
    status, said, _ = say(*words, "config", "show")
    shown = {line["setting"]: line["value"] for line in map(json.loads, said.splitlines())}
    assert status == 0
    assert "secret" not in re.sub(r"[a-z]+_secret", "", said)
    assert shown["announce.urls"] == ["https://user:***@host/hook?***", "kafka://host/topic"]
    assert shown["announce.headers"] == {"Authorization": "***"}
    assert shown["announce.kafka"] == hidden | {"sasl.password": "***", "ssl.key.pem": "***"}


@pytest.mark.parametrize(
    "url",
    ["gs://bucket/a:b@c", "http://127.0.0.1:8080/a@b", "sqlite:./lake/lake.db", "postgresql://user@host"],
)
def test_a_url_without_a_password_is_shown_as_it_is(url):
    assert masked(url) == url


@pytest.mark.parametrize("words", [("dump", CT), ("--help",), ("config", "show"), ("demo", "--once")])
def test_output_that_cannot_be_written_is_one_sentence(here, words):
    need("/dev/full", Path("/dev/full").exists(), "use Linux")
    with open("/dev/full", "w") as full:
        process = begin(here, *words, stdout=full)
        _, why = process.communicate(timeout=60)
    assert process.returncode == 1
    assert why.splitlines()[-1] == "Error: No space left on device"
    assert "Traceback" not in why


@pytest.mark.parametrize("words", [("dump", CT), ("--help",)])
def test_output_that_nobody_reads_ends_quietly(here, words):
    process = begin(here, *words)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 1


def interrupt(process, after_s=0.0):
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, why = process.communicate(timeout=60)
    assert "Traceback" not in why
    return process.returncode, re.sub(r"^import time:.*", "", why, flags=re.M).split()


@pytest.mark.parametrize("module", ["click", "pydantic", "app.config"])
def test_ctrl_c_during_the_imports_is_quiet(lake, here, module):
    # Python says which import is done. Before our first it is Python itself that dies of the signal.
    process = begin(here, "query", ENDLESS, python=("-X", "importtime"))
    assert any(line.split()[-1] == module for line in process.stderr)
    status, said = interrupt(process)
    assert status == 130
    assert said in ([], ["interrupted"])


def test_ctrl_c_during_a_query_says_interrupted(lake, here):
    process = begin(here, "query", ENDLESS)
    busy = Path(f"/proc/{process.pid}/stat")
    need("/proc", busy.exists(), "use Linux")
    # Field 14 is the time in user mode: two seconds of it are more than the imports take.
    assert until(lambda: int(busy.read_text().rpartition(")")[2].split()[11]) > 200)
    assert interrupt(process) == (130, ["interrupted"])


def test_ctrl_c_while_the_demo_feeds_is_quiet(here):
    process = begin(here, "demo", "--once")
    assert process.stderr.readline().startswith("dropped 19 files")
    assert interrupt(process, 0.5) == (130, ["interrupted"])


def test_a_bug_of_ours_shows_itself(monkeypatch):
    import click

    @click.command()
    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["dicomlake"])
    with pytest.raises(ZeroDivisionError):
        run(broken)


@pytest.mark.parametrize("words", [("serve",), ("demo", "--once")])
def test_a_service_for_anyone_on_all_addresses_is_not_started(here, words):
    process = begin(here, "--set", "api.host=0.0.0.0", "--set", "api.port=0", *words)
    said, why = process.communicate(timeout=60)
    assert (process.returncode, said) == (2, "")
    assert why.count("\n") == 1
    assert why.startswith("Error: api.auth none: anyone who can reach api.host '0.0.0.0' could push; ")
    assert list(here.iterdir()) == []


def test_names_are_shown_beside_tags(say, here):
    item = Dataset()
    item.ScheduledProcedureStepID = "S1"
    item.add_new(0x00090010, "LO", "MAKER")
    raw = data.ct(RequestAttributesSequence=[item])
    Path("x.dcm").write_bytes(raw)
    status, said, _ = say("dump", "x.dcm", "--names")
    named = json.loads(said)
    assert status == 0
    assert named["00080060"] == {"keyword": "Modality", "vr": "CS", "Value": ["CT"]}
    assert list(named["00080060"]) == ["keyword", "vr", "Value"]
    (inner,) = named["00400275"]["Value"]
    assert named["00400275"]["keyword"] == "RequestAttributesSequence"
    assert inner["00400009"] == {"keyword": "ScheduledProcedureStepID", "vr": "SH", "Value": ["S1"]}
    assert inner["00090010"] == {"vr": "LO", "Value": ["MAKER"]}
    assert named["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]


def test_names_are_in_the_columns_anyway(say):
    status, said, why = say("dump", CT, "--names", "--flat")
    assert (status, said) == (2, "")
    assert "leave out --names" in why


def test_dead_letters_are_a_table_in_a_terminal_and_json_lines_in_a_pipe(lake, here):
    (letter,) = [json.loads(line) for line in lake("dlq", "list")[1].splitlines()]
    ours, theirs = pty.openpty()
    termios.tcsetattr(theirs, termios.TCSANOW, [0, 0, *termios.tcgetattr(theirs)[2:]])  # lines as they are
    process = begin(here, "dlq", "list", stdout=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # as Linux ends a terminal
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)
    head, _, line = shown.decode().splitlines()
    assert head.split() == ["message_id", "publish_time", "object_uri", "code", "reason"]
    assert line.split()[0] == letter["message_id"]
    assert line.split()[2:4] == [letter["object_uri"], "not_dicom"]


def test_deidentify_writes_clean_copies_and_checks_them(say):
    Path("in").mkdir()
    Path("in/ct.dcm").write_bytes(Path(CT).read_bytes())
    Path("key").write_text("k" * 40)
    code, out, _ = say("deidentify", "in", "out", "--key-file", "key")
    assert code == 0
    line, summary = map(json.loads, out.splitlines())
    assert (line["source"], line["status"]) == ("ct.dcm", "clean")
    assert summary == {"summary": {"files": 1, "clean": 1}}
    code, out, _ = say("deidentify", "--check", "out", "--quiet")
    assert code == 0
    assert json.loads(out)["summary"]["clean"] == 1
    code, out, _ = say("deidentify", "--check", "in")
    assert code == 1
    assert json.loads(out.splitlines()[0])["status"] == "left"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("deidentify", ".", "out"), "there is no key"),
        (("deidentify", "."), "name SOURCE and TARGET"),
        (("deidentify", ".", "out", "--check", "."), "name SOURCE and TARGET"),
        (("--set", "deidentify.key=short", "deidentify", ".", "out"), "fewer than 32 bytes"),
        (("deidentify", "--check", ".", "--profile", "nobody"), "nobody is no profile"),
    ],
)
def test_deidentify_says_what_is_missing(say, words, text):
    code, _, err = say(*words)
    assert code == 2
    assert text in err
    assert not Path("out").exists()


def test_the_key_of_deidentification_is_masked(say):
    _, out, _ = say("--set", "deidentify.key=" + "k" * 40, "config", "show")
    (line,) = (json.loads(line) for line in out.splitlines() if '"deidentify.key"' in line)
    assert line["value"] == "***"


@pytest.mark.parametrize(
    ("words", "life_s"),
    [
        (("--subject", "ann", "--expires", "8h"), 8 * 3600),
        (("--subject", "ann", "--expires", "30d"), 30 * 86400),
        (("--name", "ann", "--days", "2"), 2 * 86400),
        (("--name", "ann"), 90 * 86400),
    ],
)
def test_a_token_is_for_somebody_and_some_time(say, words, life_s):
    key = "k" * 32
    status, said, _ = say("--set", f"api.users_key={key}", "token", "--role", "user", *words)
    assert status == 0
    claims = jwt.decode(said.strip(), key, algorithms=["HS256"])
    assert (claims["sub"], claims["role"], claims["exp"] - claims["iat"]) == ("ann", "user", life_s)


@pytest.mark.parametrize("given", ["8", "0h", "8 weeks", "-1d", "4000d"])
def test_a_time_that_no_token_has_is_refused(say, given):
    status, _, why = say("--set", f"api.users_key={'k' * 32}", "token", "--subject", "a", "--expires", given)
    assert status == 2
    assert "hours or days, such as 8h or 30d" in why


def test_a_lake_without_jobs_says_so(lake):
    assert lake("status") == (0, "", "there is no job yet\n")
    assert lake("status", "--json") == (0, "", "there is no job yet\n")
