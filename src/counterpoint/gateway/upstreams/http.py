"""A model behind a URL: an OpenAI-compatible server, with retries and a circuit breaker."""

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
from yarl import URL

from counterpoint.errors import ConfigError
from counterpoint.gateway.budgets import fitting
from counterpoint.gateway.config import UpstreamConfig
from counterpoint.gateway.types import Ask, ErrorKind, Piece, Role, Thinks, UpstreamError
from counterpoint.gateway.upstreams.breaker import Breaker, State
from counterpoint.gateway.upstreams.chat import body_of
from counterpoint.gateway.upstreams.completion import EXCERPT, BadCompletion, Completion, excerpt, status_kind
from counterpoint.gateway.upstreams.listing import Listing
from counterpoint.gateway.upstreams.reading import ANSWERS, Limits, read_body, read_pieces
from counterpoint.gateway.upstreams.retry import backoff, retry_after

RETRIED: tuple[ErrorKind, ...] = ("connect", "rate_limit", "server")
KEPT_SECONDS = 4.0
"""An idle connection is not used again after this: many servers close it after five, and a request could meet that."""
LONGEST_WAIT = 10.0
"""A server that asks for more patience than this is not asked again: the other model answers, or the client is told."""
READY_SECONDS = 2.0
THINKS: dict[str, Thinks] = {"thinking": "tagged", "native": "opened", "message": "hidden"}
"""By where the signal stands."""
CHARACTERS_A_TOKEN = 4
LISTING_SECONDS = 10.0
LISTING_BYTES = 8 << 20


class HttpUpstream:
    """An `Upstream` over an OpenAI-compatible server. Raises `ConfigError` if the key or what is sent along is not as it must be.

    Attributes:
        name: what the config says, or the first model that the server lists; empty until it has done so.
    """

    def __init__(self, role: Role, config: UpstreamConfig):
        if config.url is None:
            raise ValueError(f"{role} has no url")
        base = URL(config.url)
        if base.user or base.password:
            raise ConfigError(f"{role}: the url holds a user or a password; set api_key_env to the variable with the key")
        self.role: Role = role
        self._config = config
        self._completions = (base / "chat" / "completions").with_query(base.query)
        self._models = (base / "models").with_query(base.query)
        self._server = f"{role} ({base.host}:{base.port})"
        self._key = _key(role, config.api_key_env)
        _check_json(role, config.extra)
        self._breaker = Breaker(config.breaker_failures, config.breaker_seconds)
        self._session: aiohttp.ClientSession | None = None
        self._listing = Listing(config.model or "", self._list)

    @property
    def name(self) -> str:
        return self._listing.latest.name

    @property
    def breaker_state(self) -> State:
        return self._breaker.state(time.monotonic())

    @property
    def context_length(self) -> int | None:
        return self._listing.latest.context_length

    @property
    def thinks(self) -> Thinks:
        return THINKS[self._config.signal]

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """As `Upstream.stream` says. Tries again while nothing has come; the breaker is told of every try."""
        deadline = asyncio.get_running_loop().time() + self._config.total_seconds
        asked_in_message = ask.stage == "signal" and self._config.signal == "message"
        for attempt in itertools.count():
            completion, name = Completion(ask), self.name
            try:
                with self._admitted(completion, deadline) as ticket:
                    async with aclosing(self._attempt(ask, completion, deadline)) as pieces:
                        async for piece in pieces:
                            self._breaker.answering(ticket)
                            if asked_in_message:
                                piece.thinking = ""  # M's own, shown or not, is not the signal that it was asked for
                            yield piece
            except UpstreamError as error:
                renamed = error.kind == "denied" and attempt <= self._config.retries and await self._renamed(name)
                wait = 0.0 if renamed else self._wait(error, attempt, deadline)
                if completion.begun or wait is None:
                    raise
                await asyncio.sleep(wait)
            else:
                return

    async def ready(self) -> bool:
        """Whether the server answers now, and the breaker lets requests through."""
        if self.breaker_state == "open":
            return False
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._listing.refresh()
                return True
        except (UpstreamError, aiohttp.ClientError, OSError, BadCompletion):  # TimeoutError is an OSError
            return False

    async def close(self) -> None:
        await self._listing.close()
        if self._session:
            await self._session.close()

    def _wait(self, error: UpstreamError, attempt: int, deadline: float) -> float | None:
        """Seconds until the next try; None if there is none."""
        if error.kind not in RETRIED or attempt >= self._config.retries or self.breaker_state == "open":
            return None
        if (error.retry_after or 0.0) > LONGEST_WAIT:
            return None
        wait = (error.retry_after or 0.0) + backoff(attempt)
        return wait if wait < deadline - asyncio.get_running_loop().time() else None

    @contextmanager
    def _admitted(self, completion: Completion, deadline: float) -> Iterator[int]:
        """A ticket of the breaker, which is told how the request went."""
        ticket = self._breaker.admit(time.monotonic())
        if ticket is None:
            raise self._error("breaker", "failed several times just now, and is left alone for a while")
        try:
            yield ticket
            self._breaker.succeeded(ticket)
        except UpstreamError as error:
            slow = error.kind == "timeout" and completion.begun and asyncio.get_running_loop().time() >= deadline
            # an answer that is long, or that we are slow to pass on, is no sign that the model is ill
            if error.kind not in ("rate_limit", "rejected", "denied") and not slow:
                self._breaker.failed(ticket, time.monotonic())
            raise
        except GeneratorExit:  # the caller has read enough
            if completion.begun:
                self._breaker.succeeded(ticket)
            raise
        finally:
            self._breaker.released(ticket)

    async def _attempt(self, ask: Ask, completion: Completion, deadline: float) -> AsyncGenerator[Piece, None]:
        """One request. Its connection is used again only if all of the answer was read, and closed at once otherwise."""
        clock, patience = asyncio.get_running_loop().time, self._config.first_token_seconds
        limits = Limits(min(deadline, clock() + patience), deadline, patience)
        response = None
        try:
            async with asyncio.timeout_at(limits.first):
                model = await self._listing.model()
                completion.budget = fitting(ask, model.context_length)
                asked = replace(ask, max_tokens=completion.budget)
                body = body_of(asked, self._config, model.name, model.tells_usage)
                response = await self._opened().post(self._completions, data=json.dumps(body).encode(), allow_redirects=False)
                await self._check_status(response)
            if response.content_type in ANSWERS:
                ask.tally.begin(guessed_tokens(body), guessed=True)  # until the server says it
            async with aclosing(read_pieces(response, completion, limits)) as pieces:
                async for piece in pieces:
                    yield piece
        except BadCompletion as error:
            raise self._error(error.kind, error.message, quoted=error.quoted) from error
        except (aiohttp.ClientError, OSError) as error:
            if not completion.ended:  # else only [DONE] was missing
                kind, message, quoted = _failure(error)
                raise self._error(kind, message or limits.overstepped(completion, clock()), quoted=quoted) from error
        finally:
            if response:
                response.close()

    async def _renamed(self, name: str) -> bool:
        """Whether a server that knew the model by that name lists another now, since it was started anew."""
        return not self._config.model and await self.ready() and self.name != name

    async def _list(self) -> bytes | None:
        """The server's list of models; a model that the config names need not be in one."""
        async with asyncio.timeout(LISTING_SECONDS), self._opened().get(self._models, allow_redirects=False) as response:
            if response.status in (404, 405) and self._config.model:
                return None
            await self._check_status(response)
            return await read_body(response, LISTING_BYTES)

    async def _check_status(self, response: aiohttp.ClientResponse) -> None:
        """Raises `UpstreamError` for any status but 200."""
        if response.status == 200:
            return
        body = bytearray()
        while len(body) < 4 * EXCERPT and (portion := await response.content.readany()):
            body += portion
        said = f"{response.method} {response.url.path} was answered with {response.status}"
        wait = retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
        raise self._error(status_kind(response.status), said, retry_after=wait, quoted=bytes(body))

    def _error(self, kind: ErrorKind, message: str, retry_after: float | None = None, quoted: bytes = b"") -> UpstreamError:
        said = excerpt(quoted, self._key)  # servers quote the key
        return UpstreamError(self.role, kind, f"{self._server} {message}", retry_after, said)

    def _opened(self) -> aiohttp.ClientSession:
        """The session; it belongs to the event loop that first uses it."""
        if self._session is None:
            headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "counterpoint"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._config.connect_seconds),
                auto_decompress=False,
            )
        return self._session


def guessed_tokens(body: Mapping[str, Any]) -> int:
    """Of the prompt in a request, which only the server knows: four characters a token, as English has about."""
    return sum(len(message["content"]) for message in body.get("messages", ())) // CHARACTERS_A_TOKEN + 1


def _failure(error: aiohttp.ClientError | OSError) -> tuple[ErrorKind, str, bytes]:
    """Kind, message (none for a limit of ours) and quoted words of what went wrong below HTTP's meaning."""
    if isinstance(error, aiohttp.ClientResponseError):
        return "protocol", "sent no HTTP", error.message.encode(errors="replace")
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
        return "timeout", "", b""
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "connect", "closed the connection in the middle of an answer", b""
    return "connect", f"cannot be reached: {str(error)[:EXCERPT] or type(error).__name__}", b""


def _key(role: Role, variable: str | None) -> str | None:
    """The server's key from the environment."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"{role}: the server's key is looked for in {variable}, which is not set in the environment")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{role}: {variable} holds characters that no key has; set it to the key alone")
    return key


def _check_json(role: Role, extra: Mapping[str, object]) -> None:
    try:
        json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{role}: extra cannot be sent as JSON ({error}); TOML's dates and nan have no place there") from error
