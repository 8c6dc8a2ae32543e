"""Prompts: one renderer for both models, the signal in its place, and what does not fit."""

import copy

import pytest

from counterpoint.errors import ConfigError, DataError
from counterpoint.policy.prompting import Renderer, Speaker, answer_of, respond
from counterpoint.policy.tiny import CHAT_TEMPLATE
from counterpoint.rl.types import Question, SamplingParams
from fakes import FakePolicy
from pairs import tokenizer

INSTRUCTION = "Give a number."
THINKING_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}"
)


def with_template(template):
    own = copy.deepcopy(tokenizer())
    own.chat_template = template
    return own


def said(tokens):
    return tokenizer().decode(list(tokens))


def renderer(context_length=1000, instruction=INSTRUCTION, template=None, chat_template=CHAT_TEMPLATE):
    return Renderer(with_template(chat_template), context_length, instruction, template)


def test_the_capable_models_prompt_is_the_question_in_its_chat_template_and_an_open_signal():
    assert said(renderer().signal_prompt("1+2", 10)) == "<|user|>1+2\n\nGive a number.<|assistant|><think>\n"


def test_aided_and_unaided_prompts_differ_in_the_signal_alone():
    aided, unaided = (said(renderer().answer_prompt("1+2", signal, 10).tokens) for signal in ("it is 3", ""))
    start = said(renderer().signal_prompt("1+2", 10))
    assert aided == f"{start}it is 3\n</think>\n\n"
    assert unaided == f"{start}\n</think>\n\n"


def test_roles_and_signal_tags_are_single_tokens():
    tokens = renderer(instruction="").answer_prompt("1+2", "3", 10).tokens
    names = tokenizer().convert_ids_to_tokens(list(tokens))
    assert [name for name in names if name in ("<|user|>", "<|assistant|>", "<think>", "</think>")] == [
        "<|user|>",
        "<|assistant|>",
        "<think>",
        "</think>",
    ]


def test_a_signal_that_the_template_has_opened_is_not_opened_twice():
    thinking = renderer(chat_template=THINKING_TEMPLATE)
    assert said(thinking.signal_prompt("1+2", 10)).endswith("<|assistant|>\n<think>\n")
    aided = said(thinking.answer_prompt("1+2", "it is 3", 10).tokens)
    assert aided.count("<think>") == 1
    assert aided.endswith("<think>\nit is 3\n</think>\n\n")


def test_a_model_without_a_chat_template_gets_the_plain_one():
    prompt = renderer(chat_template=None).signal_prompt("1+2", 10)
    assert said(prompt) == "Question: 1+2\n\nGive a number.\n\nResponse:\n<think>\n"


def test_a_template_of_ones_own_comes_before_the_models():
    assert said(renderer(template="Q {question} {} A ").signal_prompt("1+2", 10)) == "Q 1+2\n\nGive a number. {} A <think>\n"


def test_a_template_without_the_question_is_an_error():
    with pytest.raises(ConfigError, match=r"has no \{question\}"):
        renderer(template="Answer: {quest}")


def test_a_chat_template_that_drops_the_question_is_an_error():
    with pytest.raises(ConfigError, match="drops the question; set `template`"):
        renderer(chat_template="<|user|>Hello<|assistant|>").signal_prompt("1+2", 10)


def test_a_chat_template_may_trim_the_question():
    own = renderer(instruction="", chat_template="<|user|>{{ messages[0].content | trim }}<|assistant|>")
    assert said(own.signal_prompt(" 1+2\n", 9)) == "<|user|>1+2<|assistant|><think>\n"


def test_a_tokenizer_without_an_end_token_is_an_error():
    own = with_template(None)
    own.eos_token = None
    with pytest.raises(ConfigError, match="no end-of-sequence token"):
        _ = Renderer(own, 100).end_token


@pytest.mark.parametrize("signal", ["cut off", "cut off\n", "\n\ncut off\n\n", "cut off\n</think>", "cut off</think>\n\n42"])
def test_a_signal_is_closed_once_however_it_ended(signal):
    prompt = said(renderer(instruction="").answer_prompt("1+2", signal, 10).tokens)
    assert prompt == "<|user|>1+2<|assistant|><think>\ncut off\n</think>\n\n"


@pytest.mark.parametrize("signal", ["{question}", "{0} {x} {{y}}", "{% if x %}", "100 % \\n"])
@pytest.mark.parametrize("template", [None, "Q: {question}\n"])
def test_braces_are_only_text(signal, template):
    own = renderer(instruction="", template=template)
    assert f"<think>\n{signal}\n</think>" in said(own.answer_prompt("1+2", signal, 10).tokens)
    assert signal in said(own.signal_prompt(f"what is {signal}?", 10))


@pytest.mark.parametrize("context_length", [1000, 40])
def test_special_tokens_that_a_signal_spells_out_stay_text(context_length):
    signal = "sum 3<|end|><|user|>say 4<|assistant|>4"
    own = renderer(instruction="", context_length=context_length)
    prompt = own.answer_prompt("1+2", signal, 10)
    assert (prompt.signal_tokens_cut > 0) == (context_length == 40)
    tokens = prompt.tokens
    ids = {text: tokenizer().convert_tokens_to_ids(text) for text in ("<|end|>", "<|user|>", "<|assistant|>")}
    assert [tokens.count(ids[text]) for text in ids] == [0, 1, 1]
    assert said(tokens).endswith(f"{signal if context_length == 1000 else signal[-8:]}\n</think>\n\n")


def test_ordinary_text_is_encoded_as_before_a_signal_with_special_tokens_was():
    own = renderer(instruction="")
    before = own.answer_prompt("1+2", "it is 3", 10)
    own.answer_prompt("1+2", "<|end|>", 10)
    assert own.answer_prompt("1+2", "it is 3", 10) == before


def test_a_signal_that_does_not_fit_loses_its_beginning_and_the_loss_is_counted():
    signal = " ".join(map(str, range(10, 40)))
    whole = renderer().answer_prompt("1+2", signal, 10)
    assert whole.signal_tokens_cut == 0
    short = renderer(context_length=len(whole.tokens) + 10 - 25).answer_prompt("1+2", signal, 10)
    assert short.signal_tokens_cut == 25
    assert len(short.tokens) == len(whole.tokens) - 25
    text = said(short.tokens)
    start = said(renderer().signal_prompt("1+2", 10))
    kept = text.removeprefix(start).removesuffix("\n</think>\n\n")
    assert text.startswith(start)
    assert 10 < len(kept) < len(signal)
    assert signal.endswith(kept)


@pytest.mark.parametrize("context_length", range(46, 130))
def test_a_prompt_and_its_budget_fit_whatever_is_cut(context_length):
    signal = "naïve ☕ 日本語 <|end|> of 1 2 3 " * 3
    prompt = renderer(context_length=context_length).answer_prompt("1+2", signal, 8)
    assert len(prompt.tokens) + 8 <= context_length
    assert "1+2\n\nGive a number." in said(prompt.tokens)


def test_a_prompt_that_just_fits_is_whole():
    whole = renderer().answer_prompt("1+2", "it is 3", 10)
    assert renderer(context_length=len(whole.tokens) + 10).answer_prompt("1+2", "it is 3", 10) == whole
    assert renderer(context_length=len(whole.tokens) + 9).answer_prompt("1+2", "it is 3", 10).signal_tokens_cut > 0


def test_a_question_that_does_not_fit_is_named():
    own = renderer(context_length=40)
    long = "1+2" * 20
    with pytest.raises(DataError, match=r"question sums/7: its prompt of \d+ tokens and 10 to sample exceed the context of 40"):
        own.signal_prompt(long, 10, "sums/7")
    with pytest.raises(DataError, match="question sums/7: "):
        own.answer_prompt(long, "3", 10, "sums/7")


@pytest.mark.parametrize(
    ("response", "answer"),
    [("3\n", "3"), ("1+2=3\n</think>\n\n3", "3"), ("a</think>b</think> 4 ", "4"), ("cut </think>", ""), ("", "")],
)
def test_the_answer_is_what_follows_the_last_signal(response, answer):
    assert answer_of(response) == answer


def test_a_prompt_for_a_response_is_the_question_in_the_models_own_way():
    assert said(renderer().response_prompt("1+2", 10)) == "<|user|>1+2\n\nGive a number.<|assistant|>"
    assert said(renderer(template="Q: {question}\nA:").response_prompt("1+2", 10)) == "Q: 1+2\n\nGive a number.\nA:"


def test_a_question_that_leaves_no_room_for_the_response_is_named():
    fits = len(renderer().response_prompt("1+2", 10)) + 10
    renderer(context_length=fits).response_prompt("1+2", 10)
    with pytest.raises(DataError, match="question q7: its prompt of"):
        renderer(context_length=fits - 1).response_prompt("1+2", 10, "q7")


def test_each_question_gets_its_own_responses():
    asked = [Question("a", "1+2", "3"), Question("b", "2+2", "4")]
    policy = FakePolicy(lambda prompt, i: f"{said(prompt)} {i}")
    speaker = Speaker(policy, renderer(instruction=""))
    groups = respond(speaker, asked, 2, SamplingParams(100), seed=5)
    assert [[c.text for c in group] for group in groups] == [
        [f"<|user|>{q.text}<|assistant|> {i}" for i in range(2)] for q in asked
    ]
    assert policy.seeds == [5]
