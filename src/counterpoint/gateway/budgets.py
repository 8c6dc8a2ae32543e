"""How many tokens a stage may write: what the client asks for by number, what the gateway chooses, and what a context holds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from counterpoint.gateway.types import Ask, Message, UpstreamError

SHARE = 4
"""A quarter of what signal and answer have together is kept for the answer; and a quarter of a context is asked for at least,
since the estimate of a prompt is high and a server says what does not fit."""
BYTES_A_TOKEN = 2
"""Fewer than any text has, but for runs of digits."""
FRAME_TOKENS = 128
"""For a template, and for instructions of ours."""
LENGTH = re.compile(r"context|length|too (?:long|large|many)|\b413\b", re.IGNORECASE)
"""What servers say where a prompt is too long."""


@dataclass(frozen=True)
class Budgets:
    """Of one request."""

    signal: int
    answer: int
    total: int | None = None
    """Of signal and answer together."""
    signal_named: bool = False
    """The client's own number: it is asked for as it is, even where by our estimate it may not fit."""
    answer_named: bool = False

    def for_signal(self, messages: Sequence[Message], reader: int | None) -> int:
        """M's signal.

        Args:
            reader: context length of the model that reads it, if it is known: what does not fit there is not asked for.
        """
        budget = self.signal if self.signal_named else min(self.signal, room(reader, messages, kept=self.answer))
        if self.total is None:
            return budget
        return min(budget, self.total - min(self.answer, max(1, self.total // SHARE)))

    def for_answer(self, written: int) -> int:
        """An answer after a signal of so many tokens."""
        return self.answer if self.total is None else min(self.answer, max(1, self.total - written))

    @property
    def alone(self) -> int:
        """One model's thinking and answer."""
        budget = self.signal + self.answer
        return min(budget, self.total or budget)

    @property
    def alone_named(self) -> int:
        """Of those, what the client asks for by number."""
        return min(self.alone, self.signal * self.signal_named + self.answer * self.answer_named)


def fitting(ask: Ask, context_length: int | None) -> int:
    """The tokens to ask a server for: all that the client named, and of what the gateway chose as many as surely fit."""
    return min(ask.max_tokens, max(ask.named_tokens, room(context_length, ask.messages, ask.signal)))


def room(context_length: int | None, messages: Sequence[Message], signal: str = "", kept: int = 0) -> int:
    """Tokens that surely fit after the messages and the signal, beside those `kept` for something else.

    Args:
        context_length: None: not known, and anything fits.
    """
    if context_length is None:
        return 2**31
    return max(context_length - kept - _at_most(messages, signal), context_length // SHARE, 1)


def too_long(error: UpstreamError, ask: Ask, context_length: int | None) -> bool:
    """Whether a model may have rejected a request for its length: it says so, or it may not fit into the context."""
    fits = context_length is None or _at_most(ask.messages, ask.signal) + ask.max_tokens <= context_length
    return not fits or bool(LENGTH.search(str(error)))


def _at_most(messages: Sequence[Message], signal: str) -> int:
    """More tokens than a prompt has, without its tokenizer."""
    texts = (*(message.content for message in messages), signal)
    return FRAME_TOKENS + sum(len(text.encode(errors="surrogatepass")) for text in texts) // BYTES_A_TOKEN
