"""A gateway that listens, in a thread of the test."""

import asyncio
import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from counterpoint.gateway.command import listen
from counterpoint.gateway.config import GatewayConfig
from counterpoint.gateway.gateway import Gateway
from counterpoint.gateway.policies import Pair
from counterpoint.gateway.server import make_app

PLACE = {"url": "http://127.0.0.1:9/v1"}


@dataclass
class Served:
    """Where it listens, and what it is."""

    url: str
    gateway: Gateway
    loop: asyncio.AbstractEventLoop

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def tasks(self) -> int:
        """How many run in its event loop."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(5)

    def get(self, path: str) -> tuple[int, str]:
        return fetch(urllib.request.Request(self.url + path))[:2]

    def post(self, body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, parsed body and headers."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **headers}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", data, sent, method="POST")
        status, text, got = fetch(request)
        return status, json.loads(text) if "json" in got.get("content-type", "") else text, got


def fetch(request: urllib.request.Request) -> tuple[int, str, dict[str, str]]:
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read().decode(), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


class Server(uvicorn.Server):
    """Tells its event loop."""

    async def startup(self, sockets=None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)


def config_of(**sections: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({"capable": PLACE, "light": PLACE, **sections})


@contextlib.contextmanager
def serving(pair: Pair, ledger=None, **sections: Any) -> Iterator[Served]:
    """A gateway over two upstreams; `sections` are its settings."""
    config = config_of(**sections)
    gateway = Gateway(config, pair, ledger)
    sock = listen("127.0.0.1", 0)
    server = Server(uvicorn.Config(make_app(gateway), log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Served(f"http://127.0.0.1:{sock.getsockname()[1]}", gateway, server.loop)
    finally:
        server.should_exit = True
        thread.join(20)


def until(condition, seconds: float = 5.0) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
