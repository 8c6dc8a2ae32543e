"""A conversation as one text: in a model's chat template, or in a plain one."""

from collections.abc import Sequence
from typing import Any, Protocol

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from counterpoint.errors import ConfigError, DataError


class Turn(Protocol):
    """What one side said."""

    @property
    def role(self) -> str:
        """`system`, `user` or `assistant`."""
        ...

    @property
    def content(self) -> str: ...


Conversation = str | Sequence[Turn]
"""A question by itself, or the turns up to it."""
Turns = list[dict[str, str]]
"""The same as chat templates take it: `role` and `content` of each turn."""


def turns_of(conversation: Conversation) -> Turns:
    """Raises `DataError` where nobody asks anything."""
    if isinstance(conversation, str):
        return [{"role": "user", "content": conversation}]
    turns = [{"role": turn.role, "content": turn.content} for turn in conversation]
    if not any(turn["role"] == "user" for turn in turns):
        raise DataError("the conversation has no turn of a user; give it one")
    return turns


def with_instruction(turns: Turns, instruction: str) -> Turns:
    """`turns` with a sentence after the last of the user's."""
    if not instruction:
        return turns
    last = max(i for i, turn in enumerate(turns) if turn["role"] == "user")
    asked = {"role": "user", "content": f"{turns[last]['content']}\n\n{instruction}"}
    return [*turns[:last], asked, *turns[last + 1 :]]


def in_chat_template(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> str:
    """The turns up to where the model begins. A system text that the template refuses stands in front of the first user's.

    Raises `DataError` for turns that the template refuses, `ConfigError` for a template that leaves some out.
    """
    has_system = any(turn["role"] == "system" for turn in turns)
    messages: Any = turns
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        if has_system:
            return in_chat_template(tokenizer, with_system_in_front(turns))
        raise DataError(f"the chat template of {tokenizer.name_or_path} refuses the conversation: {error}") from error
    dropped = {turn["role"] for turn in turns if turn["content"].strip() not in text}
    if dropped == {"system"}:
        return in_chat_template(tokenizer, with_system_in_front(turns))
    if dropped:
        what = "the question" if "user" in dropped else "what was answered before"
        raise ConfigError(f"the chat template of {tokenizer.name_or_path} drops {what}; set `template` to one with {{question}}")
    return text


def with_system_in_front(turns: Turns) -> Turns:
    """`turns` without any of the system's; what it says comes first in the user's first turn."""
    system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
    rest = [turn for turn in turns if turn["role"] != "system"]
    first = next(i for i, turn in enumerate(rest) if turn["role"] == "user")
    asked = {"role": "user", "content": f"{system}\n\n{rest[first]['content']}"}
    return [*rest[:first], asked, *rest[first + 1 :]]


def in_plain_template(template: str, turns: Turns) -> str:
    """User turns in a template with `{question}`, what else was said between them. Raises `DataError` if a user's is not last."""
    if turns[-1]["role"] != "user":
        raise DataError(f"without a chat template a model goes on from a user's turn, and the last is the {turns[-1]['role']}'s")
    # str.replace, not str.format: questions hold braces of their own
    return "".join(
        template.replace("{question}", turn["content"]) if turn["role"] == "user" else f"{turn['content']}\n\n" for turn in turns
    )
