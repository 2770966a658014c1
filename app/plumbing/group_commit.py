"""Group commit: callers that arrive while a commit runs share the next one.

There is no background thread. A caller that finds no commit running becomes the leader: it commits the parts
of all waiting callers, hands each its result, and makes the longest-waiting caller the next leader. A single
caller does not wait, and no caller waits for longer than the commit of its own part.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from app.model.errors import DicomlakeError, TransientError

Part = TypeVar("Part")
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Ticket(Generic[Part]):
    """The part of one waiting caller: it ends `done` with an outcome, or becomes the leader."""

    part: Part
    turn: threading.Event = field(default_factory=threading.Event)
    done: bool = False
    outcome: object = None


class GroupCommit(Generic[Part, Result]):
    """Commits parts in groups, in order of arrival, one group at a time. Safe to call from several threads.

    commit: takes the parts of a group and returns the result or the error of each; an error that it raises
    applies to all. unavailable: the error of an interrupted commit, and after `close`. fits: the number of
    waiting parts, at least one, that form the next group.
    """

    def __init__(
        self,
        commit: Callable[[list[Part]], Sequence[Result | DicomlakeError]],
        unavailable: type[TransientError],
        fits: Callable[[list[Part]], int] = len,
    ) -> None:
        self._commit, self._unavailable, self._fits = commit, unavailable, fits
        self._changed = threading.Condition()
        self._waiting: deque[_Ticket[Part]] = deque()
        self._group: list[_Ticket[Part]] = []
        self._leader: _Ticket[Part] | None = None
        self._closed = False

    def add(self, part: Part) -> Result:
        """Return the result of `part` once it is committed, or raise its error."""
        ticket = self._queue(part)
        try:
            ticket.turn.wait()
            if not ticket.done:
                self._settle(self._outcomes(self._take()))
        finally:
            if not ticket.done:
                self._leave(ticket)
        if isinstance(ticket.outcome, DicomlakeError):
            raise ticket.outcome
        return cast(Result, ticket.outcome)

    def close(self) -> None:
        """Accept no more parts and wait for the accepted ones."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._leader is None)

    def _queue(self, part: Part) -> _Ticket[Part]:
        ticket = _Ticket(part)
        with self._changed:
            if self._closed:
                raise self._unavailable("it is closed")
            self._waiting.append(ticket)
            if self._leader is None:
                self._promote()
        return ticket

    def _promote(self) -> None:
        """Make the longest-waiting caller the leader, if there is one."""
        self._leader = self._waiting[0] if self._waiting else None
        if self._leader is not None:
            self._leader.turn.set()

    def _take(self) -> list[Part]:
        """Form the next group; it includes the leader, who has waited longest."""
        with self._changed:
            for _ in range(self._fits([ticket.part for ticket in self._waiting])):
                self._group.append(self._waiting.popleft())
        return [ticket.part for ticket in self._group]

    def _outcomes(self, parts: list[Part]) -> Sequence[Result | DicomlakeError]:
        try:
            return self._commit(parts)
        except DicomlakeError as exc:
            # One copy for each: an exception raised by several threads would mix their tracebacks.
            return [exc, *(copy.copy(exc) for _ in parts[1:])]

    def _settle(self, outcomes: Sequence[Result | DicomlakeError]) -> None:
        """Give each caller its outcome and appoint the next leader."""
        with self._changed:
            for ticket, outcome in zip(self._group, outcomes, strict=True):
                ticket.outcome, ticket.done = outcome, True
                ticket.turn.set()
            self._group = []
            self._promote()
            self._changed.notify_all()

    def _leave(self, ticket: _Ticket[Part]) -> None:
        """Clean up if a caller is interrupted, so that no other waits for it for ever."""
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
        if self._leader is ticket:
            self._settle([self._unavailable("the commit was broken off") for _ in self._group])
