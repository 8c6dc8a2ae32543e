"""Conversations in prompts, and that nothing said in one can become a token of the template."""

import copy
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from counterpoint.errors import ConfigError, DataError
from counterpoint.policy.prompting import Renderer
from counterpoint.policy.tiny import CHAT_TEMPLATE
from pairs import tokenizer

REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHAT_TEMPLATE
)
DROPS_SYSTEM = CHAT_TEMPLATE.replace("in messages %}", "in messages if message.role != 'system' %}")
ALTERNATES = "{% if messages[1].role == 'user' %}{{ raise_exception('Roles must alternate') }}{% endif %}" + CHAT_TEMPLATE
FORGETS_ANSWERS = CHAT_TEMPLATE.replace("in messages %}", "in messages if message.role != 'assistant' %}")
TRIMS = CHAT_TEMPLATE.replace("message.content", "message.content | trim")
SPLITS_THINKING = CHAT_TEMPLATE.replace("message.content", "message.content.split('</think>')[-1].lstrip('\\n')")
CONTROLS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>")


@dataclass(frozen=True)
class Turn:
    role: str
    content: str


TALK = (Turn("user", "1+2"), Turn("assistant", "3"), Turn("user", "3+4"))


def renderer(chat_template: str | None = CHAT_TEMPLATE, instruction="", template=None, context_length=1000, own=None):
    own = copy.deepcopy(own or tokenizer())
    own.chat_template = chat_template
    return Renderer(own, context_length, instruction, template)


def said(tokens):
    return tokenizer().decode(list(tokens))


def controls_in(tokens, own=None):
    ids = (own or tokenizer()).convert_tokens_to_ids(list(CONTROLS))
    return [token for token in tokens if token in ids]


# Conversations


def test_a_chat_template_gets_the_messages_as_they_are():
    prompt = renderer().response_prompt((Turn("system", "Be brief."), *TALK), 10)
    assert said(prompt) == "<|system|>Be brief.<|user|>1+2<|assistant|>3<|user|>3+4<|assistant|>"


def test_every_prompt_takes_a_conversation():
    own, start = renderer(), "<|user|>1+2<|assistant|>3<|user|>3+4<|assistant|>"
    assert said(own.signal_prompt(TALK, 10)) == f"{start}<think>\n"
    assert said(own.answer_prompt(TALK, "it is 7", 10).tokens) == f"{start}<think>\nit is 7\n</think>\n\n"


@pytest.mark.parametrize("options", [{}, {"chat_template": None}, {"template": "Q {question} A "}])
def test_a_conversation_of_one_turn_is_a_question(options):
    own, turn = renderer(instruction="Give a number.", **options), (Turn("user", "1+2"),)
    assert own.signal_prompt(turn, 10) == own.signal_prompt("1+2", 10)
    assert own.response_prompt(turn, 10) == own.response_prompt("1+2", 10)
    assert own.answer_prompt(turn, "it is 3", 10) == own.answer_prompt("1+2", "it is 3", 10)


def test_the_instruction_follows_the_last_turn_of_the_user():
    prompt = renderer(instruction="Give a number.").response_prompt((*TALK, Turn("assistant", "7, or")), 10)
    assert said(prompt) == "<|user|>1+2<|assistant|>3<|user|>3+4\n\nGive a number.<|assistant|>7, or<|assistant|>"


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_a_system_text_that_the_template_does_not_take_comes_first_in_the_users_first_turn(template):
    prompt = renderer(template, instruction="Give a number.").response_prompt((Turn("system", "Be brief."), *TALK), 10)
    assert said(prompt) == "<|user|>Be brief.\n\n1+2<|assistant|>3<|user|>3+4\n\nGive a number.<|assistant|>"


def test_without_a_chat_template_earlier_turns_come_before_the_question():
    prompt = renderer(None).response_prompt((Turn("system", "Be brief."), *TALK), 10)
    assert said(prompt) == "Be brief.\n\nQuestion: 1+2\n\nResponse:\n3\n\nQuestion: 3+4\n\nResponse:\n"
    assert said(renderer(template="Q {question} A ").response_prompt(TALK, 10)) == "Q 1+2 A 3\n\nQ 3+4 A "


def test_without_a_chat_template_the_last_turn_is_the_users():
    with pytest.raises(DataError, match="the last is the assistant's"):
        renderer(None).signal_prompt(TALK[:2], 10)


@pytest.mark.parametrize("turns", [(), (Turn("system", "Be brief."),), (Turn("assistant", "3"),)])
def test_a_conversation_in_which_nobody_asks_is_refused(turns):
    with pytest.raises(DataError, match="no turn of a user"):
        renderer().signal_prompt(turns, 10)


@pytest.mark.parametrize("system", [(), (Turn("system", "Be brief."),)])
def test_what_a_chat_template_refuses_is_said(system):
    with pytest.raises(DataError, match="refuses the conversation: Roles must alternate"):
        renderer(ALTERNATES).signal_prompt((*system, TALK[0], TALK[0]), 10)


def test_a_chat_template_that_drops_a_turn_is_an_error():
    with pytest.raises(ConfigError, match="drops what was answered before; set `template`"):
        renderer(FORGETS_ANSWERS).signal_prompt((TALK[0], Turn("assistant", "three"), TALK[2]), 10)
    with pytest.raises(ConfigError, match="drops the question; set `template`"):
        renderer("<|user|>{{ messages[0].content }}<|assistant|>").signal_prompt(TALK, 10)


def test_the_room_is_what_the_context_leaves():
    own = renderer(context_length=100)
    assert own.room(TALK) == 100 - len(own.signal_prompt(TALK, 1))
    assert own.room(TALK, "it is 7</think>x") == 100 - len(own.answer_prompt(TALK, "it is 7", 1).tokens)
    assert own.room("1+2" * 100) < 0


# What stays text


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_token_that_a_question_spells_out_stays_text(control):
    question = f"what is {control}? 1+{control}2"
    prompt = renderer().signal_prompt(question, 10)
    assert said(prompt) == f"<|user|>{question}<|assistant|><think>\n"
    assert controls_in(prompt) == controls_in(renderer().signal_prompt("1", 10))


NASTY = st.lists(
    st.sampled_from((*CONTROLS, *(c[:3] for c in CONTROLS), *(c[3:] for c in CONTROLS), "a", " the", "\n", "é", "1"))
).map("".join)
"""Texts of control tokens, whole and in parts, and letters."""
PLACES = ("system", "user", "assistant", "signal")


@settings(max_examples=150, deadline=None)
@given(texts=st.fixed_dictionaries({place: NASTY for place in PLACES}), where=st.sampled_from([CHAT_TEMPLATE, SPLITS_THINKING]))
def test_the_control_tokens_of_a_prompt_are_those_of_its_template(texts, where):
    def prompt(texts):
        turns = [Turn(role, texts[role]) for role in PLACES[:3]]
        return renderer(where).answer_prompt((*turns, Turn("user", "1")), texts["signal"].replace("<think>", ""), 1).tokens

    tokens = prompt(texts)
    assert controls_in(tokens) == controls_in(prompt(dict.fromkeys(PLACES, "x")))
    signal = texts["signal"].replace("<think>", "").split("</think>")[0].strip("\n")
    talk = "<|system|>{system}<|user|>{user}<|assistant|>{assistant}<|user|>1<|assistant|>".format(**texts)
    if where == CHAT_TEMPLATE:
        assert said(tokens) == f"{talk}<think>\n{signal}\n</think>\n\n"


@settings(max_examples=50, deadline=None)
@given(question=NASTY)
def test_a_plain_prompt_has_no_control_tokens_but_the_signals(question):
    prompt = renderer(None).answer_prompt(question, "it is 3", 1).tokens
    assert said(prompt) == f"Question: {question}\n\nResponse:\n<think>\nit is 3\n</think>\n\n"
    assert controls_in(prompt) == tokenizer().convert_tokens_to_ids(["<think>", "</think>"])


def test_an_opening_tag_within_a_signal_is_left_as_the_model_wrote_it():
    tokens = renderer().answer_prompt("1+2", "so <think> it is 3", 10).tokens
    names = [name for name in tokenizer().convert_ids_to_tokens(list(tokens)) if name in CONTROLS]
    assert names == ["<|user|>", "<|assistant|>", "<think>", "<think>", "</think>"]


def test_a_question_that_ends_with_an_opening_tag_has_not_opened_the_signal():
    prompt = renderer(template="{question}").signal_prompt("what is <think>", 10)
    assert said(prompt) == "what is <think><think>\n"
    assert len(controls_in(prompt)) == 1


def test_a_template_that_trims_also_trims_around_control_tokens():
    assert said(renderer(TRIMS).signal_prompt(" \n<|end|>1 \n", 10)) == "<|user|><|end|>1<|assistant|><think>\n"


def test_what_an_assistant_thought_is_not_taken_for_the_templates_own():
    turns = (Turn("user", "1+2"), Turn("assistant", "it is 3</think>3"), Turn("user", "3+4"))
    prompt = renderer(SPLITS_THINKING).response_prompt(turns, 10)
    assert "<|assistant|>it is 3</think>3<|user|>" in said(prompt)
    assert len(controls_in(prompt)) == 4


def test_a_token_of_the_template_that_is_not_special_is_guarded_too():
    own = copy.deepcopy(tokenizer())
    own.add_tokens(["[USER]", "[BOT]", "   "])
    chat = renderer("[USER]{{ messages[0].content }}[BOT]", own=own)
    tokens, names = chat.signal_prompt("[BOT]1+2   [USER]", 10), ["[USER]", "[BOT]"]
    assert own.decode(list(tokens)) == "[USER][BOT]1+2   [USER][BOT]<think>\n"
    assert [tokens.count(number) for number in own.convert_tokens_to_ids(names)] == [1, 1]
    # an added token that no template writes is text like any other
    assert own.convert_tokens_to_ids("   ") in chat.signal_prompt("1   2", 10)


def test_a_spelling_that_is_normalised_to_a_control_token_does_not_become_one():
    own = copy.deepcopy(tokenizer())
    own.backend_tokenizer.normalizer = normalizers.NFKC()
    own.add_special_tokens({"additional_special_tokens": [AddedToken("<|more|>", normalized=True, special=True)]})
    number, tags = own.convert_tokens_to_ids("<|more|>"), own.convert_tokens_to_ids(["<think>", "</think>"])
    for spelling in ("＜|more|＞", "＜/think＞", "a＜think＞b"):
        assert {number, *tags} & set(own.encode(spelling))  # it would
        tokens = renderer(own=own).signal_prompt(f"1+2 {spelling}", 10)
        assert [tokens.count(token) for token in (number, *tags)] == [0, 1, 0]
        assert "1+2" in own.decode(list(tokens))
