"""What several test files share."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
"""The order of a sum depends on the number of threads, and what a small model learns on the order: one, on any machine."""


@pytest.fixture(autouse=True)
def threads(request):
    """Every core for real models, whose tests hang on no trajectory."""
    if request.node.get_closest_marker("engines"):
        torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def browser():
    """Chromium, for a module: while playwright runs, asyncio cannot."""
    found = pytest.importorskip("chromium", reason="pages are tested with playwright, which is not installed")
    if found.CHROMIUM is None:
        pytest.skip("pages are tested in Chromium, which is not installed")
    with found.chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the published data sets: COUNTERPOINT_DATA, or shared/data beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("COUNTERPOINT_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; set COUNTERPOINT_DATA to a folder with gsm8k_test.jsonl and others")
    return folder
