"""A process that misbehaves, for whoever asks a server."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
SCRIPT = Path(__file__).with_name("misbehaving.py")


@dataclass(frozen=True)
class Misbehaving:
    """The running server; `label` keeps one test's counts apart from another's."""

    process: subprocess.Popen[str]
    port: int
    label: str = ""

    def url(self, mode: str) -> str:
        return f"http://127.0.0.1:{self.port}/{mode}/{self.label}/v1"

    def count(self, mode: str) -> dict[str, Any]:
        """What this test made it send in one mode, once it has seen that its clients have gone."""
        until = time.monotonic() + 2.0
        while (count := self._get("counts")[f"{mode}/{self.label}"])["running"] and time.monotonic() < until:
            time.sleep(0.01)
        return count

    def last(self, mode: str) -> dict[str, Any]:
        """The body of the last request."""
        return self._get(f"last/{mode}/{self.label}")

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=10) as response:
            return json.load(response)


def start() -> Misbehaving:
    process = subprocess.Popen([sys.executable, str(SCRIPT), "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return Misbehaving(process, int(process.stdout.readline()))


def stop(server: Misbehaving) -> None:
    server.process.kill()
    server.process.wait()
    assert server.process.stdout
    server.process.stdout.close()


@pytest.fixture(scope="session")
def misbehaving_process() -> Iterator[Misbehaving]:
    server = start()
    yield server
    stop(server)


@pytest.fixture
def misbehaving(misbehaving_process: Misbehaving, request: pytest.FixtureRequest) -> Misbehaving:
    """One process for all tests, with counts of this test alone."""
    return Misbehaving(misbehaving_process.process, misbehaving_process.port, f"{abs(hash(request.node.nodeid))}")


@pytest.fixture
def doomed() -> Iterator[Misbehaving]:
    """A process of one's own, to kill."""
    server = start()
    yield Misbehaving(server.process, server.port, "doomed")
    stop(server)
