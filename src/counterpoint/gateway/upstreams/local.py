"""A model directory in this process. Both stages go through `duet/infer.py`, as in training and evaluation.

One thread serves one request at a time, in the order of their arrival: enough for small models and few people. For more, serve
the model with vLLM and give its URL.
"""

import asyncio
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from counterpoint.config import EvaluationConfig, ModelConfig
from counterpoint.duet.infer import answer_alone, write_answers, write_signals
from counterpoint.errors import ConfigError, CounterpointError, DataError, ModelError
from counterpoint.gateway.budgets import SHARE
from counterpoint.gateway.config import UpstreamConfig
from counterpoint.gateway.types import Ask, ErrorKind, Message, Piece, Role, Sampling, Thinks, UpstreamError
from counterpoint.gateway.upstreams.incremental import Choice
from counterpoint.policy.load import BUILTIN, load_policy
from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.prompting import Renderer, Speaker
from counterpoint.policy.rollout import OnTokens
from counterpoint.rl.types import Completion, SamplingParams

DEFAULTS = EvaluationConfig()  # pyright: ignore[reportCallIssue]
"""How a model is sampled where the client does not say: as it was measured."""
FOR_SERVERS = {"api_key_env", "extra", "signal"}
LEAST = 1e-4
"""Temperatures below are greedy, since logits over them would not be finite; the nucleus holds one token at least."""


class LocalUpstream:
    """`Upstream` over a model directory, or `builtin:NAME`. Raises `ModelError` or `ConfigError` if it cannot be asked."""

    def __init__(self, role: Role, config: UpstreamConfig):
        self.role: Role = role
        self.config = config
        self.name = config.model or Path(str(config.path)).name
        self.policy = load(config)
        self.policy.tokenizer.name_or_path = self.name  # errors reach clients, whom the directory does not concern
        self.renderer = Renderer(self.policy.tokenizer, self.policy.context_length, config.instruction)
        self.renderer.room("1 + 1")  # a template that drops what is asked is noticed now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"counterpoint-{role}")
        self._requests: set[Request] = set()
        self._closed = False

    context_length = None
    """It cuts what is too long itself."""
    thinks: Thinks = "tagged"
    """Its pieces tell thinking apart."""

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """See `Upstream.stream`. The limits of time include waiting for other requests."""
        if self._closed:
            raise self._error("connect", "has been closed")
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        arrived: asyncio.Queue[list[Piece] | None] = asyncio.Queue()
        request = Request(ask, self.policy, self.renderer, lambda some: loop.call_soon_threadsafe(arrived.put_nowait, some))
        self._requests.add(request)
        job = loop.run_in_executor(self._thread, self._complete, request)
        job.add_done_callback(lambda _: arrived.put_nowait(None))
        limit = min(self.config.first_token_seconds, self.config.total_seconds)
        try:
            while (pieces := await self._next(arrived, request, began, limit)) is not None:
                limit = self.config.total_seconds
                for piece in pieces:
                    yield piece
            await job
            if request.cancelled.is_set():
                raise self._error("connect", "has been closed")
        finally:
            request.cancelled.set()
            self._requests.discard(request)

    async def ready(self) -> bool:
        return not self._closed

    async def close(self) -> None:
        """Ends what runs, then the thread."""
        self._closed = True
        for request in self._requests:
            request.cancelled.set()
        await asyncio.to_thread(self._thread.shutdown)

    def _complete(self, request: "Request") -> None:
        """In the model's thread."""
        try:
            request.complete()
        except CounterpointError as error:
            raise self._error("rejected", "cannot take this", str(error)) from error
        except (RuntimeError, MemoryError) as error:  # torch's errors, out of memory among them
            raise self._error("server", f"failed: {error}") from error

    async def _next(
        self, arrived: "asyncio.Queue[list[Piece] | None]", request: "Request", began: float, limit: float
    ) -> list[Piece] | None:
        try:
            async with asyncio.timeout_at(began + limit):
                return await arrived.get()
        except TimeoutError as error:
            raise self._error("timeout", f"took longer than {limit:g} s") from error

    def _error(self, kind: ErrorKind, what: str, quoted: str = "") -> UpstreamError:
        return UpstreamError(self.role, kind, f"{self.name} {what}", quoted=quoted)


class Cancelled(Exception):
    """Nobody waits for the rest."""


@dataclass(frozen=True)
class Talk:
    """Messages, as `duet/infer.py` takes questions."""

    text: Sequence[Message]
    id: str = ""


class Request:
    """One request: from what is asked to pieces of what is said.

    Args:
        tell: gets the pieces of each step, in the model's thread.
    """

    def __init__(self, ask: Ask, policy: LocalPolicy, renderer: Renderer, tell: Callable[[list[Piece]], object]):
        self.ask = ask
        self.policy = policy
        self.renderer = renderer
        self.tell = tell
        self.cancelled = threading.Event()
        self.written = 0
        """Tokens of all choices."""
        self.choices: list[Choice] = []

    def complete(self) -> None:
        """Samples until the end, or until it is cancelled. Raises `DataError` for messages that the model cannot be asked."""
        try:
            self._stop_if_cancelled()
            self._check_text()
            completions = self._sample()
        except Cancelled:
            return
        self.tell([choice.end(completion) for choice, completion in zip(self.choices, completions, strict=True)])

    def begin(self, prompt: Sequence[int], params: SamplingParams) -> None:
        """The prompt is about to be read."""
        self.ask.tally.begin(len(prompt))
        thinks = self.ask.stage == "alone"
        self.choices = [Choice(i, self.policy.decode, params.stop, thinks) for i in range(self.ask.sampling.n)]

    def heard(self, rows: list[int], tokens: list[int], logprobs: list[float]) -> None:
        """Some choices have grown by a token."""
        self.written += len(rows)
        self.ask.tally.tell(0, self.written)
        self._stop_if_cancelled()
        grown = zip(rows, tokens, logprobs, strict=True)
        self.tell([self.choices[row].add(token, logprob if self.ask.logprobs else None) for row, token, logprob in grown])

    def _sample(self) -> list[Completion]:
        ask, speaker = self.ask, Speaker(Overheard(self.policy, self), self.renderer)
        questions, params = [Talk(ask.messages)], sampling_params(ask.sampling, self._budget())
        seed = secrets.randbits(63) if ask.sampling.seed is None else ask.sampling.seed % (1 << 63)
        if ask.stage == "signal":
            [completions] = write_signals(speaker, questions, ask.sampling.n, params, seed)
        elif ask.stage == "alone":
            [completions] = answer_alone(speaker, questions, ask.sampling.n, params, seed)
        else:
            [[completions]] = write_answers(speaker, questions, [[ask.signal]], ask.sampling.n, params, seed).completions
        return completions

    def _budget(self) -> int:
        """The tokens asked for, or as many as the context leaves."""
        ask, context = self.ask, self.renderer.context_length
        if ask.stage == "answer":
            unaided = self.renderer.room(ask.messages, "")
            room = max(self.renderer.room(ask.messages, ask.signal), min(unaided, context // SHARE))  # else the signal is cut
        else:
            room = self.renderer.room(ask.messages)
        if room < 1:
            raise DataError(f"the conversation does not fit into its context of {context} tokens; shorten it")
        return min(ask.max_tokens, room)

    def _check_text(self) -> None:
        """JSON can spell half a character, which no tokenizer takes."""
        texts = (*(message.content for message in self.ask.messages), self.ask.signal, *self.ask.sampling.stop)
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"a message, signal or stop string is not text: {error.reason}") from error

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled


class Overheard(LocalPolicy):
    """A policy that tells a request what it samples for it."""

    def __init__(self, policy: LocalPolicy, request: Request):
        self.__dict__ = dict(policy.__dict__)
        self._request = request

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seed: int, on_tokens: OnTokens | None = None
    ):
        self._request.begin(prompts[0], params)
        return super().sample(prompts, n, params, seed, on_tokens or self._request.heard)


def load(config: UpstreamConfig) -> LocalPolicy:
    """The model at `path`, frozen. Raises `ModelError` where there is none, `ConfigError` for what only a server is told."""
    path = str(config.path)
    if strange := sorted(FOR_SERVERS & config.model_fields_set):
        raise ConfigError(f"{path} is a model directory, and {', '.join(strange)} is for a url; leave it out")
    if not path.startswith(BUILTIN) and not Path(path).expanduser().is_dir():
        raise ModelError(f"there is no model directory {path}; give one with config.json in it, or the url of a server")
    return load_policy(ModelConfig(model=path, train=False))  # pyright: ignore[reportCallIssue]


def sampling_params(sampling: Sampling, max_tokens: int) -> SamplingParams:
    """What the client leaves open is as evaluation has it."""
    temperature = DEFAULTS.temperature if sampling.temperature is None else sampling.temperature
    top_p = DEFAULTS.top_p if sampling.top_p is None else sampling.top_p
    return SamplingParams(
        max_tokens,
        temperature=temperature if temperature >= LEAST else 0.0,
        top_p=max(top_p, LEAST),
        top_k=DEFAULTS.top_k,
        stop=tuple(stop for stop in sampling.stop if stop),
    )
