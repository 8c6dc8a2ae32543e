"""Who answers, and who stands in."""

import asyncio
from contextlib import aclosing

import pytest

from counterpoint.gateway.policies import POLICIES, Pair
from counterpoint.gateway.types import Piece, Sampling, UpstreamError, Usage
from counterpoint.gateway.usage import Tariff, usage_body
from gateway.scripted import Scripted, broken, words
from gateway.serving import config_of
from gateway.turns import say, turn


def test_the_light_model_answers_with_the_signal_of_the_capable_one():
    pair = Pair(capable := Scripted("capable", words("two twos")), light := Scripted("light", words("it is 4")))
    asked = turn()
    assert say("duet", pair, asked) == ("two twos", "it is 4")
    assert [(call.role, call.stage, call.usage) for call in asked.calls] == [
        ("capable", "signal", Usage(5, 2)),
        ("light", "answer", Usage(5, 3)),
    ]
    assert (capable.asks[0].max_tokens, light.asks[0].max_tokens) == (50, 20)
    assert light.asks[0].signal == "two twos"


def test_the_signal_ends_at_its_closing_tag_even_if_the_server_goes_on():
    script = [Piece(text="two</th", tokens=1), Piece(text="ink>so it is 4", tokens=1), Piece(text="and more", tokens=1)]
    pair = Pair(capable := Scripted("capable", script), light := Scripted("light", words("4")))
    asked = turn()
    assert say("duet", pair, asked) == ("two", "4")
    assert light.asks[0].signal == "two"
    assert asked.calls[0].usage.output_tokens == 2  # the third was not waited for
    assert capable.open == 0


def test_reasoning_that_a_server_tells_apart_is_the_signal_and_its_answer_is_not_waited_for():
    script = [Piece(thinking="two", tokens=1), Piece(thinking=" twos", tokens=1), Piece(text="4", tokens=1), None]
    pair = Pair(Scripted("capable", script), light := Scripted("light", words("4")))
    assert say("duet", pair, turn()) == ("two twos", "4")
    assert light.asks[0].signal == "two twos"


def test_the_clients_stop_strings_and_number_of_choices_are_for_the_answer():
    pair = Pair(capable := Scripted("capable", words("a")), light := Scripted("light", words("b")))
    say("duet", pair, turn(sampling=Sampling(0.5, stop=("x",), n=3)))
    assert capable.asks[0].sampling == Sampling(0.5)
    assert light.asks[0].sampling == Sampling(0.5, stop=("x",), n=3)


def test_a_bound_on_both_stages_leaves_the_answer_what_the_signal_did_not_take():
    pair = Pair(capable := Scripted("capable", words("a b c")), light := Scripted("light", words("d")))
    say("duet", pair, turn(total=10))
    assert (capable.asks[0].max_tokens, light.asks[0].max_tokens) == (8, 7)


def test_if_the_capable_model_fails_the_light_one_answers_with_as_much_of_the_signal_as_there_is():
    pair = Pair(
        Scripted("capable", [Piece(text="two", tokens=1), Usage(5, 1), broken("capable")]), light := Scripted("light", words("4"))
    )
    asked = turn()
    assert say("duet", pair, asked) == ("two", "4")
    assert asked.fallback == "light"
    assert light.asks[0].signal == "two"
    assert asked.calls[0].error == "server"
    assert asked.calls[0].usage == Usage(5, 1)


def test_if_the_light_model_fails_the_capable_one_answers_from_its_own_signal():
    pair = Pair(capable := Scripted("capable", words("two twos"), words("four")), Scripted("light", [broken("light")]))
    asked = turn()
    assert say("duet", pair, asked) == ("two twos", "four")
    assert asked.fallback == "capable"
    assert (capable.asks[1].stage, capable.asks[1].signal) == ("answer", "two twos")


@pytest.mark.parametrize(("policy", "stands_in"), [("light", "capable"), ("capable", "light"), ("auto", "capable")])
def test_alone_too_the_other_model_stands_in(policy, stands_in):
    scripts = {"capable": words("from M"), "light": words("from m")}
    scripts["light" if stands_in == "capable" else "capable"] = [broken("light" if stands_in == "capable" else "capable")]
    pair = Pair(Scripted("capable", scripts["capable"]), Scripted("light", scripts["light"]), auto_threshold=-1)
    asked = turn()
    assert say(policy, pair, asked)[1] == {"capable": "from M", "light": "from m"}[stands_in]
    assert asked.fallback == stands_in


@pytest.mark.parametrize("policy", ["duet", "light", "capable", "auto"])
def test_where_fallback_is_forbidden_the_error_is_the_answer(policy):
    failing = Scripted("capable", [broken("capable")]), Scripted("light", [broken("light")])
    with pytest.raises(UpstreamError):
        say(policy, Pair(*failing, fallback=False, auto_threshold=-1), turn())


def test_a_request_that_the_model_rejects_is_not_tried_on_the_other():
    pair = Pair(capable := Scripted("capable", [broken("capable", "rejected")]), light := Scripted("light", words("4")))
    with pytest.raises(UpstreamError):
        say("duet", pair, turn())
    assert not light.asks
    assert len(capable.asks) == 1


TOO_LONG = UpstreamError("light", "rejected", "was answered with 400", quoted="This model's maximum context length is 99 tokens")


@pytest.mark.parametrize(("error", "context"), [(TOO_LONG, None), (broken("light", "rejected"), 130)])
def test_what_became_too_long_by_the_signal_the_capable_model_answers(error, context):
    pair = Pair(Scripted("capable", words("two twos"), words("four")), Scripted("light", [error]))
    pair.light.context_length = context
    assert say("duet", pair, asked := turn()) == ("two twos", "four")
    assert (asked.fallback, asked.warnings) == ("capable", set())
    with pytest.raises(UpstreamError):
        say("light", pair, turn())  # unaided it is the question that is wrong


@pytest.mark.parametrize("context", [None, 10_000])
def test_what_the_light_model_rejects_for_another_reason_is_an_error_that_the_operator_hears_of(context):
    pair = Pair(capable := Scripted("capable", words("s")), Scripted("light", [broken("light", "rejected")]))
    pair.light.context_length = context
    with pytest.raises(UpstreamError):
        say("duet", pair, asked := turn())
    assert len(capable.asks) == 1
    assert "light.omit" in str(asked.warnings)


def test_a_signal_has_no_more_tokens_than_the_context_of_the_light_model_has_for_it():
    pair = Pair(capable := Scripted("capable", words("s")), light := Scripted("light", words("4")))
    light.context_length = 1000
    say("duet", pair, turn(4000, 200))
    assert capable.asks[0].max_tokens == 1000 - 200 - 128 - 2
    say("duet", pair, turn(4000, 900))
    assert capable.asks[1].max_tokens == 250  # the estimate is high: what does not fit the server says
    say("duet", pair, turn(4000, 900, signal_named=True))
    assert (capable.asks[2].max_tokens, capable.asks[2].named_tokens) == (4000, 4000)


@pytest.mark.parametrize(
    ("named", "total", "expected"),
    [
        ({}, None, [(50, 0), (20, 0), (70, 0)]),
        ({"answer_named": True}, None, [(50, 0), (20, 20), (70, 20)]),
        ({"answer_named": True, "signal_named": True}, None, [(50, 50), (20, 20), (70, 70)]),
        ({"answer_named": True}, 30, [(23, 0), (20, 20), (30, 20)]),
    ],
)
def test_what_of_a_budget_the_client_named_the_upstream_is_told(named, total, expected):
    pair = Pair(capable := Scripted("capable", words("s")), light := Scripted("light", words("4")))
    for policy in ("duet", "capable"):
        say(policy, pair, turn(total=total, **named))
    assert [(ask.max_tokens, ask.named_tokens) for ask in (capable.asks[0], light.asks[0], capable.asks[1])] == expected


def test_without_a_budget_for_it_there_is_no_signal():
    pair = Pair(capable := Scripted("capable", words("s")), Scripted("light", words("4")))
    assert say("duet", pair, turn(signal=0)) == ("", "4")
    assert not capable.asks


def test_an_answer_that_the_client_has_begun_to_read_is_not_begun_anew():
    half = [Piece(text="for", tokens=1), broken("light")]
    pair = Pair(Scripted("capable", words("s")), Scripted("light", half))
    with pytest.raises(UpstreamError):
        say("duet", pair, turn())


def test_an_answer_that_nobody_has_seen_is():
    half = [Piece(text="for", tokens=1), broken("light")]
    pair = Pair(Scripted("capable", words("s"), words("four")), Scripted("light", half))
    assert say("duet", pair, turn(streaming=False)) == ("s", "four")


@pytest.mark.parametrize(("threshold", "expected"), [(-0.2, ("", "sure")), (-0.05, ("because", "4"))])
def test_auto_asks_the_capable_model_only_where_the_light_one_is_unsure(threshold, expected):
    pair = Pair(
        capable := Scripted("capable", words("because")), Scripted("light", words("sure"), words("4")), auto_threshold=threshold
    )
    asked = turn()
    assert say("auto", pair, asked) == expected
    assert len(capable.asks) == (expected[0] != "")
    assert asked.calls[0].usage == Usage(5, 1)  # a dropped answer was paid for too


def test_auto_is_not_sure_of_an_answer_that_was_cut_off():
    cut = [Piece(text="4", tokens=1, logprob=-0.01), Piece(finish="length"), Usage(5, 1)]
    pair = Pair(Scripted("capable", words("because")), Scripted("light", cut, words("4")), auto_threshold=-5)
    assert say("auto", pair, asked := turn()) == ("because", "4")
    assert not asked.blind


@pytest.mark.parametrize("told", [(None, None), ()])
def test_auto_is_not_sure_of_tokens_whose_probability_is_not_told(told):
    """A server may know no log-probabilities: that is not certainty."""
    unaided = [Piece(text="4", tokens=1, logprob=logprob) for logprob in told] + [Piece(finish="stop")]
    pair = Pair(Scripted("capable", words("because")), Scripted("light", unaided, words("4")), auto_threshold=-5)
    assert say("auto", pair, asked := turn()) == ("because", "4")
    assert asked.blind == bool(told)


def test_auto_judges_by_the_tokens_whose_probability_is_told():
    unaided = [Piece(text="4", tokens=1, logprob=p) for p in (-0.01, None, -0.01)] + [Piece(finish="stop")]
    pair = Pair(capable := Scripted("capable", words("s")), Scripted("light", unaided), auto_threshold=-0.5)
    assert say("auto", pair, asked := turn()) == ("", "444")
    assert (asked.blind, capable.asks) == (False, [])


@pytest.mark.parametrize(("second", "stands"), [(-0.02, True), (-3.0, False), (None, False)])
def test_auto_is_as_sure_as_the_least_sure_of_several_choices(second, stands):
    sure = [Piece(0, "4", tokens=1, logprob=-0.01)] * 9
    unaided = [*sure, Piece(1, "5", tokens=1, logprob=second), Piece(0, finish="stop"), Piece(1, finish="stop")]
    pair = Pair(capable := Scripted("capable", words("s")), Scripted("light", unaided), auto_threshold=-0.5)
    say("auto", pair, turn(sampling=Sampling(n=2)))
    assert bool(capable.asks) != stands


def test_auto_asks_the_pair_where_the_server_refuses_to_tell_probabilities():
    pair = Pair(Scripted("capable", words("s")), Scripted("light", [broken("light", "rejected")], words("4")), auto_threshold=-1)
    assert say("auto", pair, asked := turn()) == ("s", "4")
    assert (asked.blind, asked.fallback) == (True, None)


@pytest.mark.parametrize("stage", ["capable", "light"])
def test_a_listener_that_goes_away_stops_the_model_and_what_it_wrote_is_counted(stage):
    hang = [Piece(text="a", tokens=1), None]
    pair = Pair(
        Scripted("capable", hang if stage == "capable" else words("s")),
        Scripted("light", hang if stage == "light" else words("4")),
    )
    asked = turn()

    async def leave() -> None:
        async with aclosing(POLICIES["duet"](pair, asked)) as deltas:
            async for delta in deltas:
                if delta.reasoning + delta.content == "a":
                    break

    asyncio.run(leave())
    assert (pair.capable.open, pair.light.open) == (0, 0)
    assert (asked.calls[-1].usage.prompt_tokens, asked.calls[-1].usage.estimated) == (2, True)  # never nothing: "2+2?" was read
    assert asked.calls[-1].role == stage
    assert asked.calls[-1].usage.output_tokens == 1


@pytest.mark.parametrize("last", [[], [broken("capable", "timeout")]])
def test_a_prompt_that_the_model_did_not_say_is_estimated_and_so_it_says(last):
    pair = Pair(Scripted("capable", [Piece(text="a", tokens=1), *last]), Scripted("light", words("4")))
    say("duet", pair, asked := turn())
    assert [(call.usage, call.usage.estimated) for call in asked.calls] == [(Usage(2, 1), True), (Usage(5, 1), False)]
    usage = usage_body(asked, "duet", Tariff.of(config_of()))["counterpoint"]
    assert (usage["estimated"], [call["estimated"] for call in usage["calls"]]) == (True, [True, False])
