"""What benchmarks/gateway.py compares: the upstream asked directly, the gateway, and LiteLLM's proxy, a process each."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
LITELLM = ROOT / ".venv-litellm" / "bin"
START_SECONDS = 120.0


@dataclass(frozen=True)
class System:
    """Something that answers chat requests."""

    name: str
    url: str
    model: str
    process: psutil.Process
    calls: int = 1
    """Requests to it that make one."""
    stages: int = 1
    """Parts of an answer to one."""

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system

    def megabytes(self) -> tuple[float, float]:
        """Resident memory now, and the most that it was."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        now, peak = (int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) / 1000 for field in ("VmRSS", "VmHWM"))
        return now, peak


@contextmanager
def systems(mode: str) -> Iterator[list[System]]:
    """Upstream, gateway and LiteLLM, ready; `mode` is one of tests/gateway/misbehaving.py."""
    at, ours, theirs = free_port(), free_port(), free_port()
    base = f"http://127.0.0.1:{at}/{mode}"
    server = [str(ROOT / "tests" / "gateway" / "misbehaving.py"), "--port", str(at)]
    serve = ["-m", "counterpoint", "serve", "--capable", f"{base}/capable/v1", "--light", f"{base}/light/v1", "--port", str(ours)]
    with ExitStack() as stack:
        upstream = stack.enter_context(process("upstream", [sys.executable, *server]))
        wait_for(upstream, f"{base}/direct/v1/models")
        gateway = stack.enter_context(process("gateway", [sys.executable, *serve]))
        litellm = stack.enter_context(process("litellm", *litellm_proxy(f"{base}/litellm/v1", theirs)))
        wait_for(gateway, f"http://127.0.0.1:{ours}/health/ready")
        wait_for(litellm, f"http://127.0.0.1:{theirs}/health/readiness")
        yield [
            System("direct", f"{base}/direct/v1", "fake", upstream, calls=2, stages=2),
            System("gateway", f"http://127.0.0.1:{ours}/v1", "counterpoint", gateway, stages=2),
            System("LiteLLM", f"http://127.0.0.1:{theirs}/v1", "fake", litellm),
        ]


def litellm_proxy(upstream: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment: one model passed through, without keys, database, callbacks, or anything sent elsewhere."""
    model = {"model_name": "fake", "litellm_params": {"model": "openai/fake", "api_base": upstream, "api_key": "none"}}
    config = BUILD / "litellm.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"model_list": [model], "litellm_settings": {"telemetry": False}}))  # JSON is YAML too
    where = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    return [str(LITELLM / "litellm"), *where], {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }


def litellm_version() -> str:
    code = "import importlib.metadata as m; print(m.version('litellm'))"
    return subprocess.run([LITELLM / "python", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def process(name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[psutil.Process]:
    """A process for as long as it is needed; what it prints goes to build/."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / f"benchmark-{name}.log").open("wb") as output:
        running = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | (environment or {}))
    try:
        yield psutil.Process(running.pid)
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def wait_for(running: psutil.Process, url: str) -> None:
    """Until it answers there."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and running.status() != psutil.STATUS_ZOMBIE:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing answers at {url}; what was printed is in {BUILD}/benchmark-*.log")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
