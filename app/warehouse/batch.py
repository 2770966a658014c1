"""Group commit around any warehouse: callers that append at the same time share one append.

There is no thread of its own. The first caller to find a table idle leads: it appends what all have queued,
tells each what became of its rows, and the next one leads. A lone caller waits for nobody.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.errors import PermanentError, RowsRejected, TransientError, WarehouseUnavailable
from app.types import Row
from app.warehouse import Warehouse

_Fault = PermanentError | TransientError | None


@dataclass(eq=False, slots=True)
class _Ticket:
    """The rows of one caller, who waits for its turn: either all is `done`, with this fault, or it leads."""

    rows: Sequence[Row]
    size: int
    turn: threading.Event = field(default_factory=threading.Event)
    done: bool = False
    fault: _Fault = None


@dataclass(slots=True)
class _Lane:
    """One table: tickets in order of arrival, and those in flight with the one whose caller leads."""

    waiting: deque[_Ticket] = field(default_factory=deque)
    flight: list[_Ticket] = field(default_factory=list)
    leader: _Ticket | None = None

    def promote(self) -> None:
        """Let the caller that has waited longest lead, if there is one."""
        self.leader = self.waiting[0] if self.waiting else None
        if self.leader is not None:
            self.leader.turn.set()


def _size(rows: Sequence[Row]) -> int:
    """Return about how many bytes the rows take; text that is not ASCII is counted at its longest."""
    return sum(
        len(value) * (4 if isinstance(value, str) and not value.isascii() else 1)
        if isinstance(value, str | bytes)
        else 8
        for row in rows
        for value in row.values()
    )


class BatchedWarehouse:
    """A warehouse whose concurrent appends to one table go in together, up to `max_rows` and `max_bytes`.

    An append that is over a limit by itself goes alone. `linger_s` makes a leader wait for company.
    """

    def __init__(self, inner: Warehouse, max_rows: int, max_bytes: int, linger_s: float = 0.0) -> None:
        self._inner = inner
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._linger_s = linger_s
        self._changed = threading.Condition(threading.Lock())
        self._lanes: defaultdict[str, _Lane] = defaultdict(_Lane)
        self._closed = False

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows; returns when they are durable. A refused row fails only the caller that brought it."""
        ticket = _Ticket(rows, _size(rows))
        lane = self._queue(table, ticket)
        try:
            ticket.turn.wait()
            if not ticket.done:
                self._take(lane)
                self._settle(lane, self._append(table, lane.flight))
        finally:
            if not ticket.done:
                self._leave(lane, ticket)
        if ticket.fault is not None:
            raise ticket.fault

    def _queue(self, table: str, ticket: _Ticket) -> _Lane:
        with self._changed:
            if self._closed:
                raise WarehouseUnavailable("the warehouse is closed")
            lane = self._lanes[table]
            lane.waiting.append(ticket)
            if lane.leader is None:
                lane.promote()
            self._changed.notify_all()
            return lane

    def _take(self, lane: _Lane) -> None:
        """Put into flight what waits, within the limits; the leader waited longest, so it is among them."""
        rows = size = 0
        end = time.monotonic() + self._linger_s
        with self._changed:
            while (left := end - time.monotonic()) > 0 and not self._closed and not self._full(lane):
                self._changed.wait(left)
            while lane.waiting:
                rows, size = rows + len(lane.waiting[0].rows), size + lane.waiting[0].size
                if lane.flight and (rows > self._max_rows or size > self._max_bytes):
                    break
                lane.flight.append(lane.waiting.popleft())

    def _full(self, lane: _Lane) -> bool:
        rows = sum(len(ticket.rows) for ticket in lane.waiting)
        return rows >= self._max_rows or sum(ticket.size for ticket in lane.waiting) >= self._max_bytes

    def _append(self, table: str, batch: list[_Ticket]) -> list[_Fault]:
        try:
            self._inner.append(table, [row for ticket in batch for row in ticket.rows])
        except RowsRejected as exc:
            return _share(exc.rejected, batch)
        except TransientError as exc:
            return [exc] * len(batch)
        except PermanentError as exc:
            if len(batch) == 1:
                return [exc]
            # One of them is at fault and the warehouse does not say which.
            return [fault for ticket in batch for fault in self._append(table, [ticket])]
        return [None] * len(batch)

    def _settle(self, lane: _Lane, faults: Sequence[_Fault]) -> None:
        """Tell those in flight what became of their rows and hand the lead on."""
        with self._changed:
            for ticket, fault in zip(lane.flight, faults, strict=True):
                # A copy each: an exception that several threads raise would mix their tracebacks.
                ticket.fault, ticket.done = copy.copy(fault), True
                ticket.turn.set()
            lane.flight = []
            lane.promote()
            self._changed.notify_all()

    def _leave(self, lane: _Lane, ticket: _Ticket) -> None:
        """Let go of the lane when the caller is torn out of it, so that nobody waits for it for ever."""
        with self._changed:
            if ticket in lane.waiting:
                lane.waiting.remove(ticket)
        if lane.leader is ticket:
            self._settle(lane, [WarehouseUnavailable("the append was broken off")] * len(lane.flight))

    def create(self) -> None:
        """Make the tables and views that are not there yet."""
        self._inner.create()

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[dict[str, object]]:
        """Run one read-only statement."""
        return self._inner.query(sql, parameters)

    def delete(self, table: str, column: str, values: Sequence[str]) -> int:
        """Remove dead letters."""
        return self._inner.delete(table, column, values)

    def check(self) -> None:
        """Raise WarehouseUnavailable unless the warehouse answers."""
        self._inner.check()

    def close(self) -> None:
        """Take no more rows, wait for those that were taken, then close the warehouse."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(lane.leader is None for lane in self._lanes.values()))
        self._inner.close()


def _share(rejected: Mapping[int, str], batch: list[_Ticket]) -> list[_Fault]:
    """Give each ticket the refusals among its own rows, numbered as the caller numbered them."""
    faults: list[_Fault] = []
    start = 0
    for ticket in batch:
        own = range(start, start + len(ticket.rows))
        mine = {index - start: why for index, why in rejected.items() if index in own}
        faults.append(RowsRejected(mine) if mine else None)
        start = own.stop
    return faults
