"""What a worker can still do once the bytes it decodes have taken it over: nothing to anybody else."""

import os
import platform
import socket
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.workers import sandbox
from app.workers.pool import Workers
from tests.parts import ROOT, need
from tests.workers import tasks as tasks

OFFERED = sandbox.offered()
LANDLOCK, SECCOMP = "landlock" in OFFERED, "seccomp" in OFFERED


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    pool = Workers(1, 1 << 30, 20.0, preload=("tests.workers.tasks",), environment={"A": "b"})
    with closing(pool):
        yield pool


def test_this_kernel_offers_what_the_machines_that_we_know_do():
    """Elsewhere less is expected below, so that what a machine has is tested there."""
    if sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64"):
        assert SECCOMP
    assert set(OFFERED) <= {"landlock", "seccomp"}


@pytest.mark.parametrize("path", [__file__, "/etc/passwd", "/proc/self/environ", "/proc/{}/cmdline"])
def test_it_reads_no_file_but_code(workers, path):
    said = workers.run(tasks.tried, "read", path.format(os.getpid()))
    assert said == ("EACCES" if LANDLOCK else "done")
    assert workers.run(tasks.tried, "read", tasks.socket.__file__) == "done"
    assert workers.run(tasks.tried, "read", sandbox.__file__) == "done"


def test_it_lists_no_folder_but_of_code(workers, tmp_path):
    assert workers.run(tasks.tried, "list", str(tmp_path)) == ("EACCES" if LANDLOCK else "done")
    assert workers.run(tasks.tried, "list", str(ROOT)) == ("EACCES" if LANDLOCK else "done")


def test_a_lake_in_the_working_directory_is_no_code_though_python_looks_for_some_there(tmp_path, monkeypatch):
    """`python -m app` puts it on the path; a virtual environment may lie in the folder of a lake, too."""
    (tmp_path / "lake").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with closing(Workers(1, 1 << 30, 20.0, preload=("tests.workers.tasks",))) as pool:
        for folder in (tmp_path / "lake", sys.prefix):
            assert pool.run(tasks.tried, "list", str(folder)) == ("EACCES" if LANDLOCK else "done")


def test_folders_of_the_path_that_nobody_can_look_at_are_passed_over_as_python_does(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, "/" + 300 * "x"])  # as root, to whom none is forbidden
    with closing(Workers(1, 1 << 30, 20.0, preload=("tests.workers.tasks",))) as pool:
        assert pool.run(tasks.double, 2) == 4


@pytest.mark.parametrize("fault", ["removed", "forbidden"])
def test_workers_begin_in_a_working_directory_that_nobody_can_look_at(tmp_path, monkeypatch, fault):
    """As of a release that was replaced, or where `python -m app` was started as another user."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    if fault == "removed":
        folder.rmdir()
    else:  # to root nothing is, but it cannot look at this either
        (folder / "numpy").symlink_to("x" * 300)
    with closing(Workers(1, 1 << 30, 20.0, preload=("tests.workers.tasks",))) as pool:
        assert pool.run(tasks.double, 2) == 4


@pytest.mark.parametrize("deed", ["write", "truncate", "remove", "rename", "make a folder"])
def test_it_changes_no_file(workers, tmp_path, deed):
    need("a kernel that confines", bool(OFFERED), "run on Linux, on x86_64 or aarch64")
    (tmp_path / "a").write_bytes(b"kept")
    arguments = {"rename": [tmp_path / "a", tmp_path / "b"], "make a folder": [tmp_path / "b"]}
    said = workers.run(tasks.tried, deed, *map(str, arguments.get(deed, [tmp_path / "a"])))
    assert said in ("EACCES", "EPERM", "ENOSYS")
    assert (os.listdir(tmp_path), (tmp_path / "a").read_bytes()) == (["a"], b"kept")


def test_it_reaches_nobody(workers):
    need("a filter of system calls", SECCOMP, "run on Linux, on x86_64 or aarch64")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = [
            workers.run(tasks.tried, deed, *arguments)
            for deed, *arguments in (
                ("connect", port),
                ("send a datagram", port),
                ("speak locally",),
                ("make a pair",),
            )
        ]
        assert said == ["ENOSYS"] * 4
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("execute", "ENOSYS"),
        ("fork", "ENOSYS"),
        ("begin a thread", "can't start new thread"),
        ("leave the session", "ENOSYS"),
        ("lift a limit", "not allowed to raise maximum limit"),
        ("undo", "ENOSYS"),
    ],
)
def test_it_begins_nothing_and_stays_as_it_is(workers, deed, said):
    need("a filter of system calls", SECCOMP, "run on Linux, on x86_64 or aarch64")
    assert workers.run(tasks.tried, deed) == said
    assert workers.run(tasks.double, 2) == 4


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("signal", "EPERM"),
        ("have signalled", "EPERM"),
        ("limit", "EPERM"),
        ("trace", "ENOSYS"),
        ("look into", "ENOSYS"),
    ],
)
def test_it_touches_no_other_process(workers, deed, said):
    need("a filter of system calls", SECCOMP, "run on Linux, on x86_64 or aarch64")
    zygote, _ = workers.run(tasks.parent_and_self)
    assert workers.run(tasks.tried, deed, os.getpid()) == said
    assert workers.run(tasks.tried, deed, zygote) == said


def test_it_sees_nothing_of_the_environment_but_what_was_named(workers):
    seen = workers.run(tasks.environment)
    assert seen.pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"  # Python sets it where there is no locale
    assert seen == {"A": "b", "OPENBLAS_NUM_THREADS": "1"}


def test_numbers_of_system_calls_are_those_of_the_kernel():
    """Worked out from the headers of Linux 6.1: unistd_64.h, and asm-generic/unistd.h for aarch64."""
    assert [sandbox.CALLS[name] for name in ("read", "mmap", "recvfrom", "getrandom", "exit_group")] == [
        (0, 63),
        (9, 222),
        (45, 207),
        (318, 278),
        (231, 94),
    ]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_is_one_the_kernel_would_take(monkeypatch, machine):
    """At most 4,096 instructions, every jump within the program, its last instruction an answer."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    program = sandbox._filter(1)
    assert len(program) <= 4096
    for at, (what, if_so, if_not, _) in enumerate(program):
        assert at + 1 + max(if_so, if_not) < len(program) or what == sandbox.RETURN
    assert program[-1][0] == sandbox.RETURN
