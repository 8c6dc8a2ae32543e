"""One request on its way through the policies: what is asked, and what was done and spent for it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from counterpoint.gateway.budgets import Budgets
from counterpoint.gateway.types import Ask, Message, Piece, Role, Sampling, Stage, Tally, Upstream, UpstreamError, Usage

FAREWELL_SECONDS, FAREWELL_TOKENS = 1.0, 16
"""For a model that has closed its signal to end by itself, so that it says its usage; it has nothing else to write."""


@dataclass
class Call:
    """What one call to one model took, filled while it goes on."""

    role: Role
    stage: Stage
    model: str
    tally: Tally
    ended: Usage | None = None
    """What it took in the end."""
    began: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    seconds: float = 0.0
    first_seconds: float | None = None
    """Until the first token."""
    error: str | None = None
    """The kind of the error that ended it."""
    failure: UpstreamError | None = None
    """And all of it."""
    thought: int = 0
    """Tokens that were seen to be thinking."""

    @property
    def usage(self) -> Usage:
        """So far. If estimated, its output is what came, without what it thought and did not show."""
        return self.ended or self.tally.usage

    @property
    def thinking_tokens(self) -> int:
        """Of the output, as the server said or as was seen."""
        return max(self.thought, self.tally.thinking)


@dataclass
class Turn:
    """One request: what is asked, and what has been done for it so far."""

    messages: tuple[Message, ...]
    sampling: Sampling
    budgets: Budgets
    streaming: bool = True
    """Whether the client sees deltas as they come: then an answer that has begun cannot be taken back."""
    calls: list[Call] = field(default_factory=list)
    fallback: Role | None = None
    """The model that stood in for the other."""
    blind: bool = False
    """`auto` could not tell how sure m is, since its server gave no log-probabilities."""
    warnings: set[str] = field(default_factory=set)
    """For the operator, who has something to change."""

    farewells: list[tuple[asyncio.Task[None], AsyncGenerator[Piece, None]]] = field(default_factory=list)
    """Calls that go on beside the others until they have said their usage."""

    def let_end(self, pieces: AsyncGenerator[Piece, None]) -> None:
        """A call has said all that was wanted, and is about to end by itself."""
        self.farewells.append((asyncio.create_task(_read_on(pieces)), pieces))

    async def settle(self, at_once: bool = False) -> None:
        """Wait, not for long, until every call has ended; or end them."""
        for task, pieces in self.farewells:
            if at_once:
                task.cancel()
            await asyncio.wait([task])
            await pieces.aclose()

    @property
    def signal_written(self) -> int:
        """Tokens that the signal took."""
        return sum(call.usage.output_tokens for call in self.calls if call.stage == "signal")


async def call(model: Upstream, ask: Ask, turn: Turn) -> AsyncGenerator[Piece, None]:
    """The pieces of one call. What it took is in the turn, however it ends: by itself, by an error, or since nobody listens."""
    record = Call(model.role, ask.stage, model.name, ask.tally)
    turn.calls.append(record)
    began = time.monotonic()
    try:
        async with aclosing(model.stream(ask)) as pieces:
            async for piece in pieces:
                if record.first_seconds is None:
                    record.first_seconds = time.monotonic() - began
                yield piece
    except UpstreamError as error:
        record.error, record.failure = error.kind, error
        raise
    finally:
        record.ended = ask.tally.usage
        record.seconds = time.monotonic() - began
        record.model = model.name


async def _read_on(pieces: AsyncGenerator[Piece, None]) -> None:
    """If the model fails now, nothing is lost but its usage, which is then estimated."""
    tokens = 0
    with suppress(TimeoutError, UpstreamError):
        async with aclosing(pieces), asyncio.timeout(FAREWELL_SECONDS):
            async for piece in pieces:
                tokens += piece.tokens
                if tokens > FAREWELL_TOKENS:
                    break
