"""Question to M's prompt; question and signal to m's prompt; where the signal ends.

One renderer serves both models. Each uses its own chat template, or a plain one if it has none, and the signal always stands
where the model's own thinking would: closed, even if M was cut off before it closed it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from counterpoint.duet.signal import SIGNAL_CLOSE, SIGNAL_OPEN
from counterpoint.errors import ConfigError, DataError
from counterpoint.policy.base import Policy
from counterpoint.rl.types import Completion, Question, SamplingParams

PLAIN_TEMPLATE = "Question: {question}\n\nResponse:\n"


@dataclass(frozen=True)
class AnswerPrompt:
    """A prompt for an answer, and what had to be left out of the signal to make it fit."""

    tokens: tuple[int, ...]
    signal_tokens_cut: int


class Renderer:
    """Prompts of one model.

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
        added = tokenizer.added_tokens_decoder.values()
        self.control_texts = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)

    @property
    def end_token(self) -> int:
        """The token that ends a response."""
        token = self.tokenizer.eos_token_id
        if not isinstance(token, int):
            raise ConfigError(
                f"the tokenizer of {self.tokenizer.name_or_path} names no end-of-sequence token; set eos_token in it"
            )
        return token

    def signal_prompt(self, question: str, max_tokens: int, question_id: str = "") -> tuple[int, ...]:
        """M's prompt: the question, then an open signal. Raises `DataError` if it leaves no room for `max_tokens`."""
        tokens = self._encode(self._opened(question))
        self._check_room(len(tokens), max_tokens, question_id)
        return tokens

    def response_prompt(self, question: str, max_tokens: int, question_id: str = "") -> tuple[int, ...]:
        """A prompt for a response in the model's own way: its chat template and nothing more. Raises `DataError` as above."""
        tokens = self._encode(self._asked(question))
        self._check_room(len(tokens), max_tokens, question_id)
        return tokens

    def answer_prompt(self, question: str, signal: str, max_tokens: int, question_id: str = "") -> AnswerPrompt:
        """A prompt for the answer: the question, and `signal` (empty: unaided) as thinking already written.

        The signal ends at its first closing tag, and special tokens that it spells out stay text: it cannot leave its place.
        Where the prompt and `max_tokens` exceed the context, the signal loses its beginning; the question never loses anything,
        and a question that does not fit alone raises `DataError`.
        """
        opened, signal = self._opened(question), signal.split(SIGNAL_CLOSE, 1)[0]
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

    def _opened(self, question: str) -> str:
        """The question, rendered, up to and with the opening of the signal."""
        text = self._asked(question)
        # templates of thinking-only models open the signal themselves
        return text if text.rstrip().endswith(SIGNAL_OPEN) else f"{text}{SIGNAL_OPEN}\n"

    def _asked(self, question: str) -> str:
        """The question, rendered, up to where the model begins."""
        content = f"{question}\n\n{self.instruction}" if self.instruction else question
        if self.tokenizer.chat_template and self.template is None:
            messages: Any = [{"role": "user", "content": content}]
            text = str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        else:
            # str.replace, not str.format: questions hold braces of their own
            text = (self.template or PLAIN_TEMPLATE).replace("{question}", content)
        if content not in text and question.strip() not in text:
            raise ConfigError(
                f"the chat template of {self.tokenizer.name_or_path} drops the question; set `template` to one with {{question}}"
            )
        return text

    def _encode_with(self, opened: str, signal: str) -> tuple[int, ...]:
        """A prompt with its signal, closed."""
        signal, closing = signal.strip("\n"), f"\n{SIGNAL_CLOSE}\n\n"
        if not any(text in signal for text in self.control_texts):
            return self._encode(opened + signal + closing)
        as_text = self.tokenizer.encode(signal, add_special_tokens=False, split_special_tokens=True)
        return self._encode(opened) + tuple(as_text) + tuple(self.tokenizer.encode(closing, add_special_tokens=False))

    def _encode(self, text: str) -> tuple[int, ...]:
        # a chat template writes its own beginning-of-sequence token
        plain = not self.tokenizer.chat_template or self.template is not None
        return tuple(self.tokenizer.encode(text, add_special_tokens=plain))

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
