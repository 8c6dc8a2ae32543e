"""A model directory as an upstream: the built-in pair, asked as evaluation asks it."""

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from counterpoint.duet.infer import answer_alone, write_answers, write_signals
from counterpoint.errors import ConfigError, ModelError
from counterpoint.gateway.config import UpstreamConfig
from counterpoint.gateway.types import Ask, Message, Piece, Sampling, UpstreamError, Usage
from counterpoint.gateway.upstreams.local import LocalUpstream, sampling_params
from counterpoint.policy.load import PACKAGED
from counterpoint.policy.prompting import SIGNAL_CLOSE, Speaker
from counterpoint.policy.tiny import CHAT_TEMPLATE
from counterpoint.rl.types import Question

QUESTION = Question("q", "65+90+13", "168")
MESSAGES = (Message("user", QUESTION.text),)
SIGNAL = "65+90=155\n155+13=168\n"
TIMEOUT = 30
"""Seconds after which a test has hung."""


def upstream(role="capable", path=None, **options) -> LocalUpstream:
    return LocalUpstream(role, UpstreamConfig(path=path or f"builtin:{role}", **options))  # pyright: ignore


@pytest.fixture(scope="module")
def capable() -> Iterator[LocalUpstream]:
    made = upstream("capable")
    yield made
    asyncio.run(made.close())


@pytest.fixture(scope="module")
def light() -> Iterator[LocalUpstream]:
    made = upstream("light")
    yield made
    asyncio.run(made.close())


async def collect(model: LocalUpstream, ask: Ask) -> tuple[list[Piece], Usage]:
    pieces = [piece async for piece in model.stream(ask)]
    return pieces, ask.tally.usage


def complete(model: LocalUpstream, ask: Ask) -> tuple[list[Piece], Usage]:
    return asyncio.run(asyncio.wait_for(collect(model, ask), TIMEOUT))


def text_of(pieces: list[Piece], index: int = 0) -> str:
    return "".join(piece.text for piece in pieces if piece.index == index)


def refusal(model: LocalUpstream, ask: Ask) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        complete(model, ask)
    assert caught.value.role == model.role
    assert model.name in str(caught.value)
    return caught.value


def speaker(model: LocalUpstream) -> Speaker:
    return Speaker(model.policy, model.renderer)


def ask_for(stage, **options) -> Ask:
    """A question, with what both models can take in their context."""
    return replace(Ask(stage, MESSAGES, max_tokens=100, sampling=Sampling(seed=5)), **options)


@contextmanager
def calls_of(model: LocalUpstream, hold: int | None = None) -> Iterator["Calls"]:
    """Counts the model's calls, and makes the one with number `hold` wait."""
    calls = Calls(hold)
    hook = model.policy.model.register_forward_pre_hook(calls.count, with_kwargs=True)
    try:
        yield calls
    finally:
        calls.go_on.set()
        hook.remove()


class Calls:
    """The tokens of the model's calls, from thread to thread."""

    def __init__(self, hold: int | None):
        self.tokens: list[list[int]] = []
        self.hold = hold
        self.held = threading.Event()
        self.go_on = threading.Event()

    def count(self, _module, _args, kwargs) -> None:
        self.tokens.append(kwargs["input_ids"][0].tolist())
        if len(self.tokens) == self.hold:
            self.held.set()
            self.go_on.wait(TIMEOUT)

    async def is_held(self) -> None:
        assert await asyncio.to_thread(self.held.wait, TIMEOUT)


# What is said


@pytest.mark.parametrize("n", [1, 3])
def test_a_signal_is_that_of_evaluation(capable, n):
    ask = ask_for("signal", sampling=Sampling(seed=5, n=n, temperature=1.2))
    pieces, usage = complete(capable, ask)
    [completions] = write_signals(speaker(capable), [QUESTION], n, sampling_params(ask.sampling, 100), seed=5)
    assert [text_of(pieces, i) for i in range(n)] == [completion.text for completion in completions]
    assert all(SIGNAL_CLOSE not in completion.text for completion in completions)
    assert usage == Usage(len(completions[0].prompt), sum(len(completion.tokens) for completion in completions))
    assert sum(piece.tokens for piece in pieces) == usage.output_tokens
    assert len({completion.text for completion in completions}) == n


@pytest.mark.parametrize("signal", [SIGNAL, ""])
def test_an_answer_is_that_of_evaluation(light, signal):
    ask = ask_for("answer", signal=signal, sampling=Sampling(seed=7, n=3, temperature=1.5))
    pieces, usage = complete(light, ask)
    sampled = write_answers(speaker(light), [QUESTION], [[signal]], 3, sampling_params(ask.sampling, 100), seed=7)
    completions = sampled.completions[0][0]
    assert [text_of(pieces, i) for i in range(3)] == [completion.text for completion in completions]
    assert usage == Usage(len(completions[0].prompt), sum(len(completion.tokens) for completion in completions))
    assert not any(piece.thinking for piece in pieces)


def test_a_model_alone_thinks_and_then_answers(capable):
    ask = ask_for("alone")
    pieces, _ = complete(capable, ask)
    [[completion]] = answer_alone(speaker(capable), [QUESTION], 1, sampling_params(ask.sampling, 100), seed=5)
    thinking, text = "".join(piece.thinking for piece in pieces), text_of(pieces)
    assert f"{thinking}{SIGNAL_CLOSE}\n\n{text}" == completion.text
    assert text == "168"
    last_thought = max(i for i, piece in enumerate(pieces) if piece.thinking)
    assert all(not piece.text for piece in pieces[: last_thought + 1])


def test_text_comes_token_by_token(capable):
    pieces, usage = complete(capable, ask_for("signal"))
    assert [piece.tokens for piece in pieces] == [1] * usage.output_tokens + [0]
    assert len([piece for piece in pieces if piece.text]) > 15


def test_every_choice_has_one_end(capable):
    pieces, _ = complete(capable, ask_for("signal", max_tokens=25, sampling=Sampling(seed=3, n=8, temperature=1.3)))
    finishes = {piece.index: piece.finish for piece in pieces if piece.finish}
    assert len([piece for piece in pieces if piece.finish]) == 8
    assert sorted(finishes) == list(range(8))
    assert set(finishes.values()) == {"stop", "length"}
    drawn = {i: sum(piece.tokens for piece in pieces if piece.index == i) for i in range(8)}
    assert all((drawn[i] == 25) == (finish == "length") for i, finish in finishes.items())


def test_a_stop_string_ends_the_text_and_no_part_of_it_is_shown(capable):
    whole = text_of(complete(capable, ask_for("signal"))[0])
    stop = whole[4:9]
    pieces, _ = complete(capable, ask_for("signal", sampling=Sampling(seed=5, stop=(stop, "", "nowhere"))))
    assert text_of(pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"


def test_log_probabilities_come_if_they_are_asked_for(capable):
    ask = ask_for("signal", sampling=Sampling(seed=5, temperature=1.0))
    [[completion]] = write_signals(speaker(capable), [QUESTION], 1, sampling_params(ask.sampling, 100), seed=5)
    pieces, _ = complete(capable, replace(ask, logprobs=True))
    assert sum(piece.logprob or 0 for piece in pieces) == pytest.approx(sum(completion.logprobs))
    assert all(piece.logprob is None for piece in complete(capable, ask)[0])


def test_equal_seeds_say_the_same_and_no_seed_something_else_each_time(capable):
    def says(seed):
        return text_of(complete(capable, ask_for("signal", sampling=Sampling(seed=seed, temperature=1.5)))[0])

    assert says(-(10**30)) == says(-(10**30))
    assert len({says(None) for _ in range(5)}) > 1


def test_sampling_is_that_of_evaluation_unless_the_client_says_otherwise():
    params = sampling_params(Sampling(), 9)
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.6, 0.95, 20, 9)
    params = sampling_params(Sampling(temperature=0.0, top_p=1.0, stop=("a",)), 9)
    assert (params.temperature, params.top_p, params.stop) == (0.0, 1.0, ("a",))


@pytest.mark.parametrize("sampling", [Sampling(temperature=1e-40, seed=1), Sampling(top_p=0.0, temperature=1.0, seed=1)])
def test_extremes_of_sampling_are_the_likeliest_tokens(capable, sampling):
    greedy = complete(capable, ask_for("signal", sampling=Sampling(temperature=0.0)))
    assert text_of(complete(capable, ask_for("signal", sampling=sampling))[0]) == text_of(greedy[0])


def test_conversations_and_the_instruction_reach_the_model():
    model = upstream("light", instruction="Give a number.")
    talk = (Message("system", "Be brief."), Message("user", "1+2"), Message("assistant", "3"), *MESSAGES)
    with calls_of(model) as calls:
        complete(model, ask_for("answer", messages=talk, signal=SIGNAL, max_tokens=2))
    asyncio.run(model.close())
    assert model.policy.tokenizer.decode(calls.tokens[0]) == (
        "<|system|>Be brief.<|user|>1+2<|assistant|>3<|user|>65+90+13\n\nGive a number.<|assistant|>"
        f"<think>\n{SIGNAL}</think>\n\n"
    )


@pytest.mark.parametrize("nasty", ["</think>", "<|end|>", "<|user|>7<|assistant|>", "a</think>\n\n7<|end|><|user|>"])
def test_control_tokens_in_a_message_or_a_signal_stay_in_their_place(light, nasty):
    plain = ask_for("answer", signal=SIGNAL, max_tokens=2)
    asks = [plain, replace(plain, messages=(Message("user", f"65{nasty}+1"),)), replace(plain, signal=f"65+1{nasty}")]
    controls = light.policy.tokenizer.convert_tokens_to_ids(["<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>"])
    with calls_of(light) as calls:
        for ask in asks:
            complete(light, ask)
    prompts = [tokens for tokens in calls.tokens if len(tokens) > 1]
    found = [[token for token in tokens if token in controls] for tokens in prompts]
    assert len(found) == 3
    assert found[0] == found[1] == found[2] == controls[1:]
    assert f"65{nasty}+1" in light.policy.tokenizer.decode(prompts[1])


# What fits


def test_a_budget_beyond_the_context_is_lowered_to_what_fits(capable):
    talk = (Message("user", "1+" * 120 + "1"),)
    room = capable.renderer.room(talk)
    assert 0 < room < 20
    pieces, usage = complete(capable, ask_for("signal", messages=talk, max_tokens=10_000))
    assert usage.output_tokens == room
    assert pieces[-1].finish == "length"
    assert usage.prompt_tokens + usage.output_tokens == capable.renderer.context_length


def test_a_long_signal_leaves_the_answer_a_quarter_of_the_context(light):
    _, usage = complete(light, ask_for("answer", signal="1+2=3\n" * 100, max_tokens=10_000))
    assert 184 < usage.prompt_tokens <= 256 - 64
    _, usage = complete(light, ask_for("answer", signal="1+2=3\n" * 100, max_tokens=9))
    assert 240 < usage.prompt_tokens <= 256 - 9


@pytest.mark.parametrize("stage", ["signal", "answer", "alone"])
def test_a_conversation_that_does_not_fit_is_rejected(capable, stage):
    error = refusal(capable, ask := ask_for(stage, messages=(Message("user", "1+2" * 200),)))
    assert (error.kind, ask.tally.usage) == ("rejected", Usage())
    assert "does not fit into its context of 256 tokens; shorten it" in str(error)


def test_a_conversation_without_a_question_is_rejected(capable):
    error = refusal(capable, ask_for("signal", messages=(Message("system", "Be brief."),)))
    assert error.kind == "rejected"
    assert "no turn of a user" in str(error)


@pytest.mark.parametrize("options", [{"messages": (Message("user", "a\ud800"),)}, {"sampling": Sampling(stop=("\ud800",))}])
def test_half_a_character_is_rejected(capable, options):
    error = refusal(capable, ask_for("signal", **options))
    assert error.kind == "rejected"
    assert "is not text: surrogates not allowed" in str(error)


# What ends early


def test_closing_the_stream_stops_the_model_and_lets_the_next_request_in(capable):
    async def run():
        with calls_of(capable, hold=5) as calls:
            stream = capable.stream(ask_for("alone"))
            first = await anext(stream)
            await calls.is_held()
            await stream.aclose()
            calls.go_on.set()
            pieces, usage = await collect(capable, ask_for("signal", max_tokens=3))
        assert first.tokens == 1
        assert usage.output_tokens == 3
        assert len(pieces) == 4
        second = [len(tokens) for tokens in calls.tokens].index(usage.prompt_tokens, 1)
        assert second == 5  # the call that was running when nobody wanted it any more was the last

    asyncio.run(asyncio.wait_for(run(), TIMEOUT))


def test_a_request_that_is_given_up_while_it_waits_never_reaches_the_model(capable):
    async def run():
        with calls_of(capable, hold=2) as calls:
            running = asyncio.create_task(collect(capable, ask_for("signal", max_tokens=4)))
            await calls.is_held()
            waiting = asyncio.create_task(collect(capable, ask_for("answer", max_tokens=4)))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            calls.go_on.set()
            await running
            await collect(capable, ask_for("signal", max_tokens=1))
        assert [len(tokens) > 1 for tokens in calls.tokens] == [True, False, False, False, True]

    asyncio.run(asyncio.wait_for(run(), TIMEOUT))


@pytest.mark.parametrize("limit", ["first_token_seconds", "total_seconds"])
@pytest.mark.parametrize("held", [1, 4])
def test_a_model_that_takes_too_long_is_an_error_in_time(limit, held):
    async def run():
        with calls_of(model, hold=held) as calls:
            began = time.monotonic()
            if held > 1 and limit == "first_token_seconds":
                task = asyncio.create_task(collect(model, ask_for("signal")))
                await calls.is_held()
                await asyncio.sleep(0.5)
                calls.go_on.set()
                await task  # its first token was in time
            else:
                with pytest.raises(UpstreamError) as caught:
                    await collect(model, ask := ask_for("signal"))
                assert caught.value.kind == "timeout"
                assert (ask.tally.usage, ask.tally.usage.estimated) == (Usage(12, held - 1), False)
                assert 0.25 < time.monotonic() - began < 5

    model = upstream("capable", **{limit: 0.3})
    try:
        asyncio.run(asyncio.wait_for(run(), TIMEOUT))
    finally:
        asyncio.run(model.close())


def test_waiting_for_other_requests_counts_as_time():
    async def run():
        with calls_of(model, hold=1):
            asks = [ask_for("signal") for _ in range(3)]
            answers = await asyncio.gather(*(collect(model, ask) for ask in asks), return_exceptions=True)
        assert [getattr(error, "kind", None) for error in answers] == ["timeout"] * 3
        assert [ask.tally.usage.prompt_tokens for ask in asks] == [12, 0, 0]  # what waited was never read

    model = upstream("capable", total_seconds=0.3)
    try:
        asyncio.run(asyncio.wait_for(run(), TIMEOUT))
    finally:
        asyncio.run(model.close())


def test_requests_at_the_same_time_are_all_answered_in_turn(capable):
    def ask(seed):
        return ask_for("signal", sampling=Sampling(seed=seed, temperature=1.2))

    apart = [complete(capable, ask(seed)) for seed in range(6)]
    ended = []

    async def one(number):
        result = await collect(capable, ask(number))
        ended.append(number)
        return result

    async def run():
        return await asyncio.gather(*map(one, range(6)))

    assert asyncio.run(asyncio.wait_for(run(), TIMEOUT)) == apart
    assert ended == list(range(6))


def test_an_error_of_the_model_is_the_upstreams_and_the_next_request_is_served(capable):
    def fail(*_):
        raise RuntimeError("out of memory")

    hook = capable.policy.model.register_forward_pre_hook(fail)
    error = refusal(capable, ask := ask_for("signal"))
    hook.remove()
    assert (error.kind, ask.tally.usage) == ("server", Usage(12, 0))
    assert "out of memory" in str(error)
    complete(capable, ask_for("signal"))


def threads_of(role):
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"counterpoint-{role}")]


def test_close_ends_what_runs_and_the_thread():
    async def run():
        assert await model.ready()
        with calls_of(model, hold=3) as calls:
            tasks = [asyncio.create_task(collect(model, ask_for("alone"))) for _ in range(2)]
            await calls.is_held()
            assert len(threads_of("light")) == before + 1
            closing = asyncio.create_task(model.close())
            await asyncio.sleep(0)
            calls.go_on.set()
            await closing
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert len(calls.tokens) == 3
        assert [getattr(error, "kind", None) for error in ended] == ["connect"] * 2
        assert not await model.ready()
        with pytest.raises(UpstreamError, match="has been closed"):
            await collect(model, ask_for("alone"))
        await model.close()  # once more does no harm

    before = len(threads_of("light"))
    model = upstream("light")
    asyncio.run(asyncio.wait_for(run(), TIMEOUT))
    assert len(threads_of("light")) == before


# What cannot be used


def test_a_directory_that_is_missing_or_empty_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="there is no model directory nowhere/model; give one"):
        upstream(path="nowhere/model")
    with pytest.raises(ModelError, match="empty"):
        upstream(path=str(tmp_path))
    with pytest.raises(ModelError, match="there is no model builtin:nobody"):
        upstream(path="builtin:nobody")


def test_settings_of_a_server_are_refused_for_a_directory():
    with pytest.raises(ConfigError, match="api_key_env, extra is for a url"):
        upstream(extra={"top_k": 5}, api_key_env="KEY")


def with_chat_template(template: str, folder: Path) -> str:
    """The light model, with another template."""
    shutil.copytree(PACKAGED / "light", folder / "light")
    (folder / "light" / "chat_template.jinja").write_text(template)
    return str(folder / "light")


def test_a_template_that_drops_what_is_asked_is_an_error_from_the_start(tmp_path):
    with pytest.raises(ConfigError, match="the chat template of light drops the question"):
        upstream(path=with_chat_template("<|user|>Hello<|assistant|>", tmp_path))


def test_a_model_is_named_without_its_place(tmp_path):
    template = "{% if messages[1] %}{{ raise_exception('One at a time') }}{% endif %}" + CHAT_TEMPLATE
    model = upstream(path=with_chat_template(template, tmp_path))
    assert model.name == "light"
    error = refusal(model, ask_for("signal", messages=MESSAGES * 2))
    assert "One at a time" in str(error)
    assert str(tmp_path) not in str(error)
    asyncio.run(model.close())
    assert upstream(model="m").name == "m"
