"""A server as a model, against a real process that misbehaves: what comes, what it costs, how it fails, what is left behind."""

import asyncio
import dataclasses
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from counterpoint.errors import ConfigError
from counterpoint.gateway.budgets import Budgets
from counterpoint.gateway.config import UpstreamConfig
from counterpoint.gateway.policies import signal_by
from counterpoint.gateway.turn import Call, Turn
from counterpoint.gateway.types import Ask, Message, Piece, Sampling, Stage, UpstreamError, Usage
from counterpoint.gateway.upstreams import http
from counterpoint.gateway.upstreams.http import HttpUpstream
from counterpoint.gateway.upstreams.listing import Listed
from gateway.conftest import Misbehaving

MESSAGES = (Message("user", "hello there"),)
GUESS = 3
"""Tokens that they are taken for where the server does not say: eleven characters, four a token."""
TEXT = "".join(f" w{number}" for number in range(32))
PATIENCE = 0.4
"""Seconds for a token, where none comes."""
BOUND = 4.0
"""Seconds within which every fault here must have been reported, on a busy machine too."""


@pytest.fixture(autouse=True)
def no_waits_between_tries(monkeypatch):
    monkeypatch.setattr(http, "backoff", lambda attempt: 0.0)


def model(url: str, **config: Any) -> HttpUpstream:
    limits = {"connect_seconds": 3.0, "first_token_seconds": 3.0, "total_seconds": 9.0}
    return HttpUpstream("capable", UpstreamConfig(**{"url": url, "model": "fake", **limits, **config}))


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def leaving_nothing(use: Callable[[HttpUpstream], Awaitable[Any]], url: str, bound: float = BOUND, **config: Any) -> Any:
    """The result of `use`, which takes bounded time and after which no task and no socket are left."""

    async def main() -> Any:
        files, asked = open_files(), model(url, **config)
        await asked.ready()  # as when a gateway starts: the list is not asked for again for a while
        tasks = asyncio.all_tasks()
        started = time.monotonic()
        result = await use(asked)
        assert time.monotonic() - started < bound
        assert asyncio.all_tasks() == tasks
        await asked.close()
        for _ in range(3):  # turns of the loop in which transports let go of their sockets
            await asyncio.sleep(0)
        assert open_files() <= files  # fewer where what an earlier test left was let go of meanwhile
        return result

    return asyncio.run(main())


async def drained(asked: HttpUpstream, ask: Ask | None = None) -> tuple[list[Piece], Usage | UpstreamError]:
    """All pieces, and the usage or the error."""
    ask = ask or asking()
    pieces: list[Piece] = []
    try:
        async for piece in asked.stream(ask):
            pieces.append(piece)
    except UpstreamError as error:
        return pieces, error
    return pieces, ask.tally.usage


def asking(max_tokens: int = 32, stage: Stage = "alone", **more: Any) -> Ask:
    return Ask(stage, MESSAGES, max_tokens, **more)


def answer(url: str, ask: Ask | None = None, **config: Any) -> tuple[list[Piece], Usage]:
    pieces, usage = leaving_nothing(lambda asked: drained(asked, ask), url, **config)
    assert isinstance(usage, Usage), usage
    return pieces, usage


def fault(url: str, ask: Ask | None = None, **config: Any) -> tuple[list[Piece], UpstreamError]:
    pieces, error = leaving_nothing(lambda asked: drained(asked, ask), url, **config)
    assert isinstance(error, UpstreamError)
    assert error.role == "capable"
    return pieces, error


def text(pieces: list[Piece], index: int = 0) -> str:
    return "".join(piece.text for piece in pieces if piece.index == index)


# ---- a server that is well


def test_an_answer_comes_in_pieces_with_its_usage_last(misbehaving):
    pieces, usage = answer(misbehaving.url("instant"))
    assert text(pieces) == TEXT
    assert [piece.tokens for piece in pieces] == [1] * 32 + [0]
    assert [piece.finish for piece in pieces] == [None] * 32 + ["stop"]
    assert usage == Usage(2, 32)
    assert misbehaving.count("instant")["output_tokens"] == 32


def test_pieces_come_as_they_are_written(misbehaving):
    async def use(asked):
        return [(piece, time.monotonic()) async for piece in asked.stream(asking())]

    times = [at for piece, at in leaving_nothing(use, misbehaving.url("paced=10")) if piece.tokens]
    assert times[-1] - times[0] > 0.25
    assert max(later - earlier for earlier, later in pairwise(times)) < 0.2


def test_a_budget_that_is_spent_is_length(misbehaving):
    pieces, usage = answer(misbehaving.url("instant"), Ask("alone", MESSAGES, max_tokens=5))
    assert text(pieces) == " w0 w1 w2 w3 w4"
    assert pieces[-1].finish == "length"
    assert usage.output_tokens == 5


def test_choices_that_take_turns_are_told_apart(misbehaving):
    pieces, usage = answer(misbehaving.url("paced=1"), Ask("alone", MESSAGES, 8, Sampling(n=3)))
    assert [text(pieces, index) for index in range(3)] == [" w0 w1 w2 w3 w4 w5 w6 w7"] * 3
    assert [piece.index for piece in pieces[:6]] == [0, 1, 2, 0, 1, 2]
    assert usage == Usage(2, 24)


def test_reasoning_is_told_apart(misbehaving):
    pieces, _ = answer(misbehaving.url("thinking"))
    assert "".join(piece.thinking for piece in pieces) + text(pieces) == TEXT
    assert all(piece.thinking for piece in pieces[:16])


def test_what_a_model_thinks_is_not_the_signal_that_it_was_asked_for_in_its_message(misbehaving):
    pieces, usage = answer(misbehaving.url("thinking"), Ask("signal", MESSAGES, 32), signal="message")
    assert not any(piece.thinking for piece in pieces)
    assert TEXT.endswith(text(pieces))
    assert usage.output_tokens == 32  # what it thought was paid for


def test_log_probabilities_come_when_asked_for(misbehaving):
    pieces, _ = answer(misbehaving.url("instant"), Ask("alone", MESSAGES, 32, logprobs=True))
    assert {piece.logprob for piece in pieces[:-1]} == {-0.5}


def test_without_usage_tokens_are_counted(misbehaving):
    assert answer(misbehaving.url("silent"))[1] == Usage(GUESS, 32)


def test_one_body_instead_of_a_stream_is_taken(misbehaving):
    pieces, usage = answer(misbehaving.url("plain"))
    assert text(pieces) == TEXT
    assert (pieces[0].tokens, pieces[0].finish) == (32, "stop")
    assert usage == Usage(2, 32)


def test_events_in_portions_that_split_characters(misbehaving):
    assert text(answer(misbehaving.url("commented"))[0]) == "né 🎵"


@pytest.mark.parametrize("mode", ["undone", "lingering", "unended"])
def test_an_answer_is_whole_once_its_choices_have_ended(misbehaving, mode):
    pieces, usage = answer(misbehaving.url(mode), bound=2.5)
    assert text(pieces) == TEXT
    assert usage == Usage(GUESS, 32)
    assert misbehaving.count(mode)["running"] == 0


def test_the_model_is_the_first_that_the_server_lists(misbehaving):
    async def use(asked):
        assert asked.name == "fake"  # told by the list that was asked for at the start
        await asyncio.gather(*(drained(asked) for _ in range(3)))
        return asked.name

    assert leaving_nothing(use, misbehaving.url("instant"), model=None) == "fake"
    assert misbehaving.last("instant")["model"] == "fake"


@pytest.mark.parametrize("named", ["fake", None])
def test_a_server_that_can_is_asked_to_say_its_usage_all_along(misbehaving, named):
    telling = dataclasses.replace(misbehaving, label=f"{misbehaving.label}-vllm")
    answer(telling.url("instant"), model=named)
    assert telling.last("instant")["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    answer(misbehaving.url("instant"), model=named)
    assert misbehaving.last("instant")["stream_options"] == {"include_usage": True}


def test_of_a_call_that_is_cut_off_the_usage_is_known_as_far_as_the_server_said_it(misbehaving):
    telling = dataclasses.replace(misbehaving, label=f"{misbehaving.label}-vllm")

    async def use(asked):
        ask = asking()
        async with aclosing(asked.stream(ask)) as pieces:
            await anext(pieces)
        return ask.tally.usage

    assert leaving_nothing(use, telling.url("paced=20")).prompt_tokens == 2
    unknown = leaving_nothing(use, misbehaving.url("paced=20"))
    assert (unknown.prompt_tokens, unknown.output_tokens, unknown.estimated) == (GUESS, 1, True)


def reads_signal(misbehaving: Misbehaving, mode: str, **config: Any) -> Call:
    """What a signal took that is read to its closing tag; the model that reads it is asked at once."""

    async def use(asked: HttpUpstream) -> tuple[Call, float]:
        turn = Turn(MESSAGES, Sampling(), Budgets(64, 1))
        async for _ in signal_by(asked, turn):
            pass
        read = time.monotonic()
        await turn.settle()
        return turn.calls[0], time.monotonic() - read

    call, waited = leaving_nothing(use, misbehaving.url(mode), **config)
    assert (waited > 0.03) == (config["signal"] == "message")  # beside the answer, not before it
    return call


def test_a_model_that_ends_the_signal_it_was_asked_for_is_let_end_and_say_its_usage(misbehaving):
    usage = reads_signal(misbehaving, "closing", signal="message").usage
    assert (usage, usage.estimated) == (Usage(usage.prompt_tokens, 5), False)
    assert usage.prompt_tokens > 50  # with the instruction


@pytest.mark.parametrize("config", [{"signal": "thinking"}, {"signal": "message", "more": 40}])
def test_a_model_that_goes_on_after_its_signal_is_cut_off(misbehaving, config):
    usage = reads_signal(misbehaving, f"closing={config.pop('more', 0)}", **config).usage
    assert usage.estimated
    assert usage.output_tokens < 25


@pytest.mark.parametrize(("named", "sent"), [(0, 1468), (2000, 2000), (8000, 8000)])
def test_what_the_client_asks_for_by_number_is_asked_for(misbehaving, named, sent):
    """The estimate of a prompt is high: an answer that would have fitted is not cut short by it."""
    narrow = dataclasses.replace(misbehaving, label=f"{misbehaving.label}-vllm")
    answer(narrow.url("instant"), Ask("alone", (Message("user", "word " * 1000),), 8000, named_tokens=named))
    assert narrow.last("instant")["max_tokens"] == sent


def test_a_server_without_end_is_cut_off_by_the_budget_that_it_was_given(misbehaving):
    narrow = dataclasses.replace(misbehaving, label=f"{misbehaving.label}-vllm")
    _, usage = answer(narrow.url("endless"), asking(100_000))
    assert usage.output_tokens < 6000


def test_no_more_is_asked_for_than_a_context_that_is_known_can_hold(misbehaving):
    narrow, long = dataclasses.replace(misbehaving, label=f"{misbehaving.label}-vllm"), (Message("user", "word " * 1000),)
    for server, messages, sent in ((narrow, MESSAGES, 3963), (narrow, long, 1468), (misbehaving, long, 8000)):
        answer(server.url("instant"), Ask("alone", messages, 8000))
        assert server.last("instant")["max_tokens"] == sent


def test_a_list_that_hangs_is_nothing_to_a_model_that_is_named(misbehaving):
    hanging = dataclasses.replace(misbehaving, label=f"{misbehaving.label}-hanging")

    async def main():
        asked = model(hanging.url("instant"))
        began = time.monotonic()
        results = await asyncio.gather(*(drained(asked) for _ in range(5)))
        await asked.close()
        return results, time.monotonic() - began

    results, seconds = asyncio.run(main())
    assert {text(pieces) for pieces, _ in results} == {TEXT}
    assert seconds < 1.0


def test_a_server_that_was_started_with_another_model_is_asked_by_its_new_name(misbehaving):
    async def use(asked):
        asked._listing.latest = Listed("old")
        return await drained(asked)

    pieces, _ = leaving_nothing(use, misbehaving.url("strict"), model=None)
    assert text(pieces) == TEXT
    _, error = leaving_nothing(drained, misbehaving.url("strict"), model="old")
    assert error.kind == "denied"


@pytest.mark.parametrize("mode", ["instant", "plain", "paced=1", "unended=10", "broken=2"])
def test_connections_are_used_again(misbehaving, mode):
    async def use(asked):
        for _ in range(4):
            await drained(asked)

    leaving_nothing(use, misbehaving.url(mode))
    assert misbehaving.count(mode)["connections"] == 1


def test_a_connection_that_was_not_read_to_its_end_is_not_used_again(misbehaving):
    async def use(asked):
        for _ in range(2):
            await drained(asked)

    leaving_nothing(use, misbehaving.url("unended"))
    assert misbehaving.count("unended")["connections"] == 2


def test_many_streams_at_a_time(misbehaving):
    async def use(asked):
        return await asyncio.gather(*(drained(asked) for _ in range(64)))

    results = leaving_nothing(use, misbehaving.url("paced=2"), bound=5.0)
    assert {text(pieces) for pieces, _ in results} == {TEXT}
    assert misbehaving.count("paced=2")["output_tokens"] == 64 * 32


# ---- faults


UNACCEPTED = {"headless", "dropped", "html", "fat", "moved", "unauthorized", "broken", "busy"}
"""Modes that never begin to answer, so that no prompt was read."""


@pytest.mark.parametrize(
    ("mode", "kind", "tokens"),
    [
        ("headless", "timeout", 0),
        ("tokenless", "timeout", 0),
        ("stalled", "timeout", 16),
        ("half", "connect", 16),
        ("headers", "connect", 0),
        ("dropped", "connect", 0),
        ("cut", "protocol", 16),
        ("garbled", "protocol", 16),
        ("foreign", "protocol", 16),
        ("troubled", "server", 16),
        ("html", "protocol", 0),
        ("zipped", "protocol", 0),
        ("line", "protocol", 0),
        ("noise", "protocol", 0),
        ("vast", "protocol", 0),
        ("fat", "protocol", 0),
        ("moved", "protocol", 0),
        ("unauthorized", "denied", 0),
        ("broken", "server", 0),
        ("busy", "rate_limit", 0),
    ],
)
def test_a_fault_is_an_error_of_its_kind_with_what_had_come(misbehaving, mode, kind, tokens):
    limits = {"first_token_seconds": PATIENCE} if kind == "timeout" else {}
    pieces, error = fault(misbehaving.url(mode), ask := asking(), **limits)
    assert error.kind == kind, error
    assert str(error).startswith(f"capable (127.0.0.1:{misbehaving.port}) ")
    assert len(str(error)) < 400
    accepted = mode not in UNACCEPTED
    assert ask.tally.usage == Usage(GUESS * accepted * (3 if mode == "headers" else 1), tokens)
    assert ask.tally.usage.estimated == accepted
    assert sum(piece.tokens for piece in pieces) == tokens
    tries = 3 if mode in ("headers", "dropped", "broken", "busy") else 1
    assert misbehaving.count(mode)["requests"] == tries
    assert misbehaving.count(mode)["output_tokens"] == tokens * tries
    assert misbehaving.count(mode)["running"] == 0


def test_a_body_that_is_compressed_is_named_as_such(misbehaving):
    assert "compressed" in str(fault(misbehaving.url("zipped"))[1])


def test_a_redirection_is_not_followed(misbehaving):
    _, error = fault(misbehaving.url("moved"))
    assert "307" in str(error)
    assert "instant/moved" not in misbehaving._get("counts")


def test_a_closed_port_is_a_connection_error_after_all_tries():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"  # bound, and nobody listens
        pieces, error = fault(url, ask := asking())
    assert (pieces, error.kind, ask.tally.usage) == ([], "connect", Usage())
    assert "cannot be reached" in str(error)


def test_a_server_that_does_not_accept_is_given_up_in_time():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with socket.create_connection(address):  # takes the only place in the queue
            _, error = fault(f"http://127.0.0.1:{address[1]}/v1", connect_seconds=0.2, retries=1)
    assert error.kind == "connect"


def test_a_server_that_is_killed_in_the_middle(doomed):
    async def use(asked):
        pieces = []
        try:
            async with aclosing(asked.stream(ask)) as stream:
                async for piece in stream:
                    pieces.append(piece)
                    if len(pieces) == 5:
                        os.kill(doomed.process.pid, signal.SIGKILL)
        except UpstreamError as error:
            return pieces, error
        raise AssertionError("it ended well")

    ask = asking()
    pieces, error = leaving_nothing(use, doomed.url("paced=20"))
    assert error.kind == "connect"
    assert ask.tally.usage.output_tokens == len(pieces) >= 5


def test_tokens_that_came_before_the_connection_broke_are_not_lost_on_a_slow_reader(misbehaving):
    async def use(asked):
        ask = asking()
        async with aclosing(asked.stream(ask)) as stream:
            first = await anext(stream)
            await asyncio.to_thread(misbehaving.count, "half=5")  # returns when all is sent and the connection closed
            await asyncio.sleep(0.05)
            try:
                return [first, *[piece async for piece in stream]]
            except UpstreamError:
                return ask.tally.usage.output_tokens

    assert leaving_nothing(use, misbehaving.url("half=5")) == 16


def test_a_server_that_never_stops_is_cut_off(misbehaving):
    pieces, usage = answer(misbehaving.url("endless"), Ask("alone", MESSAGES, 20, Sampling(n=2)))
    assert {piece.index: piece.finish for piece in pieces if piece.finish} == {0: "length", 1: "length"}
    assert 40 < usage.output_tokens == sum(piece.tokens for piece in pieces) < 80
    assert misbehaving.count("endless")["running"] == 0


def test_an_answer_that_takes_too_long_is_given_up_though_tokens_come(misbehaving):
    pieces, error = fault(misbehaving.url("paced=50"), ask := asking(), total_seconds=0.5)
    assert error.kind == "timeout"
    assert "total_seconds" in str(error)
    assert ask.tally.usage.output_tokens == len(pieces) > 3


def test_with_faults_here_and_there_what_was_spent_is_what_the_server_sent(misbehaving):
    async def use(asked):
        async def in_turn():
            asks = [asking() for _ in range(25)]
            return [(await drained(asked, ask), ask.tally.usage) for ask in asks]

        return [result for results in await asyncio.gather(*(in_turn() for _ in range(16))) for result in results]

    telling = {"extra": {"stream_options": {"continuous_usage_stats": True}}}  # else no prompt is known of what broke off
    results = leaving_nothing(use, misbehaving.url("lively=20"), bound=10.0, breaker_failures=99, **telling)
    spent = [usage for _, usage in results]
    assert {type(last) for (_, last), _ in results} == {Usage, UpstreamError}
    assert sum(usage.output_tokens for usage in spent) == misbehaving.count("lively=20")["output_tokens"]
    assert sum(usage.prompt_tokens for usage in spent) == misbehaving.count("lively=20")["prompt_tokens"]


# ---- other tries


def test_a_busy_server_is_asked_again_when_it_said(misbehaving):
    started = time.monotonic()
    pieces, usage = answer(misbehaving.url("busy=1,1"))
    assert time.monotonic() - started >= 1.0
    assert (text(pieces), usage) == (TEXT, Usage(2, 32))
    assert misbehaving.count("busy=1,1")["requests"] == 2


def test_a_server_that_is_busy_for_longer_than_there_is_time_is_not_waited_for(misbehaving):
    _, error = fault(misbehaving.url("busy=1,9"))
    assert (error.kind, error.retry_after) == ("rate_limit", 9.0)
    assert misbehaving.count("busy=1,9")["requests"] == 1


def test_a_server_that_recovers_is_asked_again(misbehaving):
    assert text(answer(misbehaving.url("broken=2"))[0]) == TEXT
    assert misbehaving.count("broken=2")["requests"] == 3


def test_no_more_tries_than_the_config_allows(misbehaving):
    fault(misbehaving.url("broken=1"), retries=0)
    assert misbehaving.count("broken=1")["requests"] == 1


def test_waits_count_in_the_time_of_the_stage(misbehaving, monkeypatch):
    monkeypatch.setattr(http, "backoff", lambda attempt: 0.3)
    _, error = fault(misbehaving.url("broken"), total_seconds=0.5, retries=9, breaker_failures=99)
    assert error.kind == "server"
    assert misbehaving.count("broken")["requests"] == 2


# ---- a caller that goes away


@pytest.mark.parametrize("mode", ["endless", "paced=20", "stalled"])
def test_closing_early_stops_the_server_at_once(misbehaving, mode):
    async def use(asked):
        ask = Ask("alone", MESSAGES, max_tokens=10**6)
        async with aclosing(asked.stream(ask)) as stream:
            async for _ in stream:
                break
        return await asyncio.to_thread(misbehaving.count, mode)

    assert leaving_nothing(use, misbehaving.url(mode))["running"] == 0


@pytest.mark.parametrize("mode", ["headless", "stalled", "paced=20"])
def test_a_cancelled_task_leaves_nothing(misbehaving, mode):
    async def use(asked):
        task = asyncio.create_task(drained(asked))
        while not misbehaving._get("counts").get(f"{mode}/{misbehaving.label}"):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    leaving_nothing(use, misbehaving.url(mode))
    assert misbehaving.count(mode)["running"] == 0


# ---- the breaker


def test_failures_in_a_row_open_the_breaker_and_a_success_closes_it(misbehaving):
    async def use(asked):
        kinds = [(await drained(asked))[1].kind for _ in range(3)]
        states = [asked.breaker_state]
        await asyncio.sleep(0.35)
        states.append(asked.breaker_state)
        assert isinstance((await drained(asked))[1], Usage)
        return kinds, [*states, asked.breaker_state]

    kinds, states = leaving_nothing(use, misbehaving.url("broken=2"), retries=0, breaker_failures=2, breaker_seconds=0.3)
    assert kinds == ["server", "server", "breaker"]
    assert states == ["open", "half-open", "closed"]
    assert misbehaving.count("broken=2")["requests"] == 3


def test_a_trial_that_begins_to_answer_closes_the_breaker(misbehaving):
    async def use(asked):
        await drained(asked)
        await asyncio.sleep(0.02)
        states = [asked.breaker_state]
        async for _ in asked.stream(asking()):
            states.append(asked.breaker_state)
        return states

    states = leaving_nothing(use, misbehaving.url("broken=1"), retries=0, breaker_failures=1, breaker_seconds=0.01)
    assert states == ["half-open"] + ["closed"] * 33


@pytest.mark.parametrize("mode", ["busy", "headless"])
def test_a_trial_that_says_nothing_leaves_its_place(misbehaving, mode):
    async def use(asked):
        asked._breaker.failed(asked._breaker.admit(0.0), 0.0)  # opened long ago
        trial = asyncio.create_task(drained(asked))
        while not misbehaving._get("counts").get(f"{mode}/{misbehaving.label}"):
            await asyncio.sleep(0.01)
        if mode == "headless":
            assert (await drained(asked))[1].kind == "breaker"
            trial.cancel()
        await asyncio.wait([trial])
        return asked._breaker.admit(time.monotonic())

    assert leaving_nothing(use, misbehaving.url(mode), retries=0, breaker_failures=1) is not None


def test_a_breaker_that_opens_ends_the_tries(misbehaving):
    _, error = fault(misbehaving.url("broken"), retries=9, breaker_failures=2)
    assert error.kind == "server"
    assert misbehaving.count("broken")["requests"] == 2


@pytest.mark.parametrize(
    ("mode", "state"),
    [
        *(("stalled", "open"), ("garbled", "open"), ("half", "open")),
        *(("busy", "closed"), ("unauthorized", "closed"), ("paced=50", "closed")),
    ],
)
def test_what_the_breaker_takes_for_a_failure(misbehaving, mode, state):
    async def use(asked):
        _, error = await drained(asked)
        assert isinstance(error, UpstreamError)
        return asked.breaker_state

    limits = {"total_seconds": PATIENCE} if mode == "paced=50" else {"first_token_seconds": PATIENCE}
    assert leaving_nothing(use, misbehaving.url(mode), breaker_failures=1, retries=0, **limits) == state


def test_a_caller_that_has_read_enough_is_a_success(misbehaving):
    async def use(asked):
        await drained(asked)
        async with aclosing(asked.stream(asking())) as stream:
            await anext(stream)
        return asked._breaker._failures

    assert leaving_nothing(use, misbehaving.url("broken=1"), retries=0) == 0


# ---- readiness


def test_ready_while_the_server_answers_and_the_breaker_is_closed(misbehaving):
    async def use(asked):
        well = await asked.ready(), asked.name
        await drained(asked)
        return (*well, await asked.ready())

    assert leaving_nothing(use, misbehaving.url("broken"), model=None, retries=0, breaker_failures=1) == (True, "fake", False)


def test_not_ready_where_nothing_answers():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not leaving_nothing(lambda asked: asked.ready(), f"http://127.0.0.1:{taken.getsockname()[1]}/v1")


def test_ready_needs_no_list_where_the_model_is_named(misbehaving):
    nowhere = f"http://127.0.0.1:{misbehaving.port}/v1/nothing"
    assert leaving_nothing(lambda asked: asked.ready(), nowhere)
    assert not leaving_nothing(lambda asked: asked.ready(), nowhere, model=None)


# ---- keys and settings


def test_the_key_is_sent_and_never_quoted(misbehaving, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret\n")
    _, error = fault(misbehaving.url("unauthorized"), api_key_env="MY_KEY")
    assert "no such key: Bearer ***" in str(error)
    assert "very-secret" not in repr(error)


def test_a_key_that_begins_where_the_quotation_ends_is_cut_off(misbehaving, monkeypatch):
    for length in range(150, 230):
        monkeypatch.setenv("MY_KEY", "s" * length + "-very-secret")
        _, error = fault(misbehaving.url("unauthorized"), api_key_env="MY_KEY")
        assert "sss" not in str(error)
    assert "sss" not in error.reason


def test_what_is_no_http_is_quoted_for_the_log_only_if_texts_may_be(misbehaving):
    _, error = fault(misbehaving.url("odd"))
    assert "X-Echo hello" in str(error)
    assert "hello" not in error.reason


@pytest.mark.parametrize("value", [None, "", " \n", "sk-\nInjected: x", "sk-é"])
def test_a_missing_or_broken_key_is_said_at_once(monkeypatch, value):
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ConfigError, match="MY_KEY"):
        model("http://localhost/v1", api_key_env="MY_KEY")


def test_a_key_in_the_url_is_refused():
    with pytest.raises(ConfigError, match="api_key_env"):
        model("http://me:sk-secret@localhost/v1")


def test_what_json_cannot_say_is_refused():
    with pytest.raises(ConfigError, match="extra"):
        model("http://localhost/v1", extra={"x": object()})
