"""A worker holds only what it needs, may do only what it must, and never outlives the server."""

import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.model import values
from app.model.errors import InternalError, LimitExceeded, WorkerCrashed
from app.workers.pool import Workers
from tests.parts import ROOT, need
from tests.processes import PATIENCE_S, alive, children, wait_until
from tests.workers import tasks as tasks

MIB = 1 << 20


@pytest.fixture
def workers() -> Iterator[Workers]:
    with closing(Workers(1, 64 * MIB, 20.0, preload=("numpy", "imagecodecs", "tests.workers.tasks"))) as pool:
        yield pool


def test_our_bug_names_class_and_place_but_no_value(workers):
    with pytest.raises(InternalError, match=r"^AttributeError at app/model/values\.py:\d+$"):
        workers.run(values.Content.open, "DOE^JANE")
    with pytest.raises(InternalError, match=r"^ValueError at app/workers/zygote\.py:\d+$"):
        workers.run(tasks.quote, "DOE^JANE")


def test_panic_of_a_codec_is_a_crash_without_its_text(workers):
    with pytest.raises(WorkerCrashed, match=r"^PanicException$"):
        workers.run(tasks.panic)


def test_result_that_cannot_be_pickled_is_our_bug(workers):
    with pytest.raises(InternalError, match=r"^TypeError at "):
        workers.run(tasks.make_unpicklable)
    assert workers.run(tasks.double, 1) == 2


def test_function_that_a_worker_cannot_import_is_our_bug(workers, monkeypatch):
    monkeypatch.setattr(tasks, "born_late", lambda: 1, raising=False)
    tasks.born_late.__module__, tasks.born_late.__qualname__ = "tests.workers.tasks", "born_late"
    with pytest.raises(InternalError, match=r"^AttributeError at "):
        workers.run(tasks.born_late)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param((tasks.hold, 500 * MIB), id="one large block"),
        pytest.param((tasks.hold_many_small,), id="many small ones"),
        pytest.param((tasks.hold_in_pure_step,), id="within permanent()"),
        pytest.param((tasks.repeat, 40 * MIB), id="a result that does not fit beside its pickle"),
        pytest.param((tasks.measure, b"x" * (100 * MIB)), id="a task that does not fit"),
    ],
)
def test_memory_hit_fails_its_task_and_the_next_works(workers, task):
    need("a limit on address space", sys.platform == "linux", "run on Linux")
    with pytest.raises(LimitExceeded, match=r"^out of memory$"):
        workers.run(*task)
    assert workers.run(tasks.hold, 20 * MIB) == 20971520


SCRIPT = """
import operator, os, sys, threading, time
from app.workers.pool import Workers
print("main")
workers = Workers(2, 1 << 26, 300.0, preload=())
print(workers.run(operator.mul, 6, 7))
if "hang" in sys.argv:
    workers.warm()
    threading.Thread(target=workers.run, args=(time.sleep, 300)).start()
    print(workers.run(os.getpid), workers.run(os.getppid), flush=True)
    time.sleep(300)
workers.close()
"""


def start_script(arguments: list[str], **options: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize("way", ["stdin", "text", "file", "module"])
def test_main_module_runs_once_however_it_was_started(way, tmp_path):
    (tmp_path / "unguarded.py").write_text(SCRIPT)
    arguments = {
        "stdin": ["-"],
        "text": ["-c", SCRIPT],
        "file": ["unguarded.py"],
        "module": ["-m", "unguarded"],
    }
    with start_script(arguments[way], stdin=subprocess.PIPE, cwd=tmp_path) as script:
        output, _ = script.communicate(SCRIPT, timeout=PATIENCE_S)
    assert output == "main\n42\n"


def test_no_process_outlives_a_killed_server():
    with start_script(["-c", SCRIPT, "hang"]) as script:
        assert script.stdout is not None
        line = [script.stdout.readline() for _ in range(3)][-1]
        worker, zygote = [int(word) for word in line.split()]
        pids = {worker, zygote, *children(zygote)}
        assert all(alive(pid) for pid in pids)
        script.kill()
    assert wait_until(lambda: not any(alive(pid) for pid in pids))


def test_worker_has_the_libraries_but_nothing_of_the_server(workers):
    state = workers.run(tasks.state)
    assert state["server"] == []
    assert state["core"] == 0
    assert state["sigint"] == signal.SIG_IGN
    assert state["sigterm"] == signal.SIG_DFL


def test_no_thread_of_a_library_is_there_to_be_lost_in_a_fork(workers):
    need("a list of threads", Path("/proc/self/task").exists(), "run on Linux")
    zygote, worker = workers.run(tasks.parent_and_self)
    assert len(list(Path(f"/proc/{zygote}/task").iterdir())) == 1
    assert len(list(Path(f"/proc/{worker}/task").iterdir())) == 1


def test_worker_keeps_the_memory_of_a_picture_for_the_next(workers):
    need("glibc", platform.libc_ver()[0] == "glibc", "run on a Linux of that library")
    assert workers.run(tasks.pages_faulted_in, 8 * MIB, 50) < 8 * MIB / resource.getpagesize()


def test_worker_prints_nothing(workers, capfd):
    workers.run(tasks.print_everywhere)
    assert capfd.readouterr() == ("", "")
