"""Whatever happens to the database, its callers or the process: nobody waits for ever, and nothing is lost or booked twice."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit
from threading import Event

import psycopg
import pytest
from sqlalchemy import event, func, select, text

from counterpoint.errors import LedgerError
from counterpoint.gateway.access import ledger as ledger_module
from counterpoint.gateway.access.admission import MOST_TOKENS, Refused
from counterpoint.gateway.access.database import COST_UNITS, TOKEN_COLUMNS, keys, open_database, usage
from counterpoint.gateway.access.keys import Limits, add_key
from counterpoint.gateway.access.ledger import Ledger
from counterpoint.gateway.types import Usage
from gateway.access.bookkeeping import COST, USED, opened, outcomes, request, use_of

SHORT = 0.3
"""Seconds of patience with a database that will not answer."""


async def fails(ledger: Ledger, key: str, admission) -> None:
    """Neither a request nor a booking hangs or gets through."""
    attempts = asyncio.gather(ledger.admit(key), ledger.book(admission, USED, COST), return_exceptions=True)
    for error in await asyncio.wait_for(attempts, 10):
        assert isinstance(error, LedgerError)
        assert re.match("the database of API keys at .* failed", str(error))


async def works(ledger: Ledger, key: str, database: str) -> None:
    """It lets in and books, and what it could not book before is booked."""
    await request(ledger, key)
    assert use_of(database).spent == 2 * COST


def test_a_locked_database_is_an_error_and_bookings_are_made_up_for(database, locked):
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database, patience=SHORT) as ledger:
            admission = await ledger.admit(key)
            with locked(database):
                await fails(ledger, key, admission)
            await works(ledger, key, database)

    asyncio.run(scenario())


def test_a_full_disk_is_an_error_and_bookings_are_made_up_for(sqlite_database):
    key = add_key(sqlite_database, "ci")
    soft, hard = getrlimit(RLIMIT_FSIZE)

    async def scenario():
        async with opened(sqlite_database) as ledger:
            admission = await ledger.admit(key)
            log = Path(sqlite_database.removeprefix("sqlite:///") + "-wal")
            setrlimit(RLIMIT_FSIZE, (log.stat().st_size, hard))  # no file can grow beyond it, as on a disk without room
            try:
                await fails(ledger, key, admission)
            finally:
                setrlimit(RLIMIT_FSIZE, (soft, hard))
            await works(ledger, key, sqlite_database)

    asyncio.run(scenario())


def test_a_server_that_goes_is_an_error_and_one_that_comes_back_is_used(postgres):
    database = postgres.new_database()
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database) as ledger:
            admission = await ledger.admit(key)
            postgres.stop()
            try:
                await fails(ledger, key, admission)
            finally:
                postgres.start()
            await works(ledger, key, database)

    asyncio.run(scenario())


def test_a_server_that_was_restarted_while_nobody_asked_is_not_noticed(postgres):
    database = postgres.new_database()
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database) as ledger:
            await request(ledger, key)
            postgres.stop()
            postgres.start()
            await request(ledger, key)

    asyncio.run(scenario())


def test_a_server_that_hangs_is_an_error_and_one_that_wakes_is_used(postgres):
    database = postgres.new_database()
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database, patience=SHORT) as ledger:
            admission = await ledger.admit(key)
            with psycopg.connect(database) as connection:
                others = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                [process] = connection.execute(f"{others} ORDER BY backend_start DESC LIMIT 1").fetchall()[0]
            os.kill(process, signal.SIGSTOP)
            try:
                await fails(ledger, key, admission)
            finally:
                os.kill(process, signal.SIGCONT)
            await works(ledger, key, database)

    asyncio.run(scenario())
    assert use_of(database).unbooked == 0


def test_a_commit_whose_answer_is_lost_is_not_repeated(database, monkeypatch):
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database) as ledger:
            admission = await ledger.admit(key)
            dialect = ledger._engine.dialect
            commit = dialect.do_commit

            def commit_and_break(connection):
                commit(connection)
                raise OSError("the connection broke")

            with monkeypatch.context() as patch:
                patch.setattr(dialect, "do_commit", commit_and_break)
                with pytest.raises(LedgerError, match="the connection broke"):
                    await ledger.book(admission, USED, COST)
            await works(ledger, key, database)

    asyncio.run(scenario())


def test_a_booking_that_failed_is_tried_again_though_no_request_comes(database, locked, monkeypatch):
    monkeypatch.setattr(ledger_module, "RETRY_SECONDS", 0.05)
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database, patience=SHORT) as ledger:
            admission = await ledger.admit(key)
            with locked(database), pytest.raises(LedgerError):
                await ledger.book(admission, USED, COST)
            committed = Event()
            event.listen(ledger._engine, "commit", lambda connection: committed.set())
            assert await asyncio.to_thread(committed.wait, 10)

    asyncio.run(scenario())
    assert use_of(database).spent == COST


def test_what_could_never_be_booked_is_said_at_the_end(database, locked):
    key = add_key(database, "ci")

    async def scenario():
        ledger = Ledger(database, patience=SHORT)
        admission = await ledger.admit(key)
        with locked(database):
            with pytest.raises(LedgerError):
                await ledger.book(admission, USED, COST)
            with pytest.raises(LedgerError, match=r"booked: 1, with 290 tokens at a cost of 0\.00025, of the keys ci$"):
                await ledger.close()

    asyncio.run(scenario())
    assert use_of(database).unbooked == 1


def test_a_closed_ledger_says_so(database):
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database) as ledger:
            pass
        with pytest.raises(LedgerError, match="closed"):
            await ledger.admit(key)

    asyncio.run(scenario())


def transactions(ledger: Ledger) -> tuple[list[None], asyncio.Event]:
    """Grows with every commit; is set when the writer begins a transaction."""
    committed: list[None] = []
    begun, loop = asyncio.Event(), asyncio.get_running_loop()
    event.listen(ledger._engine, "commit", lambda connection: committed.append(None))
    event.listen(ledger._engine, "engine_connect", lambda connection: loop.call_soon_threadsafe(begun.set))
    return committed, begun


def test_all_that_waits_is_written_in_one_transaction(database, locked):
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database) as ledger:
            committed, begun = transactions(ledger)
            with locked(database):
                first = asyncio.create_task(ledger.admit(key))
                await asyncio.wait_for(begun.wait(), 10)
                others = [asyncio.create_task(ledger.admit(key)) for _ in range(63)]
                await asyncio.sleep(0)
            admissions = await asyncio.gather(first, *others)
            assert len(committed) == 2
            await asyncio.gather(*(ledger.book(admission, USED, COST) for admission in admissions))
            assert len(committed) <= 4

    asyncio.run(scenario())


def test_what_is_booked_counts_for_those_let_in_by_the_same_transaction(database, locked):
    key = add_key(database, "ci", Limits(spend=COST))
    other = add_key(database, "other")

    async def scenario():
        async with opened(database) as ledger:
            admission = await ledger.admit(key)
            committed, begun = transactions(ledger)
            with locked(database):
                first = asyncio.create_task(ledger.admit(other))
                await asyncio.wait_for(begun.wait(), 10)
                next_one = asyncio.create_task(ledger.admit(key))
                booking = asyncio.create_task(ledger.book(admission, USED, COST))
                await asyncio.sleep(0)
            await asyncio.gather(first, booking)
            with pytest.raises(Refused) as refusal:
                await next_one
            assert refusal.value.kind == "spend"
            assert len(committed) == 2

    asyncio.run(scenario())


def test_a_request_whose_client_goes_away_before_it_is_let_in_leaves_nothing_open(database, locked):
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database) as ledger:
            _, begun = transactions(ledger)
            with locked(database):
                in_hand = asyncio.create_task(ledger.admit(key))
                await asyncio.wait_for(begun.wait(), 10)
                waiting = asyncio.create_task(ledger.admit(key))
                await asyncio.sleep(0)
                in_hand.cancel()
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await in_hand
                with pytest.raises(asyncio.CancelledError):
                    await waiting

    asyncio.run(scenario())
    use = use_of(database)
    assert (use.requests, use.unbooked, use.spent) == (1, 0, 0)


def test_a_booking_whose_caller_is_cancelled_is_made(database, locked):
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database) as ledger:
            admission = await ledger.admit(key)
            with locked(database):
                booking = asyncio.create_task(ledger.book(admission, USED, COST))
                await asyncio.sleep(0)
                booking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await booking

    asyncio.run(scenario())
    assert use_of(database).spent == COST


@pytest.mark.parametrize(
    ("used", "cost"),
    [({"light": Usage(-1, 0)}, 0.0), ({"light": Usage(0, MOST_TOKENS + 1)}, 0.0), ({}, -0.1), ({}, float("nan")), ({}, 1e300)],
)
def test_numbers_that_cannot_be_are_refused_before_they_spoil_a_transaction(sqlite_database, used, cost):
    key = add_key(sqlite_database, "ci")

    async def scenario():
        async with opened(sqlite_database) as ledger:
            admission = await ledger.admit(key)
            with pytest.raises(ValueError, match="cannot have used"):
                await ledger.book(admission, used, cost)
            await request(ledger, key)

    asyncio.run(scenario())


def test_a_bug_reaches_the_callers_and_the_writer_goes_on(sqlite_database, monkeypatch):
    key = add_key(sqlite_database, "ci")

    def broken(*arguments):
        raise ZeroDivisionError

    async def scenario():
        async with opened(sqlite_database) as ledger:
            with monkeypatch.context() as patch:
                patch.setattr(ledger_module, "settle", broken)
                with pytest.raises(LedgerError) as error:
                    await ledger.admit(key)
                assert isinstance(error.value.__cause__, ZeroDivisionError)
            await request(ledger, key)

    asyncio.run(scenario())


BUSY = """
import asyncio, sys
from counterpoint.gateway.access.ledger import Ledger
from counterpoint.gateway.types import Usage

async def client(ledger, key):
    while True:
        admission = await ledger.admit(key)
        await ledger.book(admission, {"capable": Usage(100, 30), "light": Usage(140, 20)}, 0.00025)
        print(admission.id, flush=True)

async def main(database, key):
    ledger = Ledger(database)
    await asyncio.gather(*(client(ledger, key) for _ in range(16)))

asyncio.run(main(*sys.argv[1:]))
"""


def test_kill_9_in_mid_booking_leaves_whole_rows_and_loses_none_that_was_said_to_be_booked(database):
    key = add_key(database, "ci")
    with subprocess.Popen([sys.executable, "-c", BUSY, database, key], stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout
        said = {int(gateway.stdout.readline()) for _ in range(100)}
        gateway.kill()
        said |= {int(line) for line in gateway.stdout.read().splitlines()}
    engine = open_database(database)
    with engine.begin() as connection:
        rows = connection.execute(select(usage)).all()
        spent, added_up = connection.execute(select(keys.c.spent, select(func.sum(usage.c.cost)).scalar_subquery())).one()
        if engine.dialect.name == "sqlite":
            assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
    engine.dispose()
    ended = {row.id for row in rows if row.ended is not None}
    cost = round(COST * COST_UNITS)
    whole, nothing = (100, 30, 140, 20, cost), (0, 0, 0, 0, 0)
    for row in rows:
        assert tuple(row._mapping[name] for name in (*TOKEN_COLUMNS, "cost")) == (whole if row.id in ended else nothing)
    assert said <= ended
    assert spent == added_up == len(ended) * cost


def test_a_request_that_a_dead_gateway_left_open_counts_as_a_request(database):
    key = add_key(database, "ci", Limits(requests_per_minute=1, tokens_per_minute=1, spend=COST))
    code = "import asyncio, os, sys\nfrom counterpoint.gateway.access.ledger import Ledger\n"
    code += "async def main(): await Ledger(sys.argv[1]).admit(sys.argv[2]); os.kill(os.getpid(), 9)\nasyncio.run(main())"
    assert subprocess.run([sys.executable, "-c", code, database, key], timeout=60).returncode == -signal.SIGKILL

    async def scenario():
        async with opened(database) as ledger:
            [refusal] = await outcomes(ledger.admit(key))
            assert isinstance(refusal, Refused)
            assert refusal.kind == "requests"

    asyncio.run(scenario())
    assert (use_of(database).requests, use_of(database).unbooked) == (1, 1)
