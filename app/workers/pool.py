"""Warm worker processes: a crash, a hang or exhausted memory in one task fails only that task.

    run(function, *args) ─▶ a free worker ─▶ the result, or the task's own error; of `stream`, its results
                              └ killed and replaced: after any error, at the time limit, every N tasks

Workers are forked by a helper process, the zygote. It has imported the decoders but not the server, and has
one thread, so a fork costs milliseconds and never copies a locked lock. Not used: multiprocessing's
forkserver, which runs the main module (the whole server) again in every worker, and ProcessPoolExecutor,
which breaks as a whole when one worker dies.

When the server ends, for whatever reason, the zygote's socket closes and the zygote kills its process group.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from app.model.errors import DicomlakeError, LimitExceeded, Overloaded, TransientError, WorkerCrashed
from app.workers.messages import Unreadable, pickled, returned_by
from app.workers.remote_reads import Served
from app.workers.worker import Limits, Worker, Zygote

T = TypeVar("T")
NONE = object()

PRELOAD = (
    *(
        "app.dicom.read.dataset",
        "app.dicom.metadata.dicom_json",
        "app.dicom.metadata.columns",
        "app.dicom.metadata.row_json",
    ),
    *("app.dicom.metadata.nul", "app.dicom.metadata.file_meta", "app.dicom.render.preview"),
)
MOST_ANSWER_BYTES = 256 << 20  # the server holds it twice; only a picture of full size could be larger


@dataclass(eq=False)
class Workers:
    """A pool of warm worker processes. Safe to call from several threads; nothing starts before it is used.

    count: processes, 0 for one per core. memory_bytes: address space a task may map beyond that of a fresh
    worker, including the task's bytes, its result and libraries loaded on demand. timeout_s: wall time of a
    task. preload: modules imported once, before workers are forked. retire_if: predicate on a result; if
    true, the worker is replaced, as after every error and after `tasks_per_worker` tasks. environment: the
    complete environment of the processes.
    """

    count: int
    memory_bytes: int
    timeout_s: float
    tasks_per_worker: int = 50
    preload: tuple[str, ...] = PRELOAD
    retire_if: Callable[[Any], bool] = lambda _: False
    environment: Mapping[str, str] = field(default_factory=dict)
    _idle: list[Worker] = field(init=False, repr=False)
    _waiting: deque[Future[Worker]] = field(default_factory=deque, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _confined: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _zygote: Zygote | None = field(default=None, init=False, repr=False)
    _closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.count = self.count or cores or 1
        self._idle = [Worker() for _ in range(self.count)]

    def run(
        self,
        function: Callable[..., T],
        *args: object,
        wait_s: float | None = None,
        begun: Callable[[], None] = lambda: None,
        limits: Limits | None = None,
    ) -> T:
        """Run `function(*args)` in a worker and return its result; callers are served in order of arrival.

        `function` must be importable in the worker, its arguments picklable, its result as messages.py
        allows.

        wait_s: time limit for getting a worker and for the task's reads. begun: called when a worker starts
        the task. limits: tighter limits than the pool's; the task then gets a process of its own.

        Raises the task's own PermanentError; LimitExceeded for time or memory; WorkerCrashed; InternalError
        for any other error of the task; errors of the store while the worker reads ranges; Overloaded if no
        worker is free within `wait_s`; another TransientError if workers cannot start.
        """
        with closing(self.stream(function, *args, wait_s=wait_s, begun=begun, limits=limits)) as results:
            result = next(results, NONE)
            if result is NONE or next(results, NONE) is not NONE:
                raise WorkerCrashed("the worker gave another number of results than one")
            return cast(T, result)

    def stream(
        self,
        function: Callable[..., Any],
        *args: object,
        wait_s: float | None = None,
        begun: Callable[[], None] = lambda: None,
        limits: Limits | None = None,
    ) -> Generator[Any]:
        """Yield from `function(*args)` in a worker; as `run`, but each result may take `timeout_s`.

        Time that the caller spends between two results does not count. The worker stays busy until the last
        result; close the generator to free it early.
        """
        until = time.monotonic() + (math.inf if wait_s is None else wait_s)
        task, contents = pickled((function, args))
        worker = self._take(wait_s)
        keep = suspect = False
        try:
            if limits:
                self._restart(worker, limits)
            if not worker.begin(task, self.timeout_s):
                self._restart(worker, limits)  # it failed to start or died while idle
                if not worker.begin(task, self.timeout_s):
                    raise TransientError("no worker process starts")
            begun()
            with Served(contents, until) as served:
                for result in worker.results(min(self.memory_bytes, MOST_ANSWER_BYTES), served):
                    if not returned_by(function)(result):
                        raise Unreadable("no result of this task")
                    suspect = suspect or self.retire_if(result)
                    yield result
                    worker.line.deadline = time.monotonic() + self.timeout_s
            keep = not (suspect or limits) and worker.tasks < self.tasks_per_worker
        except TimeoutError:
            raise LimitExceeded(f"took longer than {self.timeout_s:g} s") from None
        except Unreadable:
            raise WorkerCrashed("the worker's answer is malformed") from None
        except (EOFError, ConnectionError):
            raise self._death(worker.stop(), limits) from None
        finally:
            self._give_back(worker, keep)

    def run_confined(
        self,
        limits: Limits,
        function: Callable[..., T],
        *args: object,
        wait_s: float | None = None,
        begun: Callable[[], None] = lambda: None,
    ) -> T:
        """As `run` with tighter limits, and one such task at a time, so that other workers stay free.

        Also raises Overloaded if another such task takes longer than `wait_s`.
        """
        until = time.monotonic() + (math.inf if wait_s is None else wait_s)
        if not self._confined.acquire(timeout=-1 if wait_s is None else wait_s):
            raise Overloaded("another task of this kind was under way for too long")
        try:
            left_s = None if wait_s is None else max(0.0, until - time.monotonic())
            return self.run(function, *args, wait_s=left_s, begun=begun, limits=limits)
        finally:
            self._confined.release()

    def warm(self) -> None:
        """Start the processes in the background; return at once."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            self._give_back(worker, keep=worker.alive)

    def close(self) -> None:
        """Kill all workers, idle and busy; waiting callers get Overloaded. Repeating it is harmless."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            waiting, self._waiting = self._waiting, deque()
            zygote = self._zygote
        if zygote is not None:
            zygote.close()
        for turn in waiting:
            turn.set_exception(Overloaded("shutting down"))
        for worker in idle:
            worker.stop()

    def _take(self, wait_s: float | None) -> Worker:
        with self._lock:
            if self._closed:
                raise Overloaded("shutting down")
            if self._idle:
                return self._idle.pop()
            turn: Future[Worker] = Future()
            self._waiting.append(turn)
        with suppress(TimeoutError):
            return turn.result(wait_s)
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                raise Overloaded("no worker was free in time")
        return turn.result()  # it came just now

    def _give_back(self, worker: Worker, keep: bool) -> None:
        if not keep:
            with suppress(TransientError):  # the next caller tries again and gets the error
                self._restart(worker)
        with self._lock:
            if self._closed:
                worker.stop()
            elif self._waiting:
                self._waiting.popleft().set_result(worker)
            else:
                self._idle.append(worker)

    def _restart(self, worker: Worker, limits: Limits | None = None) -> None:
        worker.stop()
        try:
            limits = limits or Limits(self.memory_bytes)
            memory_bytes = min(limits.memory_bytes, self.memory_bytes)
            worker.start(self._living_zygote(), replace(limits, memory_bytes=memory_bytes))
        except OSError as exc:
            raise TransientError(f"no worker process starts: {type(exc).__name__}") from exc

    def _living_zygote(self) -> Zygote:
        with self._lock:
            if self._closed:
                raise Overloaded("shutting down")
            if self._zygote is None or not self._zygote.alive:
                self._zygote = Zygote(self.preload, self.environment)
            return self._zygote

    def _death(self, exit_code: int | None, limits: Limits | None) -> DicomlakeError:
        if self._closed:
            return Overloaded("shutting down")
        if exit_code is None or exit_code == -signal.SIGTERM:  # only an operator does that, not the bytes
            return TransientError("the worker was ended from outside")
        if limits and exit_code == -signal.SIGXCPU:
            return LimitExceeded(f"took more than {limits.cpu_s} s of processor time")
        if limits and limits.abort_is_memory and exit_code == -signal.SIGABRT:
            return LimitExceeded("out of memory")
        names = {-number: number.name for number in signal.Signals}
        return WorkerCrashed(f"the worker died: {names.get(exit_code, f'exit code {exit_code}')}")
