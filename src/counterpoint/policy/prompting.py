"""Question to M's prompt; question and signal to m's prompt; where the signal ends.

One renderer serves both models. Each uses its own chat template, or a plain one if it has none, and the signal always stands
where the model's own thinking would: closed, even if M was cut off before it closed it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from transformers import PreTrainedTokenizerBase

from counterpoint.duet.signal import SIGNAL_CLOSE, SIGNAL_OPEN
from counterpoint.errors import ConfigError, DataError
from counterpoint.policy.base import Policy
from counterpoint.policy.conversation import Conversation, Turns, in_chat_template, in_plain_template, turns_of, with_instruction
from counterpoint.policy.literal import LiteralEncoder
from counterpoint.rl.types import Completion, Question, SamplingParams

PLAIN_TEMPLATE = "Question: {question}\n\nResponse:\n"


@dataclass(frozen=True)
class AnswerPrompt:
    """A prompt for an answer, and what had to be left out of the signal to make it fit."""

    tokens: tuple[int, ...]
    signal_tokens_cut: int


class Renderer:
    """Prompts of one model, to a question or a conversation. Special tokens and signal tags that these spell out stay text.

    Args:
        instruction: a sentence on the form of the answer; it follows every question, aided or not.
        template: takes the place of the model's chat template; must contain `{question}`. Without either, a plain one is used.
        context_length: tokens that prompt and completion may have together.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        instruction: str = "",
        template: str | None = None,
    ):
        if template is not None and "{question}" not in template:
            raise ConfigError(
                f"the prompt template {template!r} has no {{question}}: the model would never see what it is asked. "
                "Put {question} where the question belongs"
            )
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.instruction = instruction
        self.template = template
        self.uses_chat_template = bool(tokenizer.chat_template) and template is None
        templates = (str(tokenizer.chat_template or ""), template or "")
        self.encoder = LiteralEncoder(tokenizer, templates, (SIGNAL_OPEN, SIGNAL_CLOSE))

    @property
    def end_token(self) -> int:
        """The token that ends a response."""
        token = self.tokenizer.eos_token_id
        if not isinstance(token, int):
            raise ConfigError(
                f"the tokenizer of {self.tokenizer.name_or_path} names no end-of-sequence token; set eos_token in it"
            )
        return token

    def signal_prompt(self, asked: Conversation, max_tokens: int, question_id: str = "") -> tuple[int, ...]:
        """M's prompt: the question, then an open signal. Raises `DataError` if it leaves no room for `max_tokens`."""
        tokens = self._encode(self._opened(asked))
        self._check_room(len(tokens), max_tokens, question_id)
        return tokens

    def response_prompt(self, asked: Conversation, max_tokens: int, question_id: str = "") -> tuple[int, ...]:
        """A prompt for a response in the model's own way: its chat template and nothing more. Raises `DataError` as above."""
        tokens = self._encode(self._asked(asked))
        self._check_room(len(tokens), max_tokens, question_id)
        return tokens

    def answer_prompt(self, asked: Conversation, signal: str, max_tokens: int, question_id: str = "") -> AnswerPrompt:
        """A prompt for the answer: the question, and `signal` (empty: unaided) as thinking already written.

        The signal ends at its first closing tag, and special tokens that it spells out stay text: it cannot leave its place.
        Where the prompt and `max_tokens` exceed the context, the signal loses its beginning; the question never loses anything,
        and a question that does not fit alone raises `DataError`.
        """
        opened, signal = self._opened(asked), signal.split(SIGNAL_CLOSE, 1)[0]
        tokens = self._encode_with(opened, signal)
        excess = len(tokens) + max_tokens - self.context_length
        if excess <= 0:
            return AnswerPrompt(tokens, 0)
        self._check_room(len(self._encode_with(opened, "")), max_tokens, question_id)
        signal_tokens = self.tokenizer.encode(signal, add_special_tokens=False, split_special_tokens=True)
        cut = min(excess, len(signal_tokens))
        while True:  # text cut between tokens may encode to a few more tokens than were kept
            kept = str(self.tokenizer.decode(signal_tokens[cut:], skip_special_tokens=True))
            tokens = self._encode_with(opened, kept)
            if len(tokens) + max_tokens <= self.context_length or cut >= len(signal_tokens):
                return AnswerPrompt(tokens, cut)
            cut += 1

    def room(self, asked: Conversation, signal: str | None = None) -> int:
        """Tokens that the context leaves after the question and an open signal, or a given one; below 1 it does not fit."""
        opened = self._opened(asked)
        tokens = self._encode(opened) if signal is None else self._encode_with(opened, signal.split(SIGNAL_CLOSE, 1)[0])
        return self.context_length - len(tokens)

    def _opened(self, asked: Conversation) -> list[str]:
        """The question, rendered, up to and with the opening of the signal."""
        *parts, end = self._asked(asked)
        # templates of thinking-only models open the signal themselves
        return [*parts, end if end.rstrip().endswith(SIGNAL_OPEN) else f"{end}{SIGNAL_OPEN}\n"]

    def _asked(self, asked: Conversation) -> list[str]:
        """The question, rendered, up to where the model begins: what the template wrote and what must stay text, in turn."""
        turns = turns_of(asked)
        texts: dict[str, str] = {}
        for turn in turns:
            text = turn["content"].strip()
            if not self.encoder.is_harmless(text):
                mark = f"text-{uuid4().hex}"  # stands in for it while the template is filled
                texts[mark] = text
                turn["content"] = turn["content"].replace(text, mark)
        rendered = self._rendered(with_instruction(turns, self.instruction))
        if not texts:
            return [rendered]
        return [texts.get(part, part) for part in re.split(f"({'|'.join(texts)})", rendered)]

    def _rendered(self, turns: Turns) -> str:
        if self.uses_chat_template:
            return in_chat_template(self.tokenizer, turns)
        return in_plain_template(self.template or PLAIN_TEMPLATE, turns)

    def _encode_with(self, opened: list[str], signal: str) -> tuple[int, ...]:
        """A prompt with its signal, closed."""
        signal, closing = signal.strip("\n"), f"\n{SIGNAL_CLOSE}\n\n"
        # a signal opened within the signal is as M wrote it, and in its place
        if self.encoder.is_harmless(signal.replace(SIGNAL_OPEN, "")):
            return self._encode([*opened[:-1], opened[-1] + signal + closing])
        return self._encode([*opened, signal, closing])

    def _encode(self, parts: list[str]) -> tuple[int, ...]:
        # a chat template writes its own beginning-of-sequence token
        return self.encoder.encode(parts, add_special_tokens=not self.uses_chat_template)

    def _check_room(self, prompt_tokens: int, max_tokens: int, question_id: str) -> None:
        if prompt_tokens + max_tokens > self.context_length:
            raise DataError(
                f"question {question_id or '(no id)'}: its prompt of {prompt_tokens} tokens and {max_tokens} to sample exceed "
                f"the context of {self.context_length} tokens of {self.tokenizer.name_or_path}. Drop the question, lower the "
                "token budget, or use a model with a longer context"
            )


@dataclass(frozen=True)
class Speaker:
    """A model and the way it is asked."""

    policy: Policy
    renderer: Renderer


def respond(model: Speaker, questions: Sequence[Question], n: int, params: SamplingParams, seed: int) -> list[list[Completion]]:
    """`n` responses to each question, as one model gives them by itself."""
    prompts = [model.renderer.response_prompt(q.text, params.max_tokens, q.id) for q in questions]
    return model.policy.sample(prompts, n, params, seed)


def answer_of(response: str) -> str:
    """What a response says after its last signal; all of it where it has none."""
    return response.rsplit(SIGNAL_CLOSE, 1)[-1].strip()
