"""A gateway on a real socket, with models that say what they were told to, when they are told to; for tests in a browser."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from queue import Queue

import uvicorn

from counterpoint.gateway.config import GatewayConfig
from counterpoint.gateway.ledger import Ledger
from counterpoint.gateway.policies import Pair
from counterpoint.gateway.server import Gateway, make_app
from counterpoint.gateway.types import Ask, Piece, Role, Stage, Usage

Step = Piece | Usage | Exception | asyncio.Event


class Staged:
    """A model with a script for each stage. An event in a script is waited for, an exception raised."""

    def __init__(self, role: Role, **scripts: list[Step]):
        self.role, self.name, self.scripts = role, f"{role}-model", scripts
        self.asks: list[Ask] = []
        self.closed = threading.Event()
        """A stream has ended, in whatever way."""

    async def stream(self, ask: Ask) -> AsyncIterator[Piece | Usage]:
        self.asks.append(ask)
        self.closed.clear()
        try:
            for step in self.scripts[ask.stage]:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.closed.set()

    def asked(self, stage: Stage) -> list[Ask]:
        return [ask for ask in self.asks if ask.stage == stage]

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass


class Serving:
    """A gateway that listens."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop):
        self.url, self._loop = url, loop

    def release(self, event: asyncio.Event) -> None:
        """Let the script that waits for it go on."""
        self._loop.call_soon_threadsafe(event.set)


@contextmanager
def serving(config: GatewayConfig, pair: Pair, ledger: Ledger | None = None) -> Iterator[Serving]:
    """The gateway in a thread, on a free port of the loopback."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(Gateway(config, pair, ledger)), log_level="critical", timeout_graceful_shutdown=1))
    loops: Queue[asyncio.AbstractEventLoop] = Queue()

    async def serve() -> None:
        loops.put(asyncio.get_running_loop())
        await server.serve([listening])

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield Serving(f"http://127.0.0.1:{listening.getsockname()[1]}", loops.get(timeout=10))
    finally:
        server.should_exit = True
        thread.join(timeout=10)
