"""Tokens to text: what is shown early is what stands there in the end, and nothing is shown in part."""

from functools import cache
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny_models
from counterpoint.gateway.upstreams.incremental import Choice, GrowingText
from counterpoint.policy.rollout import cut_at_stop
from counterpoint.rl.types import Completion


@cache
def sentencepiece_like():
    """Words begin with a mark that is read as a space, but not at the start; what is no word is bytes."""
    words = ["▁the", "▁", "an", "▁answer", ".", "日", "</think>"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def decoder(tokenizer):
    return lambda tokens: tokenizer.decode(list(tokens), skip_special_tokens=True)


# a run of <0xNN> tokens that is not UTF-8 is read as nothing but replacement characters, those before it too: left out
@pytest.mark.parametrize(("tokenizer", "lone"), [(tiny_models.tokenizer, (0, 292)), (sentencepiece_like, (259, 265))])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_is_shown_is_the_text_from_its_beginning_on(tokenizer, lone, data):
    own = tokenizer()
    some = st.integers(*lone).map(lambda token: [token]) | st.text(max_size=6).map(
        lambda text: own.encode(text, add_special_tokens=False)
    )
    tokens = list(chain.from_iterable(data.draw(st.lists(some, max_size=20))))
    stops = data.draw(st.lists(st.sampled_from([".", "the an", "</think>", "日本", " \n", "e", "n"]), max_size=3))
    growing, shown, whole = GrowingText(decoder(own), stops), "", decoder(own)(tokens)
    for token in tokens:
        shown += growing.add(token)
        assert cut_at_stop(whole, stops).startswith(shown)
    assert shown + growing.rest(whole) == whole


@pytest.mark.parametrize("tokenizer", [tiny_models.tokenizer, sentencepiece_like])
def test_a_character_comes_when_it_is_whole(tokenizer):
    own = tokenizer()
    growing, tokens = GrowingText(decoder(own), ()), own.encode("a🙂b", add_special_tokens=False)
    assert len(tokens) >= 6
    assert [text for text in map(growing.add, tokens) if text.strip()] == ["a", "🙂", "b"]


def test_a_token_is_shown_at_once_where_nothing_speaks_against_it():
    own = tiny_models.tokenizer()
    tokens = own.encode("the answer is 7.", add_special_tokens=False)
    growing = GrowingText(decoder(own), ("</think>",))
    assert [growing.add(token) for token in tokens] == [own.decode([token]) for token in tokens]


def test_the_work_for_a_token_does_not_grow_with_the_text():
    seen = []
    own = tiny_models.tokenizer()
    growing = GrowingText(lambda tokens: seen.append(len(tokens)) or own.decode(list(tokens)), ())
    for token in own.encode("the answer is 7. é 🙂 " * 40, add_special_tokens=False):
        growing.add(token)
    assert max(seen) < 12


def test_the_last_piece_of_a_choice_has_what_was_held_back_and_why_it_ended():
    own = tiny_models.tokenizer()
    tokens = own.encode("7##", add_special_tokens=False)
    for stop, text, finish in (("end", "7##", "stop"), ("length", "7##", "length"), ("stop", "7", "stop")):
        choice = Choice(2, own.decode, ("##q", "##"), thinks=False)
        pieces = [choice.add(token, -1.0) for token in tokens]
        pieces.append(choice.end(Completion((1,), tuple(tokens), (-1.0,) * len(tokens), text, stop)))
        assert "".join(piece.text for piece in pieces) == text
        assert [piece.finish for piece in pieces] == [None] * len(tokens) + [finish]
        assert sum(piece.tokens for piece in pieces) == len(tokens)
        assert {piece.index for piece in pieces} == {2}
