"""API keys, their limits, and the booking of what each request used.

One thread writes: all that waits goes into one transaction, so that hundreds of requests a second cost few commits.
"""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from counterpoint.errors import LedgerError
from counterpoint.gateway.access.admission import Admission, Booking, Clock, Refused, no_such_key, settle
from counterpoint.gateway.access.database import COST_UNITS, PATIENCE, failure, hash_of, open_database
from counterpoint.gateway.types import Role, Usage

LARGEST_GROUP = 512
"""Requests in a transaction."""
RETRY_SECONDS = 1.0
"""After which bookings that failed are tried again if no request comes before."""


@dataclass
class _Entry:
    """Something for the writer: the hash of a key that asks to come in, or a booking; None ends it."""

    what: str | Booking | None
    answer: Future[Any] = field(default_factory=Future)


class Ledger:
    """Lets requests in and books them, for one event loop. Several ledgers may share a database; limits hold over all of them.

    Args:
        address: `sqlite:///FILE` or `postgresql://...`.
        clock: seconds since 1970.
        patience: seconds that the database may take for a lock or a statement. A caller, who may come while it takes them for
            another, waits at most three times as long.

    Raises `LedgerError` if the database cannot be opened.
    """

    def __init__(self, address: str, clock: Clock = time.time, patience: float = PATIENCE):
        self._engine = open_database(address, patience=patience)
        self._clock = clock
        self._longest_wait = 3 * patience
        self._queue: SimpleQueue[_Entry] = SimpleQueue()
        self._unwritten: dict[int, Booking] = {}
        """Bookings that are not in the database yet, by usage row: the writer tries all of them in every transaction."""
        self._closing = False
        self._writer = Thread(target=self._write_all, name="ledger", daemon=True)
        self._writer.start()

    async def admit(self, key: str | None) -> Admission:
        """Check a client's key and its limits, and open a row for its request, which `book` has to fill.

        Raises `Refused` if it may not come in, and `LedgerError` if the database fails. If the caller is cancelled meanwhile, the
        row is closed with nothing used.
        """
        if not key:
            raise no_such_key("no API key")
        answer = self._enqueue(hash_of(key))
        try:
            async with asyncio.timeout(self._longest_wait):
                return await asyncio.wrap_future(answer)
        except (asyncio.CancelledError, TimeoutError) as error:
            answer.add_done_callback(self._take_back)
            if isinstance(error, TimeoutError):
                raise self._no_answer() from error
            raise

    async def book(self, admission: Admission, used: Mapping[Role, Usage], cost: float) -> None:
        """Write down what a request used; returns when that is committed. Booking a request twice counts once.

        A cancelled caller's booking is written all the same.
        Raises `LedgerError` if the database fails; the booking is then tried again until the ledger is closed.
        Raises `ValueError` for numbers that cannot be.
        """
        booking = Booking.of(admission, used, cost, self._clock())
        answer = self._enqueue(booking)
        try:
            async with asyncio.timeout(self._longest_wait):
                await asyncio.wrap_future(answer)
        except TimeoutError as error:
            raise self._no_answer() from error

    async def close(self) -> None:
        """Finish what waits. Raises `LedgerError` that says which bookings the database never took."""
        if not self._closing:
            self._closing = True
            self._queue.put(_Entry(None))
        await asyncio.to_thread(self._writer.join, self._longest_wait)
        if self._unwritten:
            raise LedgerError(_lost(list(self._unwritten.values())))

    def _enqueue(self, what: str | Booking) -> Future[Any]:
        if self._closing:
            raise LedgerError("the ledger is closed")
        return self._put(what)

    def _put(self, what: str | Booking) -> Future[Any]:
        entry = _Entry(what)
        if isinstance(what, Booking):
            self._unwritten[what.admission.id] = what
        self._queue.put(entry)
        return entry.answer

    def _take_back(self, answer: Future[Admission]) -> None:
        """Close the row of a request whose client went away before it was let in."""
        if not answer.cancelled() and answer.exception() is None:
            self._put(Booking.of(answer.result(), {}, 0.0, self._clock()))

    def _no_answer(self) -> LedgerError:
        return failure(self._engine, TimeoutError(f"no answer in {self._longest_wait:g} seconds"))

    def _write_all(self) -> None:
        """The writer's life: a transaction for each group, until it is told to end and nothing waits."""
        ending = False
        while not ending or not self._queue.empty():
            group = self._next_group()
            ending = ending or any(entry.what is None for entry in group)
            self._write(group)
        if self._unwritten:
            self._write([])
        self._engine.dispose()

    def _next_group(self) -> list[_Entry]:
        """All that waits; nothing, if it is time to try failed bookings again."""
        group: list[_Entry] = []
        with suppress(Empty):
            group.append(self._queue.get(timeout=RETRY_SECONDS if self._unwritten else None))
            while len(group) < LARGEST_GROUP:
                group.append(self._queue.get_nowait())
        return group

    def _write(self, group: list[_Entry]) -> None:
        """One transaction. Whatever happens in it, every caller gets an answer and the writer goes on."""
        group = [entry for entry in group if entry.what is not None and entry.answer.set_running_or_notify_cancel()]
        hashes = [entry.what for entry in group if isinstance(entry.what, str)]
        try:
            outcomes = iter(self._commit(hashes))
        except Exception as error:  # noqa: BLE001 - it is raised where the callers wait
            for entry in group:
                told = failure(self._engine, error)
                told.__cause__ = error
                entry.answer.set_exception(told)
            return
        for entry in group:
            outcome = next(outcomes) if isinstance(entry.what, str) else None
            if isinstance(outcome, Refused):
                entry.answer.set_exception(outcome)
            else:
                entry.answer.set_result(outcome)

    def _commit(self, hashes: list[str]) -> list[Admission | Refused]:
        bookings = self._unwritten.copy()  # callers add to it meanwhile
        if not bookings and not hashes:
            return []
        with self._engine.begin() as connection:
            outcomes = settle(connection, list(bookings.values()), hashes, self._clock)
        for row in bookings:
            self._unwritten.pop(row, None)
        return outcomes


def _lost(bookings: list[Booking]) -> str:
    tokens = sum(sum(booking.tokens.values()) for booking in bookings)
    cost = sum(booking.cost for booking in bookings) / COST_UNITS
    names = ", ".join(sorted({booking.admission.key_name for booking in bookings}))
    return f"requests that could not be booked: {len(bookings)}, with {tokens} tokens at a cost of {cost:g}, of the keys {names}"
