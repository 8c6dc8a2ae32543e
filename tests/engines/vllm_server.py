"""vLLM on CPU as a process."""

import contextlib
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.processes import free_port, running

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
START_SECONDS = 300
CONTEXT = 1024


class Vllm:
    """A server that runs.

    Attributes:
        url: with its /v1.
    """

    def __init__(self, port: int):
        self._root = f"http://127.0.0.1:{port}"
        self.url = f"{self._root}/v1"

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._root}/health", timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def count(self, metric: str, **labels: str) -> int:
        """The sum of a metric's values with these labels."""
        with urllib.request.urlopen(f"{self._root}/metrics", timeout=20) as response:
            lines = response.read().decode().splitlines()
        rows = [line for line in lines if re.match(rf"vllm:{metric}[{{ ]", line)]
        rows = [row for row in rows if all(f'{name}="{value}"' in row for name, value in labels.items())]
        assert rows, f"vLLM has no metric {metric} with {labels}"
        return int(sum(float(row.rsplit(" ", 1)[1]) for row in rows))

    def tokens(self) -> tuple[int, int]:
        """Prompt and output tokens since it started."""
        return self.count("prompt_tokens_total"), self.count("generation_tokens_total")


@contextlib.contextmanager
def serving_vllm(model: Path, log: Path) -> Iterator[Vllm]:
    """vLLM over a model directory. In float32, so that the likeliest tokens are the same in any batch."""
    if not PYTHON.exists():
        pytest.skip("there is no .venv-vllm; make test-engines makes it")
    server = Vllm(port := free_port())
    command: list[str | Path] = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", model, "--served-model-name", "smollm2", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", str(CONTEXT), "--max-num-seqs", "8"]
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the cores are not its own
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": "",
    }
    with running(command, log, lambda _: server if server.healthy() else None, START_SECONDS, **settings):
        yield server
