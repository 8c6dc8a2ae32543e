"""So many requests at a time, so many waiting, and no more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from counterpoint.gateway.api import ApiError


class Gate:
    """Places for requests, first come first served."""

    def __init__(self, places: int, queue: int):
        self._free = asyncio.Semaphore(places)
        self._places, self._queue = places, queue
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place while the block runs. Raises `ApiError` 429 where as many wait for one as may."""
        if self._free.locked() and self.waiting >= self._queue:
            raise ApiError(
                429,
                f"the server is busy: {self._places} requests run and {self.waiting} wait; try again",
                "rate_limit_error",
                "server_busy",
                retry_after=1,
            )
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._free.release()
