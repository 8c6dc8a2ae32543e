"""A model alone: its thinking told from its answer, and the answer ended where it should be."""

import asyncio

import pytest

from counterpoint.gateway.policies import Pair
from counterpoint.gateway.types import Piece, Sampling, Usage
from gateway.scripted import Scripted, broken, words
from gateway.turns import deltas, say, turn


@pytest.mark.parametrize(
    "pieces", [["<think>\nbe", "cause</thi", "nk>\n\n4"], ["<", "think>because</think>", "4"], ["<think>because</think>4"]]
)
def test_reasoning_within_a_text_is_told_apart(pieces):
    script = [Piece(text=text, tokens=1) for text in pieces] + [Piece(finish="stop")]
    assert say("capable", Pair(Scripted("capable", script), Scripted("light", [])), turn()) == ("because", "4")


@pytest.mark.parametrize("text", ["4", "<b>4</b>", "<thin", "2 < 3 </think> 4"])
def test_a_text_without_an_opening_tag_is_all_answer(text):
    script = [*(Piece(text=letter, tokens=1) for letter in text), Piece(finish="stop")]
    assert say("capable", Pair(Scripted("capable", script), Scripted("light", [])), turn()) == ("", text)


def test_alone_a_stop_string_ends_the_answer_and_never_the_thinking():
    script = [Piece(text=text, tokens=1) for text in ("<think>a.", "b</think>", "4", ".", " or 5")]
    pair = Pair(capable := Scripted("capable", [*script, None]), Scripted("light", []))
    said = asyncio.run(deltas("capable", pair, asked := turn(sampling=Sampling(stop=(".",)))))
    assert ("".join(d.reasoning for d in said), "".join(d.content for d in said)) == ("a.b", "4")
    assert said[-1].finish == "stop"
    assert capable.asks[0].sampling.stop == ()  # a server would end the thinking at it
    assert (capable.open, asked.calls[0].usage.output_tokens) == (0, 4)  # the rest was not waited for


@pytest.mark.parametrize("thinks", ["tagged", "opened", "hidden"])
@pytest.mark.parametrize("policy", ["capable", "light"])
def test_alone_too_an_answer_has_no_more_tokens_than_it_may(thinks, policy):
    """M is asked for thinking and answer together, also where it stands in."""
    thought = {"tagged": ["<think>", "a ", "</think>", "\n\n"], "opened": ["a ", "</think>"], "hidden": []}[thinks]
    script = [Piece(text=text, tokens=1) for text in [*thought, *"123456789"]]
    light = [broken("light")]
    pair = Pair(capable := Scripted("capable", [*script, Piece(finish="stop"), Usage(5, 99)]), Scripted("light", light))
    capable.thinks = thinks
    said = asyncio.run(deltas(policy, pair, asked := turn(answer=5)))
    assert "".join(d.content for d in said) == "12345"
    assert [d.finish for d in said if d.finish] == ["length"]
    written = len(thought) + 6  # one more shows that it goes on
    assert asked.calls[-1].usage.output_tokens == (99 if thinks == "hidden" else written)


def test_an_answer_of_just_as_many_tokens_as_it_may_have_ended_by_itself():
    pair = Pair(Scripted("capable", words("1 2 3 4 5")), Scripted("light", []))
    said = asyncio.run(deltas("capable", pair, turn(answer=5)))
    assert [d.finish for d in said if d.finish] == ["stop"]


def test_a_model_that_thinks_out_of_sight_is_told_of_the_stop_strings_and_read_to_its_end():
    """Else a stop string that comes early would hide from the books what it thought."""
    script = [Piece(text="4. ", tokens=1), Piece(text="or 5", tokens=1), Piece(finish="stop"), Usage(5, 5000)]
    pair = Pair(capable := Scripted("capable", script), Scripted("light", []))
    capable.thinks = "hidden"
    assert say("capable", pair, asked := turn(sampling=Sampling(stop=(".",)))) == ("", "4")  # it was not kept to
    assert capable.asks[0].sampling.stop == (".",)
    assert asked.calls[0].usage == Usage(5, 5000)


@pytest.mark.parametrize("policy", ["duet", "auto"])
def test_a_stop_string_that_a_server_was_not_told_of_ends_the_answer(policy):
    """`omit` may keep it from the server."""
    unheeded = [Piece(text=text, tokens=1, logprob=-0.1) for text in ("4", "EN", "D", "or 5")]
    pair = Pair(Scripted("capable", words("s")), light := Scripted("light", [*unheeded, None]), auto_threshold=-1)
    assert say(policy, pair, turn(sampling=Sampling(stop=("END",))))[1] == "4"
    assert light.open == 0


@pytest.mark.parametrize("text", ["first. I add</think>\n\n4", "<think>\nfirst. I add</think>\n\n4"])
def test_thinking_that_the_prompt_opened_is_no_answer_and_ends_at_no_stop_string(text):
    """R1 and Qwen3-Thinking, asked natively."""
    script = [*(Piece(text=letter, tokens=1) for letter in text), Piece(finish="stop")]
    pair = Pair(capable := Scripted("capable", script), Scripted("light", []))
    capable.thinks = "opened"
    assert say("capable", pair, turn(sampling=Sampling(stop=(".",)))) == ("first. I add", "4")


@pytest.mark.parametrize("thinks", ["tagged", "opened"])
def test_where_the_server_tells_thinking_apart_the_text_alone_is_answer_and_counts_as_such(thinks):
    held = Piece(tokens=1)  # a part of a character, say
    script = [held, *[Piece(thinking="hm", tokens=1), held] * 9, Piece(text="4", tokens=1), Piece(finish="stop")]
    pair = Pair(capable := Scripted("capable", script), Scripted("light", []))
    capable.thinks = thinks
    assert say("capable", pair, turn(answer=1)) == ("hm" * 9, "4")


def test_a_choice_that_stopped_waits_for_the_others_and_then_for_no_more():
    script = [Piece(0, "4.", tokens=1), Piece(1, "f", tokens=1), Piece(0, "no", tokens=1), Piece(1, "our", tokens=1)]
    ends = [Piece(1, finish="length"), None]
    pair = Pair(Scripted("capable", [*script, *ends]), Scripted("light", []))
    said = asyncio.run(deltas("capable", pair, turn(sampling=Sampling(stop=(".",), n=2))))
    texts = {index: "".join(d.content for d in said if d.index == index) for index in (0, 1)}
    assert (texts, {d.index: d.finish for d in said if d.finish}) == ({0: "4", 1: "four"}, {0: "stop", 1: "length"})
