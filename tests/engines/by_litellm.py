"""LiteLLM's client, which has an environment of its own."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

PYTHON = Path(__file__).parents[2] / ".venv-litellm" / "bin" / "python"
SCRIPT = Path(__file__).with_name("litellm_client.py")


def by_litellm(url: str, bodies: list[dict[str, Any]]) -> list[Any]:
    """What LiteLLM gives for each request: the response, or the chunks of a stream."""
    if not PYTHON.exists():
        pytest.skip("there is no .venv-litellm; make test-engines makes it")
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it looks for prices on the net
    environment.pop("PYTHONPATH", None)
    ran = subprocess.run(
        [PYTHON, SCRIPT, f"{url}/v1"], input=json.dumps(bodies), capture_output=True, text=True, timeout=180, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)
