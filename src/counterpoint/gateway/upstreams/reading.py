"""The body of a server's answer, read within limits of time and size."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, cast

import aiohttp

from counterpoint.gateway.types import Piece
from counterpoint.gateway.upstreams.completion import BadCompletion, Completion
from counterpoint.gateway.upstreams.sse import EventSplitter

SETTLE_SECONDS = 1.0
"""For usage and [DONE] once every choice has ended."""
ANSWERS = ("application/json", "text/event-stream")
"""Content types of an answer."""
LINGER_SECONDS = 0.1
"""For the end of the body after [DONE], so that the connection can be used again."""


@dataclass(frozen=True)
class Limits:
    """When one request must have come how far, on the event loop's clock."""

    first: float
    last: float
    silence: float
    """Seconds between tokens."""

    def next(self, completion: Completion, now: float) -> float:
        """By when there must be something more."""
        if completion.ended:
            return now + SETTLE_SECONDS
        return min(self.last, now + self.silence) if completion.begun else self.first

    def overstepped(self, completion: Completion, now: float) -> str:
        """Which of them, in words."""
        if now >= self.last:
            return "was not done in the time that a stage has (total_seconds)"
        return f"wrote {'no more tokens' if completion.begun else 'no token'} for {self.silence:g} s (first_token_seconds)"


async def read_pieces(response: aiohttp.ClientResponse, completion: Completion, limits: Limits) -> AsyncGenerator[Piece, None]:
    """The pieces of a response with status 200. Raises `BadCompletion`, `TimeoutError` and aiohttp's errors."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise BadCompletion("protocol", "sent a compressed body, though it was asked not to")
    if response.content_type == "application/json":
        async with asyncio.timeout_at(limits.last):
            body = await read_body(response, completion.byte_limit)
        for piece in completion.whole(body):
            yield piece
    elif response.content_type == "text/event-stream":
        reader = EventReader(response.content, completion, limits)
        while not completion.complete and (events := await reader.read()):
            for event in events:
                for piece in completion.pieces(event):
                    yield piece
                if completion.complete:
                    break
        if completion.done:
            await reader.linger()
    else:
        async with asyncio.timeout_at(limits.first):
            beginning = await response.content.readany()
        raise BadCompletion("protocol", f"sent {response.content_type} instead of a stream of events", beginning)
    for piece in completion.end():
        yield piece


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """All of a body. Raises `BadCompletion` if it has more than `limit` bytes."""
    body = bytearray()
    while portion := await response.content.readany():
        body += portion
        if len(body) > limit:
            raise BadCompletion("protocol", f"sent a body of more than {limit} bytes")
    return bytes(body)


class EventReader:
    """The events of a body, a portion at a time: whatever the network has brought."""

    def __init__(self, content: aiohttp.StreamReader, completion: Completion, limits: Limits):
        self._content = content
        self._completion = completion
        self._limits = limits
        self._splitter = EventSplitter()
        self._size = 0
        self._ended = False

    async def read(self) -> list[bytes]:
        """The data of one or more events; none at the end. Raises as `read_pieces` does."""
        events: list[bytes] = []
        until = self._limits.next(self._completion, asyncio.get_running_loop().time())
        while not events and not self._ended:
            portion = self._left_over() or await self._awaited(until)
            self._size += len(portion)
            if self._size > self._completion.byte_limit:
                raise BadCompletion("protocol", f"sent {self._size} bytes, far more than its tokens can need")
            self._ended = not portion
            try:
                events = self._splitter.feed(portion) if portion else self._splitter.rest()
            except ValueError as error:
                raise BadCompletion("protocol", f"sent {error}") from error
        return events

    async def linger(self) -> None:
        """Wait a little for the end of the body, if it has not come with the last event."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await self._content.readany()
        except (TimeoutError, aiohttp.ClientError):
            pass  # the answer is whole; only the connection is not used again

    def _left_over(self) -> bytes:
        """What has come already. After a connection broke, aiohttp would hide that behind the error."""
        error = self._content.exception()
        if error is None:
            return self._content.read_nowait()
        self._content.set_exception(cast(Any, None))
        try:
            return self._content.read_nowait()
        finally:
            self._content.set_exception(error)

    async def _awaited(self, until: float) -> bytes:
        async with asyncio.timeout_at(until):
            return await self._content.readany()
