"""Budgets that fit a server's context, as far as that can be known without its tokenizer."""

from collections.abc import Sequence

from counterpoint.gateway.types import Message

BYTES_A_TOKEN = 2
"""Fewer than any text has, but for runs of digits."""
FRAME_TOKENS = 128
"""For a template, and for instructions of ours."""
LEAST_SHARE = 4
"""A quarter of the context is asked for at least: the estimate is high, and the server refuses what does not fit."""


def within(tokens: int, context_length: int | None, messages: Sequence[Message], signal: str = "", kept: int = 0) -> int:
    """As many of so many tokens as surely fit after the messages and the signal.

    Args:
        context_length: None: not known, and anything fits.
        kept: tokens that are for something else.
    """
    if context_length is None:
        return tokens
    size = sum(len(text.encode(errors="surrogatepass")) for text in (*(message.content for message in messages), signal))
    room = context_length - kept - FRAME_TOKENS - size // BYTES_A_TOKEN
    return min(tokens, max(room, context_length // LEAST_SHARE, 1))
