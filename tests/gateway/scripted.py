"""An upstream that says what it was told to, to keep tests of what is above it small."""

import asyncio
from collections.abc import AsyncGenerator

from counterpoint.gateway.types import Ask, Piece, Role, UpstreamError, Usage


class Scripted:
    """Pieces (or errors) in order, for each call the next script; the last one again when they are used up."""

    def __init__(self, role: Role, *scripts: list[Piece | Usage | Exception | None]):
        self.role, self.name, self.scripts = role, f"{role}-model", list(scripts)
        self.asks: list[Ask] = []
        self.open = 0

    context_length = None

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece | Usage, None]:
        self.asks.append(ask)
        script = self.scripts[min(len(self.asks), len(self.scripts)) - 1]
        self.open += 1
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if step is None:  # hangs
                    await asyncio.Event().wait()
                else:
                    yield step
        finally:
            self.open -= 1

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass


def words(text: str, prompt: int = 5) -> list[Piece | Usage]:
    """A text, a token a word, ended by itself, with its usage."""
    parts = [part + " " for part in text.split(" ")]
    parts[-1] = parts[-1][:-1]
    pieces: list[Piece | Usage] = [Piece(text=part, tokens=1, logprob=-0.1) for part in parts]
    return [*pieces, Piece(finish="stop"), Usage(prompt, len(parts))]


def broken(role: Role, kind="server", spent: int = 0) -> UpstreamError:
    return UpstreamError(role, kind, f"{role} broke", Usage(5, spent))
