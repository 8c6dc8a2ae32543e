"""An upstream that says for each stage what it was told to, when it is told to: for tests that look while it speaks."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future

from counterpoint.gateway.types import Ask, Piece, Role, Stage, Usage

Gate = Future
"""In a script: waited for, until the test says `set_result(None)`."""


class Staged:
    """A model with a script for each stage. Exceptions in it are raised."""

    def __init__(self, role: Role, **scripts: list[Piece | Usage | Exception | Gate]):
        self.role, self.name, self.scripts = role, f"{role}-model", scripts
        self.asks: list[Ask] = []
        self.closed = threading.Event()
        """A stream has ended, in whatever way."""

    async def stream(self, ask: Ask) -> AsyncIterator[Piece | Usage]:
        self.asks.append(ask)
        try:
            for step in self.scripts[ask.stage]:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Gate):
                    await asyncio.wrap_future(step)
                else:
                    yield step
        finally:
            self.closed.set()

    def asked(self, stage: Stage) -> list[Ask]:
        return [ask for ask in self.asks if ask.stage == stage]

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass
