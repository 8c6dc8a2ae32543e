"""Servers as processes of their own: started, awaited, shown when they fail, and ended."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
END_SECONDS = 30


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], log: Path, ready: Callable[[str], T | None], seconds: float, **environment: str
) -> Iterator[T]:
    """What `ready` returns for the log of a process that has come up; the test fails, with the log, if it does not in time."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        yield _awaited(process, log, ready, time.monotonic() + seconds)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # what it started and did not end
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _awaited(process: subprocess.Popen[bytes], log: Path, ready: Callable[[str], T | None], deadline: float) -> T:
    while (found := ready(log.read_text(errors="replace"))) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            state = "does not come up" if process.poll() is None else f"ended with {process.returncode}"
            pytest.fail(f"{process.args} {state}:\n{log.read_text(errors='replace')[-6000:]}")
        time.sleep(0.2)
    return found


def free_port() -> int:
    """Free a moment ago, for servers that cannot choose one and say which."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]
