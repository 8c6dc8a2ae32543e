"""The nouns of the gateway: what a client asks, what one stage asks of one model, what comes back, and how that fails."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal, Protocol

Role = Literal["capable", "light"]
Stage = Literal["signal", "answer", "alone"]
"""M's reasoning for m; an answer, aided or (with an empty signal) unaided; one model that thinks and answers in one go."""
Finish = Literal["stop", "length"]
"""Why a model ended: by itself or at a stop string; or at its token budget."""
ErrorKind = Literal["connect", "timeout", "rate_limit", "server", "protocol", "rejected", "denied", "breaker"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Sampling:
    """How a client wants its answer drawn; None leaves the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1


@dataclass(frozen=True)
class Usage:
    """Tokens of one call to a model."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = field(default=False, compare=False)
    """Whether the model did not say all of it: then output is counted by what came, and a prompt of 0 is not known."""


@dataclass
class Known:
    """What caller and model know of each other if the call is ended before its end."""

    usage: Usage = field(default_factory=Usage)
    """So far, as the model said or as was counted."""
    over: bool = False
    """The caller has all that it asked for; one that is about to end by itself may be waited for: it then says its usage."""


@dataclass(frozen=True)
class Ask:
    """What one stage asks of one model."""

    stage: Stage
    messages: tuple[Message, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    signal: str = ""
    """`answer`: M's signal, as the thinking that the answer follows."""
    logprobs: bool = False
    """Whether pieces carry the log-probability of their tokens."""
    known: Known = field(default_factory=Known, compare=False, repr=False)


@dataclass(slots=True)
class Piece:
    """Some more of one choice. There is one a token, and a frozen one takes three times as long to make."""

    index: int = 0
    """Which of `n` choices."""
    text: str = ""
    thinking: str = ""
    """Text that the model's server tells apart as reasoning."""
    tokens: int = 0
    """How many tokens these are."""
    logprob: float | None = None
    """Sum of their log-probabilities in nats."""
    finish: Finish | None = None
    """Set on the last piece of a choice."""


class Upstream(Protocol):
    """A model behind a URL, or in this process."""

    role: Role
    name: str
    """The model's name, for usage and errors."""

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and output together; None where that is not known, or where the model cuts what is too long itself."""
        ...

    def stream(self, ask: Ask) -> AsyncGenerator[Piece | Usage, None]:
        """The pieces of the completion as they are written, and one `Usage` last.

        An iterator that is closed early (`aclose`) stops the model at once. Raises `UpstreamError`; it may come after pieces.
        """
        ...

    async def ready(self) -> bool:
        """Whether the model can be asked now; quick, and never raises."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


class UpstreamError(Exception):
    """A model could not answer.

    Attributes:
        role: which of the two.
        kind: `connect` (none, refused or cut), `timeout`, `rate_limit` (429), `server` (5xx), `protocol` (what it sent is no
            answer), `rejected` (400, 413 or 422: the request is wrong, for the other model too), `denied` (another 4xx: our key,
            url or model name is wrong), `breaker` (not asked, since it failed just before).
        usage: what was spent before it failed, counted by the pieces that came where the model did not say.
        retry_after: seconds, if the model said.
        reason: the message without what it quotes of the model's own words, which may hold those of the client.
    """

    def __init__(
        self,
        role: Role,
        kind: ErrorKind,
        message: str,
        usage: Usage | None = None,
        retry_after: float | None = None,
        quoted: str = "",
    ):
        super().__init__(f"{message}: {quoted}" if quoted else message)
        self.reason = message
        self.role = role
        self.kind: ErrorKind = kind
        self.usage = usage or Usage()
        self.retry_after = retry_after
