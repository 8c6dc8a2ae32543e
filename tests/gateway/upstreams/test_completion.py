"""From events to pieces: nothing is guessed, and nothing is passed over."""

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from counterpoint.gateway.types import Ask, Message, Piece, Sampling, Usage
from counterpoint.gateway.upstreams.completion import EXCERPT, BadCompletion, Completion, excerpt


def completion(n: int = 1, max_tokens: int = 8, logprobs: bool = False) -> Completion:
    return Completion(Ask("alone", (Message("user", "?"),), max_tokens, Sampling(n=n), logprobs=logprobs))


def chunk(text: str | None = None, index: int = 0, finish: str | None = None, logprobs: Any = None, **delta: Any) -> bytes:
    delta = {**delta, "content": text} if text is not None else delta
    return json.dumps({"choices": [{"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}]}).encode()


def read(into: Completion, *events: bytes) -> list[Piece]:
    return [piece for event in events for piece in into.pieces(event)] + into.end()


def complaint(into: Completion, *events: bytes) -> tuple[str, str]:
    with pytest.raises(BadCompletion) as raised:
        read(into, *events)
    return raised.value.kind, str(raised.value)


def test_content_and_both_names_of_reasoning():
    assert read(completion(), chunk("a"), chunk(reasoning_content="b"), chunk(reasoning="c"), chunk(finish="stop")) == [
        Piece(text="a", tokens=1),
        Piece(thinking="b", tokens=1),
        Piece(thinking="c", tokens=1),
        Piece(finish="stop"),
    ]


@pytest.mark.parametrize(("reason", "finish"), [("stop", "stop"), ("length", "length"), ("content_filter", "stop")])
def test_only_a_spent_budget_is_length(reason, finish):
    assert read(completion(), chunk("a"), chunk(finish=reason))[-1].finish == finish


def test_what_holds_no_token_is_no_piece():
    begun = completion()
    assert begun.pieces(chunk("", role="assistant")) == []
    assert begun.pieces(b'{"choices": []}') == []
    assert not begun.begun
    assert begun.pieces(chunk("a"))
    assert begun.begun


def test_log_probabilities_tell_tokens_that_share_a_delta_or_have_no_text_yet():
    shown = {"content": [{"logprob": -0.5}, {"logprob": -1.0}]}
    into = completion(logprobs=True)
    assert into.pieces(chunk("ab", logprobs=shown)) == [Piece(text="ab", tokens=2, logprob=-1.5)]
    assert into.pieces(chunk("", logprobs=shown)) == [Piece(tokens=2, logprob=-1.5)]
    assert into.pieces(chunk("c", logprobs=None)) == [Piece(text="c", tokens=1)]
    assert into.tally.usage == Usage(0, 5)


def test_usage_is_the_servers_where_it_says_it():
    said = b'{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 30}}'
    into = completion()
    read(into, chunk("a"), chunk("b", finish="stop"))
    assert into.tally.usage == Usage(0, 2)
    into.pieces(said)
    into.pieces(b'{"choices": [], "usage": null}')
    assert into.tally.usage == Usage(9, 30)


def said(prompt: int, output: int, *choices: dict[str, Any]) -> bytes:
    return json.dumps({"choices": choices, "usage": {"prompt_tokens": prompt, "completion_tokens": output}}).encode()


def test_what_came_after_a_server_last_said_its_usage_is_counted_and_makes_it_an_estimate():
    into = completion()
    into.pieces(said(9, 0))
    assert (into.tally.usage, into.tally.usage.estimated) == (Usage(9, 0), False)
    into.pieces(chunk("a"))
    assert (into.tally.usage, into.tally.usage.estimated) == (Usage(9, 1), True)
    into.pieces(said(9, 30))  # it thought and did not show it
    assert (into.tally.usage, into.tally.usage.estimated) == (Usage(9, 30), False)


def test_usage_in_the_chunks_of_several_choices_is_that_of_one_choice_each():
    into = completion(n=2)
    for index, tokens in ((0, 1), (1, 1), (0, 2)):
        into.pieces(said(9, tokens, {"index": index, "delta": {"content": "a"}, "finish_reason": None}))
    assert into.tally.usage == Usage(9, 3)
    into.pieces(said(9, 4))
    assert into.tally.usage == Usage(9, 4)


def several(*texts: str, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": {"content": "".join(texts)}, "finish_reason": None}


def test_of_several_choices_that_come_several_tokens_at_a_time_all_are_booked_though_the_stream_breaks():
    into = completion(n=4, max_tokens=100)
    for tokens in (5, 10, 25):
        for index in range(4):
            into.pieces(said(9, tokens, several("some", " more", index=index)))
    assert (into.tally.usage, into.tally.usage.estimated) == (Usage(9, 100), False)
    into.pieces(chunk("!", 2))
    assert (into.tally.usage, into.tally.usage.estimated) == (Usage(9, 101), True)


def test_usage_that_comes_once_with_the_last_end_is_that_of_all_choices():
    into = completion(n=2)
    for event in (chunk("a", 0), chunk("b", 1), chunk(finish="stop")):
        into.pieces(event)
    into.pieces(said(9, 20, {"index": 1, "delta": {}, "finish_reason": "stop"}))
    assert into.tally.usage == Usage(9, 20)


def test_a_server_that_says_0_of_what_came_has_said_nothing():
    into = completion()
    for _ in range(3):
        into.pieces(said(0, 0, several("a")))
    assert (into.tally.usage.output_tokens, into.tally.usage.estimated) == (3, True)


def test_what_the_server_calls_reasoning_is_known():
    usage = {"prompt_tokens": 9, "completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 28}}
    into = completion()
    into.pieces(json.dumps({"choices": [], "usage": usage}).encode())
    assert into.tally.thinking == 28


def test_without_the_servers_word_usage_is_an_estimate_once_something_came():
    into = completion()
    assert not into.tally.usage.estimated
    into.pieces(chunk("a"))
    assert into.tally.usage.estimated


def test_usage_that_makes_no_sense_is_counted_instead():
    into = completion()
    read(into, chunk("a", finish="stop"), b'{"choices": [], "usage": {"prompt_tokens": "many", "completion_tokens": -1}}')
    assert into.tally.usage == Usage(0, 1)


def test_choices_that_take_turns():
    events = [chunk("a", 0), chunk("b", 1), chunk("c", 0, finish="length"), chunk("d", 1), chunk("", 1, "stop")]
    pieces = read(completion(n=2), *events)
    assert [(piece.index, piece.text, piece.finish) for piece in pieces] == [
        *((0, "a", None), (1, "b", None), (0, "c", "length"), (1, "d", None), (1, "", "stop")),
    ]


def test_done_ends_choices_that_have_begun():
    assert read(completion(), chunk("a"), b"[DONE]") == [Piece(text="a", tokens=1), Piece(finish="stop")]


def test_an_end_may_be_said_twice():
    assert len(read(completion(), chunk("a", finish="stop"), chunk("", finish="stop"), b"[DONE]")) == 1


def test_a_server_that_ignores_the_budget_is_cut_off_a_little_later():
    into, read_events = completion(max_tokens=8), 0
    while not into.complete:
        into.pieces(chunk("a"))
        read_events += 1
    assert 8 + 16 < read_events < 50
    assert into.end() == [Piece(finish="length")]


@pytest.mark.parametrize(
    ("events", "kind", "said"),
    [
        ([chunk("a")], "protocol", "ended in the middle"),
        ([b"[DONE]"], "protocol", "wrote nothing for choice 0 of 1"),
        ([b'{"choices": [}'], "protocol", "JSON that cannot be read"),
        ([b'\xff{"choices": []}'], "protocol", "JSON that cannot be read"),
        ([b"[1]"], "protocol", "no completion"),
        ([b'{"object": "ping"}'], "protocol", "no completion"),
        ([b'{"choices": [3]}'], "protocol", "no completion"),
        ([b'{"choices": [{"index": 0, "delta": "x"}]}'], "protocol", "no completion"),
        ([b'{"choices": [{"index": 0, "delta": {"content": ["x"]}}]}'], "protocol", "no completion"),
        ([chunk("a", index=1)], "protocol", "none of the 1 asked for: 1"),
        ([chunk("a", index=-1)], "protocol", "none of the 1 asked for: -1"),
        ([chunk("a", finish="stop"), chunk("b")], "protocol", "more of choice 0 after its end"),
        ([chunk("a", finish="error")], "server", "finish_reason error"),
        ([b'{"error": {"message": "full"}}'], "server", "full"),
        ([b'{"error": {"message": "slow down", "code": 429}}'], "rate_limit", "slow down"),
        ([b'{"error": {"message": "too long", "code": 400}}'], "rejected", "too long"),
        ([b'{"error": "oh"}'], "server", "oh"),
    ],
)
def test_what_is_no_answer_is_an_error_that_says_so(events, kind, said):
    assert complaint(completion(), *events)[0] == kind
    assert said in complaint(completion(), *events)[1]


def test_a_server_that_ignores_n_is_an_error():
    assert "choice 1 of 2; does it ignore n?" in complaint(completion(n=2), chunk("a", finish="stop"), b"[DONE]")[1]


def test_errors_quote_no_more_than_200_characters():
    assert len(complaint(completion(), b'{"x": "' + "é\n".encode() * 5000 + b'"')[1]) < 250


@pytest.mark.parametrize("key", ["sk-SECRET0123456789abcdefghijklmnop", 'sk/SECRET/with\\and"quotes'])
@pytest.mark.parametrize("read", [10**6, 700])
def test_wherever_a_quoted_text_is_cut_no_part_of_a_key_is_left(key, read):
    """`read`: the bytes of it that were read."""
    for form in {key, json.dumps(key)[1:-1], json.dumps(key)[1:-1].replace("/", "\\/")}:
        blanks = (b" " * count for count in range(700 - len(form), 700))  # of which one is left, so that the key is quoted
        for before in [*(b"x" * count for count in range(EXCERPT + 5)), *blanks]:
            said = excerpt((b"." + before + form.encode() + b" was wrong")[:read], key)
            assert key[:4] not in said, (len(before), said)


def test_one_body_is_taken_for_a_stream():
    message = {"role": "assistant", "content": "a b c", "reasoning_content": "hm"}
    body = {
        "choices": [{"index": index, "message": message, "finish_reason": "stop"} for index in range(2)],
        "usage": {"prompt_tokens": 4, "completion_tokens": 7},
    }
    into = completion(n=2)
    pieces = into.whole(json.dumps(body).encode())
    assert [(piece.index, piece.text, piece.thinking, piece.tokens, piece.finish) for piece in pieces] == [
        (0, "a b c", "hm", 4, "stop"),
        (1, "a b c", "hm", 3, "stop"),
    ]
    assert into.end() == []
    assert into.tally.usage == Usage(4, 7)


KEYS = "choices index delta message content reasoning logprobs logprob finish_reason usage error code"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=5),
    max_leaves=12,
)
CHOICE = st.fixed_dictionaries({}, optional={key: JSON for key in ("index", "delta", "message", "logprobs", "finish_reason")})
CHUNK = st.fixed_dictionaries({"choices": st.lists(CHOICE | JSON, max_size=3)}, optional={"usage": JSON, "error": JSON})


@given(st.lists(CHUNK | JSON, max_size=4), st.booleans())
def test_whatever_a_server_sends_is_pieces_or_a_bad_completion(chunks, streamed):
    into = completion(n=2, logprobs=True)
    try:
        for each in chunks:
            body = json.dumps(each).encode()
            for piece in into.pieces(body) if streamed else into.whole(body):
                assert isinstance(piece.text, str)
                assert isinstance(piece.thinking, str)
                assert piece.index in (0, 1)
                assert piece.logprob is None or isinstance(piece.logprob, float)
        into.end()
    except BadCompletion:
        pass
    assert into.tally.usage.output_tokens >= 0
