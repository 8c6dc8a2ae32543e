"""One request on its way through the policies: what is asked, and what was done and spent for it."""

import time
from dataclasses import dataclass, field

from counterpoint.gateway.types import Message, Role, Sampling, Stage, UpstreamError, Usage


@dataclass
class Call:
    """What one call to one model took, filled while it goes on."""

    role: Role
    stage: Stage
    model: str
    usage: Usage = field(default_factory=Usage)
    began: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    seconds: float = 0.0
    first_seconds: float | None = None
    """Until the first token."""
    error: str | None = None
    """The kind of the error that ended it."""
    failure: UpstreamError | None = None
    """And all of it."""
    thinking_tokens: int = 0
    """Of a model alone: those before its answer."""
    estimated: bool = False
    """Whether its usage is, since the model did not say it: its output is what came, without what it thought and did not show."""


@dataclass
class Turn:
    """One request: what is asked, and what has been done for it so far."""

    messages: tuple[Message, ...]
    sampling: Sampling
    signal_tokens: int
    """M's budget."""
    answer_tokens: int
    """The answer's."""
    total_tokens: int | None = None
    """Bound on signal and answer together."""
    streaming: bool = True
    """Whether the client sees deltas as they come: then an answer that has begun cannot be taken back."""
    calls: list[Call] = field(default_factory=list)
    fallback: Role | None = None
    """The model that stood in for the other."""
    blind: bool = False
    """`auto` could not tell how sure m is, since its server gave no log-probabilities."""

    @property
    def signal_written(self) -> int:
        """Tokens that the signal took."""
        return sum(call.usage.output_tokens for call in self.calls if call.stage == "signal")
