"""A stream on its way to a client: in order, with as few sends as can be, and never silent for long."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Send

SEND_SECONDS = 60.0
"""For a client to read some of what it was sent; one that does not holds a place that others wait for."""
BEAT_SECONDS = 10.0
"""In which nothing was sent, a comment is: proxies cut what is silent, many after 30 or 60 seconds."""
COMMENT = b": waiting\n\n"
"""What every client of server-sent events passes over."""


class Unread(Exception):
    """The client is there, but reads nothing."""


class Outbox:
    """Sends the head of a response and then what is put in. What came in one turn of the event loop goes out as one piece.

    Args:
        head: makes the message that begins the response, when there is something to send.

    Attributes:
        begun: the head has been sent.
    """

    def __init__(self, send: Send, head: Callable[[], dict[str, Any]]):
        self.parts: list[bytes] = []
        self.begun = False
        self._quiet = True
        self._wake, self._closing = asyncio.Event(), False
        self._loop = asyncio.get_running_loop()
        self._beat = self._loop.call_later(BEAT_SECONDS, self._keep_alive)
        self._task = asyncio.create_task(self._run(send, head))

    def put(self, data: bytes) -> None:
        """Raises `Unread` once the client has read nothing for too long."""
        if self._task.done():
            self._task.result()
        self.parts.append(data)
        self._quiet = False
        self._wake.set()

    async def close(self) -> None:
        """Send the rest and end the response. Raises `Unread`."""
        self._closing = True
        self._wake.set()
        await self._task

    def stop(self) -> bytes:
        """Send no more; what was not sent and says something."""
        self._beat.cancel()
        self._task.cancel()
        return b"".join(part for part in self.parts if part is not COMMENT)

    def _keep_alive(self) -> None:
        if self._quiet and not self.parts:
            self.parts.append(COMMENT)
            self._wake.set()
        self._quiet = True
        self._beat = self._loop.call_later(BEAT_SECONDS, self._keep_alive)

    async def _run(self, send: Send, head: Callable[[], dict[str, Any]]) -> None:
        closing = False
        while not closing:
            await self._wake.wait()
            self._wake.clear()
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    if not self.begun:
                        await send(head())
                        self.begun = True
                    count, closing, body = len(self.parts), self._closing, b"".join(self.parts)
                    await send({"type": "http.response.body", "body": body, "more_body": not closing})
            except TimeoutError as error:
                raise Unread from error
            del self.parts[:count]
