"""An upstream that says for each stage what it was told to, when it is told to: for tests that look while it speaks."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any

from counterpoint.gateway.policies import Pair
from counterpoint.gateway.types import Ask, Piece, Role, Stage, Thinks, Usage
from gateway.scripted import begin, words

Gate = Future
"""In a script: waited for, until the test says `set_result(None)`."""
PRICES = {
    "capable": {"url": "http://127.0.0.1:9/v1", "input_price": 1.0, "output_price": 10.0},
    "light": {"url": "http://127.0.0.1:9/v1", "input_price": 0.1, "output_price": 1.0},
    "routing": {"capable_alone_tokens": 12.0},
}
SIGNAL, ANSWER = "two and two", "it is 4"
THOUGHT = "<think>\nfirst I take two and then two more which makes four\n</think>\n\nit is 4"


class Staged:
    """A model with a script for each stage. Exceptions in it are raised."""

    def __init__(self, role: Role, **scripts: list[Piece | Usage | Exception | Gate]):
        self.role, self.name, self.scripts = role, f"{role}-model", scripts
        self.asks: list[Ask] = []
        self.closed = threading.Event()
        """A stream has ended, in whatever way."""

    context_length = None
    thinks: Thinks = "tagged"

    async def stream(self, ask: Ask) -> AsyncIterator[Piece]:
        self.asks.append(ask)
        begin(ask, self.scripts[ask.stage])
        try:
            for step in self.scripts[ask.stage]:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Gate):
                    await asyncio.wrap_future(step)
                elif isinstance(step, Usage):
                    ask.tally.tell(step.prompt_tokens, step.output_tokens)
                else:
                    ask.tally.count(step.tokens, step.index)
                    yield step
        finally:
            self.closed.set()

    def asked(self, stage: Stage) -> list[Ask]:
        return [ask for ask in self.asks if ask.stage == stage]

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass


def pair(capable: dict[str, Any] | None = None, light: dict[str, Any] | None = None, **rules: Any) -> Pair:
    """Two models that answer in words, with other scripts for some stages."""
    m_capable = {"signal": words(SIGNAL), "alone": words(THOUGHT), "answer": words("from M"), **(capable or {})}
    return Pair(Staged("capable", **m_capable), Staged("light", **{"answer": words(ANSWER), **(light or {})}), **rules)


def held(*texts: str) -> tuple[list[Any], list[Gate]]:
    """A script that waits before each text but the first, and before its end."""
    gates = [Gate() for _ in texts]
    script: list[Any] = []
    for text, gate in zip(texts, gates, strict=True):
        script += [Piece(text=text, tokens=1), gate]
    return [*script, Piece(finish="stop")], gates
