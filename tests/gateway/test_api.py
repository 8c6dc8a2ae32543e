"""OpenAI's shapes."""

import json

import pytest

from counterpoint.gateway.api import ApiError, Chunks, Delta, Whole, parse
from counterpoint.gateway.types import Message

QUESTION = {"messages": [{"role": "user", "content": "2+2?"}]}


def request(**fields):
    return parse(json.dumps(QUESTION | fields).encode())


def events(*chunks: bytes):
    return [json.loads(chunk.decode().removeprefix("data: ")) for chunk in chunks]


def test_contents_in_parts_and_developer_messages_are_understood():
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]
    asked = request(messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}])
    assert [message.turn() for message in asked.messages] == [Message("system", "Be brief."), Message("user", "2+2?")]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "no message of the user"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content"),
        ({"messages": [*QUESTION["messages"], {"role": "assistant", "content": "4"}]}, "last message"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", ""]}, "stop"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"counterpoint": {"polcy": "duet"}}, "counterpoint.polcy"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_a_request_that_is_wrong_or_asks_for_what_there_is_not_is_refused_with_the_name_of_the_field(fields, names):
    with pytest.raises(ApiError) as refusal:
        request(**fields)
    assert refusal.value.status == 400
    assert names in refusal.value.body["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"messages": NaN}', b"[" * 5000])
def test_a_body_that_is_no_request_is_refused(body):
    with pytest.raises(ApiError) as refusal:
        parse(body)
    assert refusal.value.status == 400


def test_fields_that_change_nothing_and_nulls_are_let_pass():
    asked = request(user="u", metadata={}, temperature=None, stop=None, n=None, tools=None, response_format={"type": "text"})
    assert (asked.stops, asked.wants_usage) == ((), False)


def test_a_signal_is_of_every_choice_and_under_both_names():
    [chunk] = events(Chunks("id", "duet", 2).of(Delta(reasoning='a "quote"\n')))
    assert [choice["index"] for choice in chunk["choices"]] == [0, 1]
    assert chunk["choices"][0]["delta"] == {"reasoning_content": 'a "quote"\n', "reasoning": 'a "quote"\n'}


def test_the_last_chunks_say_why_each_choice_ended_and_what_it_took():
    chunks = Chunks("id", "duet", 2)
    finish, usage = events(chunks.finished({0: "length"}, {"prompt_tokens": 1}), chunks.usage({"prompt_tokens": 1}))
    assert [choice["finish_reason"] for choice in finish["choices"]] == ["length", "stop"]
    assert finish["usage"] == usage["usage"] == {"prompt_tokens": 1}
    assert usage["choices"] == []


def test_a_response_in_one_piece_holds_what_was_streamed():
    whole = Whole(2)
    for delta in (Delta("sig"), Delta("nal"), Delta(content="4", index=1), Delta(content="5", index=0, finish="length")):
        whole.add(delta)
    choices = whole.body("id", "duet", {})["choices"]
    assert [(c["message"]["content"], c["message"]["reasoning_content"], c["finish_reason"]) for c in choices] == [
        ("5", "signal", "length"),
        ("4", "signal", "stop"),
    ]
