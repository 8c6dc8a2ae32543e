"""The nouns of the gateway: what a client asks, what one stage asks of one model, what comes back, and how that fails."""

from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal, Protocol

Role = Literal["capable", "light"]
Stage = Literal["signal", "answer", "alone"]
"""M's reasoning for m; an answer, aided or (with an empty signal) unaided; one model that thinks and answers in one go."""
Finish = Literal["stop", "length"]
"""Why a model ended: by itself or at a stop string; or at its token budget."""
Thinks = Literal["tagged", "opened", "hidden"]
"""Where a model that is asked alone thinks: in its text, from an opening tag on; in its text from the beginning, since the prompt
opened it, or at a tag; or out of sight, and then a text, a stop string too, can only be its answer's."""
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
    """Whether the model did not say all of it: then output is counted by what came, and a prompt is guessed."""

    def __add__(self, other: "Usage") -> "Usage":
        prompt, output = self.prompt_tokens + other.prompt_tokens, self.output_tokens + other.output_tokens
        return Usage(prompt, output, self.estimated or other.estimated)


class Tally:
    """What one call has taken so far, over all its tries. The upstream writes it; `usage` is read, however the call ends.

    Attributes:
        thinking: tokens of the output that the server called reasoning.
    """

    def __init__(self) -> None:
        self.thinking = 0
        self._before = Usage()
        """Tries that were accepted and failed."""
        self._prompt, self._guessed = 0, False
        self._together = 0
        """Output of all choices, as the server said it."""
        self._told: Counter[int] = Counter()
        """Or of each choice."""
        self._since: Counter[int] = Counter()
        """Counted by what came of each after that."""

    def begin(self, prompt: int, guessed: bool = False) -> None:
        """A model has taken the prompt of a try, and reads it."""
        self._before = self.usage
        self._prompt, self._guessed, self._together = prompt, guessed, 0
        self._told, self._since = Counter(), Counter()

    def count(self, tokens: int, index: int = 0) -> None:
        """Some more tokens of a choice came."""
        self._since[index] += tokens

    def tell(self, prompt: int, output: int, index: int | None = None, thinking: int = 0) -> None:
        """What the server says its usage is so far: the output of one choice, or (None) of all together.

        A server that says 0 of what has come says nothing.
        """
        if prompt:
            self._prompt, self._guessed = prompt, False
        self.thinking = max(self.thinking, thinking)
        if not output and self._output:
            return
        if index is None:
            self._together, self._told, self._since = output, Counter(), Counter()
        else:
            self._told[index], self._since[index] = output, 0

    @property
    def _output(self) -> int:
        return max(self._together, self._told.total()) + self._since.total()

    @property
    def usage(self) -> Usage:
        """As it was told, counted since then, and guessed where nothing was."""
        return self._before + Usage(self._prompt, self._output, self._guessed or self._since.total() > 0)


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
    named_tokens: int = 0
    """Of max_tokens, what the client asks for by number: never less is asked for."""
    tally: Tally = field(default_factory=Tally, compare=False, repr=False)
    """Of this call alone."""


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

    @property
    def name(self) -> str:
        """The model's name, for usage and errors."""
        ...

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and output together; None where that is not known, or where the model cuts what is too long itself."""
        ...

    @property
    def thinks(self) -> Thinks: ...

    def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """The pieces of the completion as they are written. What it takes is in `ask.tally`, however it ends.

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
        retry_after: seconds, if the model said.
        reason: the message without what it quotes of the model's own words, which may hold those of the client.
    """

    def __init__(
        self,
        role: Role,
        kind: ErrorKind,
        message: str,
        retry_after: float | None = None,
        quoted: str = "",
    ):
        super().__init__(f"{message}: {quoted}" if quoted else message)
        self.reason = message
        self.role = role
        self.kind: ErrorKind = kind
        self.retry_after = retry_after
