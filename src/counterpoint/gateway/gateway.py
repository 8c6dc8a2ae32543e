"""What the requests share: the two models, the settings, the books, and what is known of all of them."""

import asyncio
import time
from typing import Any

from counterpoint.gateway.access.ledger import Ledger
from counterpoint.gateway.api import SERVED
from counterpoint.gateway.config import GatewayConfig
from counterpoint.gateway.gate import Gate
from counterpoint.gateway.logs import warn
from counterpoint.gateway.metrics import Metrics
from counterpoint.gateway.policies import Pair
from counterpoint.gateway.usage import Tariff

BOOKING_SECONDS = 5.0
"""For requests that are ended when the server stops, to be booked."""
READY_SECONDS = 1.0
"""For which it stays known whether the models can be asked."""


class Gateway:
    """One for each server."""

    def __init__(self, config: GatewayConfig, pair: Pair, ledger: Ledger | None = None):
        self.config, self.pair, self.ledger = config, pair, ledger
        self.tariff = Tariff.of(config)
        self.metrics = Metrics()
        self.gate = Gate(config.server.concurrent, config.server.queue)
        self.tasks: set[asyncio.Task[Any]] = set()
        """One for each request that is not booked yet."""
        self._looking, self._looked = asyncio.Lock(), -READY_SECONDS
        self._ready: dict[str, bool] = {}
        self._warned: set[str] = set()

    def warn_once(self, message: str) -> None:
        """Into the log, however often it is true."""
        if message not in self._warned:
            self._warned.add(message)
            warn(message)

    def watch(self, task: asyncio.Task[Any] | None) -> None:
        """Let `close` wait for a request."""
        if task:
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def models(self) -> list[str]:
        """The names that `model` may have: the default policy's, and each policy's."""
        auto = [] if self.pair.auto_threshold is None else ["auto"]
        return [SERVED, "duet", "capable", "light", *auto]

    async def ready(self) -> dict[str, bool]:
        """Which of the two models can be asked. However often that is asked, they are so once a second."""
        async with self._looking:
            if time.monotonic() >= self._looked + READY_SECONDS:
                capable, light = await asyncio.gather(self.pair.capable.ready(), self.pair.light.ready())
                self._ready, self._looked = {"capable": capable, "light": light}, time.monotonic()
        return self._ready

    async def close(self) -> None:
        """Let go of everything, once what runs has been booked."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=BOOKING_SECONDS)
        await self.pair.capable.close()
        await self.pair.light.close()
        if self.ledger:
            await self.ledger.close()
