"""Warm worker processes: a crash, a hang or a memory hit in one task fails that task and nothing else.

    run(function, *args) ─▶ a free worker ─▶ the result, or the task's own error; of `stream`, its results
                              └ killed and replaced: after any error, at the time limit, every N tasks

Workers are forked by one helper process, the zygote, which has imported the decoders but nothing of the
server and has one thread; so a new worker costs milliseconds and no lock of the server is copied half-held.
It is not multiprocessing's forkserver: that one runs the main module (all of the server) again in every
worker. A ProcessPoolExecutor breaks whole when one worker dies.

When the server ends, however it ends, the zygote reads the end of its socket and kills its process group.
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

    count: processes, 0 for one a core. memory_bytes: address space a task may map beyond what a fresh worker
    has, so the task's bytes, its result and libraries loaded on demand count. timeout_s: wall time of a task.
    preload: modules imported once, before the workers are forked. retire_if: true for a result after which
    the worker shall be replaced, as it is after every error and after `tasks_per_worker` tasks. environment:
    all that the processes see of it.
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
        self._idle = [Worker() for _ in range(self.count or cores or 1)]

    def run(
        self,
        function: Callable[..., T],
        *args: object,
        wait_s: float | None = None,
        begun: Callable[[], None] = lambda: None,
        limits: Limits | None = None,
    ) -> T:
        """Return `function(*args)` as a worker computes it; callers wait for a free worker in order.

        `function` must be importable in the worker, its arguments picklable, its result as messages.py says.
        Raises the task's own PermanentError, LimitExceeded (time, memory), WorkerCrashed, InternalError for
        any other error of the task, what the store of a content that is read in ranges raises, and
        TransientError when no worker can be had: Overloaded if none is free within `wait_s`, which the reads
        must end in, too. `begun` is called once a worker has begun with it. limits: narrower ones than those
        of the pool; the task gets a process of its own.
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
        """Yield what `function(*args)` yields in a worker; as `run`, but each result may take `timeout_s`.

        What the caller does between two of them does not count. The worker is held until the last; close the
        generator to free it early.
        """
        until = time.monotonic() + (math.inf if wait_s is None else wait_s)
        task, contents = pickled((function, args))
        worker = self._take(wait_s)
        keep = suspect = False
        try:
            if limits:
                self._restart(worker, limits)
            if not worker.begin(task, self.timeout_s):
                self._restart(worker, limits)  # it was not there, or died while idle: not the task's fault
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
        """`run` within narrower limits, one such task at a time: where there are several workers, the others
        are left for what needs none. Raises Overloaded, too, if another one takes longer than `wait_s`.
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
        """Begin to start the processes; returns at once."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            self._give_back(worker, keep=worker.alive)

    def close(self) -> None:
        """Kill all workers, idle and busy; callers that wait get Overloaded. Repeating it is harmless."""
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
            with suppress(TransientError):  # the next caller tries again, and is told
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
        if exit_code is None or exit_code == -signal.SIGTERM:  # no bytes do that, an operator does
            return TransientError("the worker was ended from outside")
        if limits and exit_code == -signal.SIGXCPU:
            return LimitExceeded(f"took more than {limits.cpu_s} s of processor time")
        if limits and limits.abort_is_memory and exit_code == -signal.SIGABRT:
            return LimitExceeded("out of memory")
        names = {-number: number.name for number in signal.Signals}
        return WorkerCrashed(f"the worker died: {names.get(exit_code, f'exit code {exit_code}')}")
