"""Limits hold exactly, over requests at the same time, gateways and restarts; what was used is booked exactly once."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterpoint.gateway.access.admission import MOST_COST, MOST_TOKENS, WINDOW, Admission, Refused, settle
from counterpoint.gateway.access.database import COST_UNITS, hash_of, open_database
from counterpoint.gateway.access.keys import Limits, add_key, list_keys, revoke_key
from counterpoint.gateway.types import Usage
from gateway.access.bookkeeping import COST, TOKENS, USED, opened, outcomes, request, use_of


class Clock:
    """Time that passes when a test says so."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def admitted(outcomes: list[Admission | Refused]) -> list[int]:
    """The rows of the requests that came in."""
    return [outcome.id for outcome in outcomes if isinstance(outcome, Admission)]


def test_what_a_request_used_is_booked_under_its_key(database):
    key = add_key(database, "ci")
    add_key(database, "other")

    async def scenario():
        async with opened(database) as ledger:
            admission = await ledger.admit(key)
            assert admission.key_name == "ci"
            assert use_of(database).unbooked == 1
            await ledger.book(admission, USED, COST)
            use = use_of(database)
            assert (use.requests, use.unbooked, use.spent) == (1, 0, COST)
            assert use.tokens == {"capable_input": 100, "capable_output": 30, "light_input": 140, "light_output": 20}
            assert use_of(database, "other").requests == 0

    asyncio.run(scenario())


def test_a_stage_that_was_not_asked_used_nothing(database):
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database) as ledger:
            await ledger.book(await ledger.admit(key), {"light": Usage(3, 4)}, 0.0)

    asyncio.run(scenario())
    assert list(use_of(database).tokens.values()) == [0, 0, 3, 4]


def test_missing_wrong_and_revoked_keys_look_the_same_to_the_client(database):
    revoked = add_key(database, "gone")
    revoke_key(database, "gone")

    async def scenario():
        async with opened(database) as ledger:
            refusals = await outcomes(*(ledger.admit(key) for key in (None, "", "cp-wrong", "no\udcffsense", revoked)))
        assert {refusal.kind for refusal in refusals} == {"invalid_key"}
        assert len({str(refusal) for refusal in refusals}) == 1
        details = [refusal.detail for refusal in refusals]
        assert details == ["no API key", "no API key", "unknown API key", "unknown API key", "key gone (1) is revoked"]

    asyncio.run(scenario())


def test_a_key_is_refused_from_its_revocation_on_and_what_it_began_is_booked(database):
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database) as ledger:
            admission = await ledger.admit(key)
            revoke_key(database, "ci")
            with pytest.raises(Refused):
                await ledger.admit(key)
            await ledger.book(admission, USED, COST)

    asyncio.run(scenario())
    assert use_of(database).spent == COST


def test_the_request_limit_counts_requests_in_flight_and_says_when_the_next_may_come(database):
    clock = Clock()
    key = add_key(database, "ci", Limits(requests_per_minute=2))

    async def scenario():
        async with opened(database, clock=clock) as ledger:
            await ledger.admit(key)
            clock.now += 10
            await request(ledger, key)
            clock.now += 5
            for _ in range(3):  # a refused request does not count
                with pytest.raises(Refused, match="2 requests") as refusal:
                    await ledger.admit(key)
                assert (refusal.value.kind, refusal.value.retry_after) == ("requests", WINDOW - 15)
            clock.now += WINDOW - 15
            await ledger.admit(key)
            with pytest.raises(Refused) as refusal:
                await ledger.admit(key)
            assert refusal.value.retry_after == 10

    asyncio.run(scenario())


def test_the_token_limit_counts_both_models_from_when_a_request_ended(database):
    clock = Clock()
    key = add_key(database, "ci", Limits(tokens_per_minute=2 * TOKENS))

    async def scenario():
        async with opened(database, clock=clock) as ledger:
            first, second, third = [await ledger.admit(key) for _ in range(3)]
            clock.now += 2 * WINDOW
            await ledger.book(first, USED, COST)
            clock.now += 10
            await ledger.admit(key)
            await ledger.book(second, USED, COST)
            clock.now += 10
            await ledger.book(third, USED, COST)
            with pytest.raises(Refused, match=f"{2 * TOKENS} tokens") as refusal:
                await ledger.admit(key)
            # the first's leave in 40 seconds, and then two requests' are still at the limit
            assert (refusal.value.kind, refusal.value.retry_after) == ("tokens", WINDOW - 10)
            clock.now += WINDOW - 10 - 1
            with pytest.raises(Refused):
                await ledger.admit(key)
            clock.now += 1
            await ledger.admit(key)

    asyncio.run(scenario())


def test_the_spend_limit_is_for_good(database):
    clock = Clock()
    key = add_key(database, "ci", Limits(spend=2 * COST))

    async def scenario():
        async with opened(database, clock=clock) as ledger:
            for _ in range(2):
                await request(ledger, key)
            clock.now += 1000 * WINDOW
            with pytest.raises(Refused, match=r"its limit of 0\.0005") as refusal:
                await ledger.admit(key)
            assert (refusal.value.kind, refusal.value.retry_after) == ("spend", None)

    asyncio.run(scenario())


@pytest.mark.parametrize("limits", [Limits(requests_per_minute=1), Limits(tokens_per_minute=1), Limits(spend=COST)])
def test_limits_survive_a_restart(database, limits):
    key = add_key(database, "ci", limits)

    async def scenario():
        async with opened(database) as ledger:
            await request(ledger, key)
        async with opened(database) as ledger:
            with pytest.raises(Refused):
                await ledger.admit(key)

    asyncio.run(scenario())


def test_a_limit_is_met_exactly_by_requests_at_the_same_time(database):
    keys = {limit: add_key(database, f"up to {limit}", Limits(requests_per_minute=limit)) for limit in (1, 20, 63)}

    async def scenario():
        async with opened(database) as ledger:
            for limit, key in keys.items():
                came = admitted(await outcomes(*(ledger.admit(key) for _ in range(64))))
                assert len(came) == len(set(came)) == limit

    asyncio.run(scenario())


def test_a_limit_holds_over_several_gateways_at_the_same_time(database):
    keys = [add_key(database, f"key {number}", Limits(requests_per_minute=20)) for number in range(10)]

    async def scenario():
        async with opened(database) as one, opened(database) as other:
            for key in keys:
                came = admitted(await outcomes(*(ledger.admit(key) for _ in range(32) for ledger in (one, other))))
                assert len(came) == len(set(came)) == 20

    asyncio.run(scenario())


def test_several_gateways_book_everything_once_whatever_keys_they_share(database):
    keys = [add_key(database, f"key {number}") for number in range(4)]

    async def scenario():
        async with opened(database) as one, opened(database) as other:
            await asyncio.gather(*(request(ledger, key) for _ in range(16) for ledger in (one, other) for key in keys))

    asyncio.run(scenario())
    for use in list_keys(database):
        assert (use.requests, use.unbooked, use.spent) == (32, 0, 0.008)
        assert sum(use.tokens.values()) == 32 * TOKENS


def test_keys_are_locked_in_one_order_lest_two_gateways_wait_for_each_other(postgres):
    database = postgres.new_database()
    hashes = [hash_of(add_key(database, name)) for name in ("first", "second")]
    engine = open_database(database)

    def let_in():
        with engine.begin() as connection:
            return settle(connection, [], hashes[::-1])

    with psycopg.connect(database) as other, psycopg.connect(database, autocommit=True) as watch, ThreadPoolExecutor() as pool:
        watch.execute("UPDATE counterpoint_keys SET spent = 1 WHERE id = 1")  # which puts it behind the other in the file
        other.execute("SELECT * FROM counterpoint_keys WHERE id = 1 FOR UPDATE")
        admissions = pool.submit(let_in)
        deadline = monotonic() + 10
        while watch.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchall() == [(0,)]:
            assert monotonic() < deadline
        other.execute("SELECT * FROM counterpoint_keys WHERE id = 2 FOR UPDATE NOWAIT")
        other.rollback()
        assert len(admitted(admissions.result(timeout=10))) == 2
    engine.dispose()


def test_a_request_that_is_booked_again_counts_once(database):
    key = add_key(database, "ci")

    async def scenario():
        async with opened(database) as ledger:
            admission = await ledger.admit(key)
            for _ in range(2):
                await ledger.book(admission, USED, COST)

    asyncio.run(scenario())
    assert (sum(use_of(database).tokens.values()), use_of(database).spent) == (TOKENS, COST)


tokens = st.integers(0, MOST_TOKENS)
billionths = st.integers(0, MOST_COST * COST_UNITS)
requests = st.tuples(
    st.dictionaries(st.sampled_from(["capable", "light"]), st.builds(Usage, tokens, tokens)),
    billionths,
    st.sampled_from([1, 2]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(requests, max_size=12), data=st.data())
def test_totals_are_the_sum_of_what_was_booked(database, made, data):
    """In any order, and once for a request that is booked twice."""
    name = f"key {os.urandom(8).hex()}"
    key = add_key(database, name)

    async def scenario():
        async with opened(database) as ledger:
            admissions = await asyncio.gather(*(ledger.admit(key) for _ in made))
            ends = [
                (admission, used, cost / COST_UNITS)
                for admission, (used, cost, times) in zip(admissions, made, strict=True)
                for _ in range(times)
            ]
            await asyncio.gather(*(ledger.book(*end) for end in data.draw(st.permutations(ends))))

    asyncio.run(scenario())
    use = use_of(database, name)
    for role in ("capable", "light"):
        assert use.tokens[f"{role}_input"] == sum(used[role].prompt_tokens for used, _, _ in made if role in used)
        assert use.tokens[f"{role}_output"] == sum(used[role].output_tokens for used, _, _ in made if role in used)
    assert (use.requests, use.unbooked) == (len(made), 0)
    assert use.spent == sum(cost for _, cost, _ in made) / COST_UNITS
