"""What several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the published data sets: COUNTERPOINT_DATA, or shared/data beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("COUNTERPOINT_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; set COUNTERPOINT_DATA to a folder with gsm8k_test.jsonl and others")
    return folder
