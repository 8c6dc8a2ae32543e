"""An upstream that says what it was told to, to keep tests of what is above it small."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from counterpoint.gateway.types import Ask, Piece, Role, Thinks, UpstreamError, Usage

CHARACTERS_A_TOKEN = 4


class Scripted:
    """Pieces (or errors) in order, for each call the next script; the last one again when they are used up.

    Its usage is what a script says; else what was counted, and a guess of the prompt unless the script begins with an error.
    """

    def __init__(self, role: Role, *scripts: list[Piece | Usage | Exception | None]):
        self.role, self.name, self.scripts = role, f"{role}-model", list(scripts)
        self.asks: list[Ask] = []
        self.open = 0

    context_length = None
    thinks: Thinks = "tagged"

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        self.asks.append(ask)
        script = self.script_of(ask)
        self.open += 1
        begin(ask, script)
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Usage):
                    ask.tally.tell(step.prompt_tokens, step.output_tokens)
                    continue
                if step is None:  # hangs
                    await asyncio.Event().wait()
                else:
                    ask.tally.count(step.tokens, step.index)
                    yield step
        finally:
            self.open -= 1

    def script_of(self, ask: Ask) -> Sequence[Piece | Usage | Exception | None]:
        return self.scripts[min(len(self.asks), len(self.scripts)) - 1]

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass


def begin(ask: Ask, script: Sequence[object]) -> None:
    """The prompt is taken, unless the model fails at once."""
    if not script or not isinstance(script[0], Exception):
        ask.tally.begin(sum(len(message.content) for message in ask.messages) // CHARACTERS_A_TOKEN + 1, guessed=True)


def words(text: str, prompt: int = 5) -> list[Piece | Usage]:
    """A text, a token a word, ended by itself, with its usage."""
    parts = [part + " " for part in text.split(" ")]
    parts[-1] = parts[-1][:-1]
    pieces: list[Piece | Usage] = [Piece(text=part, tokens=1, logprob=-0.1) for part in parts]
    return [*pieces, Piece(finish="stop"), Usage(prompt, len(parts))]


def broken(role: Role, kind="server") -> UpstreamError:
    return UpstreamError(role, kind, f"{role} broke")
