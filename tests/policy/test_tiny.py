"""Models from scratch: what the tokenizer guarantees, and that both load like any other."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterpoint.policy.tiny import SIGNAL_TOKENS, SPECIAL_TOKENS, learn_tokenizer, new_model

TEXTS = ["Add 12 and 30. The answer is 42.\n\n12 + 30 = 42", "Multiply 7 by 6. The answer is 42.\n"] * 3
ANY_TEXT = [
    "Add 12 and 30.",
    "  two  spaces, a\ttab,\r\n\n\nlines   ",
    "naïve café — “quotes”, ½ × π ≠ ∞",
    "数学は楽しい。 Привет, мир! مرحبا",
    "🙂👩‍👩‍👧‍👦 e\u0301 \u200b \ufeff",
    "\x00\x07 control \x7f",
    "<answer>42</answer> {{ braces }} <|not a token|>",
    "<think>a thought</think>",
    "don't U.S.A. 3.14 1,000 a1b2 x_y",
]


@pytest.fixture(scope="module")
def tokenizer():
    return learn_tokenizer(TEXTS)


@pytest.mark.parametrize("text", ANY_TEXT)
def test_any_text_comes_back_as_it_was(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=True) == text


def test_random_text_comes_back_as_it_was(tokenizer):
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(1, 0x10FFFF, (2000,), generator=generator).tolist()
    text = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_text_and_tokens_survive_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in ANY_TEXT:
        assert loaded.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
        assert loaded.decode(loaded.encode(text, add_special_tokens=False)) == text
    assert loaded.chat_template == tokenizer.chat_template


def test_every_digit_is_a_token_of_its_own_wherever_it_stands(tokenizer):
    for text in ("42", "The answer is 42.", "x42y", "-42", "4 2", "1234567890", "12 + 30 = 42"):
        pieces = [tokenizer.decode([token]) for token in tokenizer.encode(text, add_special_tokens=False)]
        assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == [c for c in text if c.isdigit()]


def test_words_of_the_texts_are_single_tokens(tokenizer):
    assert len(tokenizer.encode(" answer", add_special_tokens=False)) == 1


def test_tags_and_special_tokens_are_single_tokens(tokenizer):
    for tag in (*SIGNAL_TOKENS, *SPECIAL_TOKENS):
        assert tokenizer.encode(tag, add_special_tokens=False) == [tokenizer.convert_tokens_to_ids(tag)]
        assert tokenizer.convert_tokens_to_ids(tag) in tokenizer.encode(f"a{tag}b", add_special_tokens=False)
    assert len({tokenizer.convert_tokens_to_ids(tag) for tag in (*SIGNAL_TOKENS, *SPECIAL_TOKENS)}) == 6


def test_tags_are_text_and_special_tokens_are_not(tokenizer):
    tokens = tokenizer.encode("<|user|>why<think>because</think>so<|end|>", add_special_tokens=False)
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "why<think>because</think>so"


def test_ends_and_padding_are_named(tokenizer):
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.encode("a") == tokenizer.encode("a", add_special_tokens=False)


def test_the_chat_template_renders_turns_with_their_role_tokens(tokenizer):
    messages = [{"role": "user", "content": "What is {6 * 7}?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>What is {6 * 7}?<|assistant|>"
    answered = [*messages, {"role": "assistant", "content": "42"}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == "<|user|>What is {6 * 7}?<|assistant|>42"


def test_a_vocabulary_of_the_size_that_was_asked_for():
    many = ["".join(chr(97 + (i * 7 + j * j) % 26) for j in range(8)) for i in range(300)]
    assert len(learn_tokenizer(many, vocabulary_size=300)) == 300 + len(SIGNAL_TOKENS)


def test_a_model_loads_with_from_pretrained(tokenizer, tmp_path):
    model = new_model(tokenizer, hidden_size=32, layers=2, heads=2, context_length=64, seed=0)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([tokenizer.encode("The answer is")])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model.eval()(ids).logits)
    assert loaded.config.max_position_embeddings == 64
    assert loaded.config.num_hidden_layers == 2
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id
    assert loaded.get_output_embeddings().weight.shape == (len(tokenizer), 32)


def test_the_seed_decides_the_weights(tokenizer):
    def weights(seed):
        model = new_model(tokenizer, hidden_size=16, layers=1, heads=2, context_length=32, seed=seed)
        return torch.cat([weight.flatten() for weight in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
