"""A task's crash, hang or memory hit is its own; every caller gets its own answer; nothing is left behind."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.model.errors import LimitExceeded, Overloaded, TransientError, Unrenderable, WorkerCrashed
from app.workers.pool import Workers
from app.workers.worker import Limits
from tests.parts import need
from tests.processes import PATIENCE_S, alive, children, wait_until
from tests.workers import tasks as tasks

MIB = 1 << 20


@pytest.fixture
def pool() -> Iterator[Callable[..., Workers]]:
    opened: list[Workers] = []

    def open_pool(count: int = 1, timeout_s: float = 20.0, **more: object) -> Workers:
        options: dict[str, object] = {"memory_bytes": 64 * MIB, "preload": ("tests.workers.tasks",), **more}
        opened.append(Workers(count, timeout_s=timeout_s, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open_pool
    for workers in opened:
        workers.close()


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def test_result_comes_back(pool):
    assert pool().run(tasks.double, 21) == 42


def test_large_bytes_go_and_come_whole(pool):
    workers = pool(memory_bytes=256 * MIB)
    data = bytes(range(256)) * (30 * MIB // 256)
    assert workers.run(tasks.measure, data) == (31457280, 6)
    assert workers.run(bytes.upper, b"a" * 20_000_000) == b"A" * 20_000_000


def test_answer_that_the_server_should_not_hold_is_not_read(pool):
    workers = pool(memory_bytes=2 << 30)
    with pytest.raises(WorkerCrashed):
        workers.run(bytes, 257 * MIB)
    assert workers.run(tasks.double, 4) == 8


def test_error_of_the_task_comes_unchanged(pool):
    with pytest.raises(Unrenderable, match=r"^no pixel data$") as caught:
        pool().run(tasks.refuse)
    assert caught.value.code == "no_pixel_data"


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGKILL"])
def test_crash_names_the_signal_and_the_next_task_works(pool, name):
    workers = pool()
    with pytest.raises(WorkerCrashed, match=f"^the worker died: {name}$"):
        workers.run(tasks.signal_self, signal.Signals[name])
    assert workers.run(tasks.double, 2) == 4


def test_null_pointer_in_c_is_a_crash(pool):
    with pytest.raises(WorkerCrashed, match="SIGSEGV"):
        pool().run(ctypes.string_at, 0)


def test_exit_within_a_task_is_a_crash(pool):
    workers = pool()
    with pytest.raises(WorkerCrashed, match=r"^the worker died: exit code 0$"):
        workers.run(os._exit, 0)
    with pytest.raises(WorkerCrashed, match=r"^SystemExit$"):
        workers.run(sys.exit, 0)
    assert workers.run(tasks.double, 3) == 6


def test_worker_terminated_by_an_operator_is_transient(pool):
    with pytest.raises(TransientError):
        pool().run(tasks.signal_self, signal.SIGTERM)


@pytest.mark.parametrize(("task", "argument"), [("nap", 30.0), ("signal_self", signal.SIGSTOP)])
def test_hang_is_killed_in_time_while_others_go_on(pool, task, argument):
    workers = pool(count=2, timeout_s=3)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda _: workers.run(tasks.nap, 0.1), range(2)))  # both are warm
        hang = threads.submit(workers.run, getattr(tasks, task), argument)
        assert wait_until(lambda: len(workers._idle) == 1)
        assert [workers.run(tasks.double, number) for number in range(20)] == list(range(0, 40, 2))
        assert not hang.done()
        with pytest.raises(LimitExceeded, match=r"^took longer than 3 s$"):
            hang.result(PATIENCE_S)
    assert workers.run(tasks.double, 4) == 8


def test_every_caller_gets_its_own_answer_or_its_own_error(pool):
    workers = pool(count=4, tasks_per_worker=10)

    def attempt(number: int) -> object:
        try:
            return workers.run(tasks.maybe_crash, number)
        except (LimitExceeded, WorkerCrashed) as error:
            return str(error)

    own = {
        3: "the worker died: SIGABRT",
        7: "the worker died: exit code 0",
    }
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(attempt, range(1600)))
    for number, answer in enumerate(answers):
        expected = f"task {number}" if number % 16 == 11 else own.get(number % 16, number)
        assert answer == expected


def test_results_come_one_after_another_and_the_worker_is_free_after_the_last(pool):
    workers = pool()
    assert list(workers.stream(tasks.doubles_then, "end", 1, 2, 3)) == [2, 4, 6]
    pid = workers.run(os.getpid)
    assert list(workers.stream(tasks.doubles_then, "end")) == []
    assert workers.run(os.getpid) == pid
    assert list(workers.stream(tasks.double, 4)) == [8]


@pytest.mark.parametrize(("deed", "error"), [("die", WorkerCrashed), ("refuse", Unrenderable)])
def test_results_before_an_end_that_is_none_are_kept(pool, deed, error):
    workers, found = pool(), []
    with pytest.raises(error):
        found.extend(workers.stream(tasks.doubles_then, deed, 1, 2))
    assert found == [2, 4]
    stream = workers.stream(tasks.doubles_then, deed, 1, 2)
    assert [next(stream), next(stream)] == [2, 4]
    with pytest.raises(error):
        next(stream)
    assert workers.run(tasks.double, 2) == 4


def test_each_result_has_the_time_of_a_task_and_what_its_reader_does_meanwhile_takes_none_of_it(pool):
    workers = pool(timeout_s=2)
    stream = workers.stream(tasks.naps, 1.0, 1.0, 0.1, 1.0, 30.0)
    assert [next(stream), next(stream), next(stream)] == [1.0, 1.0, 0.1]
    time.sleep(3)
    assert next(stream) == 1.0
    with pytest.raises(LimitExceeded, match="took longer than 2 s"):
        next(stream)


def test_a_reader_who_wants_no_more_frees_the_worker(pool):
    workers = pool()
    stream = workers.stream(tasks.naps, 0.0, 30.0)
    assert next(stream) == 0.0
    with pytest.raises(Overloaded):
        workers.run(tasks.double, 1, wait_s=0)
    stream.close()
    assert workers.run(tasks.double, 1) == 2


def test_a_worker_with_a_suspect_result_retires_after_the_last(pool):
    workers = pool(retire_if=lambda result: result == 4)
    first = workers.run(os.getpid)
    assert list(workers.stream(tasks.doubles_then, "end", 1, 2, 3)) == [2, 4, 6]
    assert workers.run(os.getpid) != first


def test_more_or_fewer_results_than_the_one_that_was_asked_for_are_the_death_of_a_worker(pool):
    workers = pool()
    for numbers in ((), (1, 2)):
        with pytest.raises(WorkerCrashed):
            workers.run(tasks.doubles_then, "end", *numbers)
    assert workers.run(tasks.double, 1) == 2


def test_callers_are_served_in_order(pool):
    workers = pool()
    worker = workers._take(None)
    with ThreadPoolExecutor(6) as threads:
        served = []
        for number in range(6):
            served.append(threads.submit(workers.run, time.monotonic))  # one clock for all processes
            assert wait_until(lambda waiting=number + 1: len(workers._waiting) == waiting)
        workers._give_back(worker, keep=True)
        moments = [future.result(PATIENCE_S) for future in served]
    assert moments == sorted(moments)


def test_caller_for_whom_no_worker_is_free_in_time_is_refused(pool):
    workers = pool()
    worker = workers._take(None)
    with pytest.raises(Overloaded, match="no worker"):
        workers.run(tasks.double, 1, wait_s=0.1)
    workers._give_back(worker, keep=False)
    assert workers.run(tasks.double, 2, wait_s=0) == 4


def test_no_worker_is_lost_when_callers_give_up_just_as_one_gets_free(pool):
    workers = pool(count=2)

    def attempt(number: int) -> object:
        try:
            return workers.run(tasks.double, number, wait_s=number % 7 / 10_000)
        except Overloaded:
            return None

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(attempt, range(800)))
    assert all(answer in (None, 2 * number) for number, answer in enumerate(answers))
    assert (len(workers._idle), len(workers._waiting)) == (2, 0)


def test_worker_retires_after_its_tasks(pool):
    workers = pool(tasks_per_worker=3)
    pids = [workers.run(os.getpid) for _ in range(7)]
    assert [pids.index(pid) for pid in pids] == [0, 0, 0, 3, 3, 3, 6]
    assert not alive(pids[0])


def test_worker_retires_after_an_error_and_after_a_suspect_result(pool):
    workers = pool(retire_if=lambda result: result == 10)
    first = workers.run(os.getpid)
    assert workers.run(tasks.double, 4) == 8
    assert workers.run(os.getpid) == first
    assert workers.run(tasks.double, 5) == 10
    second = workers.run(os.getpid)
    assert second != first
    with pytest.raises(Unrenderable):
        workers.run(tasks.refuse)
    assert workers.run(os.getpid) != second


def test_death_of_an_idle_worker_does_not_fail_the_next_caller(pool):
    workers = pool()
    for number in range(20):
        os.kill(workers.run(os.getpid), signal.SIGKILL)
        assert workers.run(tasks.double, number) == 2 * number


def test_pool_outlives_its_zygote(pool):
    workers = pool(count=2)
    with ThreadPoolExecutor() as threads:
        zygote, _ = workers.run(tasks.parent_and_self)
        busy = threads.submit(workers.run, tasks.nap, 30.0)
        time.sleep(0.1)
        os.kill(zygote, signal.SIGKILL)
        with pytest.raises(TransientError):
            busy.result(PATIENCE_S)
    assert workers.run(tasks.double, 5) == 10


def test_close_wakes_waiting_callers_and_kills_busy_workers(pool):
    workers = pool(count=1)
    pid = workers.run(os.getpid)
    with ThreadPoolExecutor() as threads:
        callers = [threads.submit(workers.run, tasks.nap, 30.0) for _ in range(4)]
        time.sleep(0.1)
        workers.close()
        for caller in callers:
            with pytest.raises(Overloaded):
                caller.result(PATIENCE_S)
    assert wait_until(lambda: not alive(pid), 20)  # before its nap ends
    with pytest.raises(Overloaded):
        workers.run(tasks.double, 1)
    workers.close()


def test_nothing_is_left_open_after_a_hundred_crashes(pool):
    workers = pool(count=2)

    def crash(times: int) -> None:
        for _ in range(times):
            with pytest.raises(WorkerCrashed):
                workers.run(os.abort)

    crash(5)
    before = open_files()
    zygote, _ = workers.run(tasks.parent_and_self)
    crash(100)
    assert open_files() == before
    assert len(children(zygote)) <= 2


def test_closed_pool_leaves_no_open_file(pool):
    before = open_files()
    workers = pool(count=3)
    workers.warm()
    workers.run(tasks.double, 1)
    workers.close()
    assert open_files() == before


def test_importing_and_constructing_start_nothing(pool):
    before = open_files(), threading.active_count()
    pool(count=64)
    assert (open_files(), threading.active_count()) == before


def test_warm_starts_all_workers(pool):
    workers = pool(count=3)
    workers.warm()
    zygote, _ = workers.run(tasks.parent_and_self)
    need("a list of child processes", sys.platform == "linux", "run on Linux")
    assert wait_until(lambda: len(children(zygote)) == 3)


def test_preload_that_fails_is_transient_and_told_on_standard_error(pool, capfd):
    with pytest.raises(TransientError):
        pool(preload=("app.no_such_room",)).run(tasks.double, 1)
    assert "No module named 'app.no_such_room'" in capfd.readouterr().err


def test_confined_task_has_its_limits_and_the_next_one_those_of_the_pool(pool):
    need("a limit on address space", sys.platform == "linux", "run on Linux")
    workers = pool()
    limits = Limits(memory_bytes=20 * MIB, cpu_s=1)
    with pytest.raises(LimitExceeded, match=r"^out of memory$"):
        workers.run_confined(limits, tasks.hold, 30 * MIB)
    assert workers.run_confined(limits, tasks.hold, 10 * MIB) == 10485760
    assert workers.run(tasks.hold, 30 * MIB) == 31457280


def test_limits_of_a_confined_task_are_never_wider_than_those_of_the_pool(pool):
    need("a limit on address space", sys.platform == "linux", "run on Linux")
    with pytest.raises(LimitExceeded, match=r"^out of memory$"):
        pool().run_confined(Limits(memory_bytes=512 * MIB), tasks.hold, 100 * MIB)


def test_confined_task_ends_at_its_processor_time_whatever_library_it_is_in(pool):
    workers = pool()
    with pytest.raises(LimitExceeded, match=r"^took more than 1 s of processor time$"):
        workers.run_confined(Limits(64 * MIB, cpu_s=1), pow, 3, 1 << 40)  # one call of C
    assert workers.run(tasks.double, 2) == 4


def test_abort_of_a_confined_task_is_a_matter_of_memory_where_that_is_said(pool):
    workers = pool()
    with pytest.raises(LimitExceeded, match=r"^out of memory$"):
        workers.run_confined(Limits(64 * MIB, abort_is_memory=True), os.abort)
    with pytest.raises(WorkerCrashed, match="SIGABRT"):
        workers.run_confined(Limits(64 * MIB), os.abort)


def test_confined_task_has_a_process_of_its_own(pool):
    workers = pool()
    pids = [workers.run(os.getpid), workers.run_confined(Limits(64 * MIB), os.getpid), workers.run(os.getpid)]
    assert len(set(pids)) == 3


def test_confined_tasks_run_one_at_a_time_and_leave_the_other_workers_free(pool):
    workers = pool(count=2)
    with ThreadPoolExecutor(4) as threads:
        confined = [threads.submit(workers.run_confined, Limits(64 * MIB), tasks.nap, 0.3) for _ in range(4)]
        assert wait_until(workers._confined.locked, 20)
        assert [workers.run(tasks.double, number) for number in range(20)] == list(range(0, 40, 2))
        with pytest.raises(Overloaded, match="under way"):
            workers.run_confined(Limits(64 * MIB), tasks.double, 1, wait_s=0)
        assert [one.result(20) for one in confined] == [0.3] * 4
    assert (len(workers._idle), workers._confined.locked()) == (2, False)
