"""The soak, shorter: a real gateway process over models that fail now and then."""

import runpy
from pathlib import Path

import pytest

SOAK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "gateway_soak.py"))


@pytest.fixture(scope="module")
def result():
    return SOAK["soak"](requests=300, concurrent=32, percent=10.0)


def test_nothing_is_lost_where_one_call_in_ten_fails(result):
    assert SOAK["faults"](result) == []
    assert set(result["outcomes"]) > {"answered", "answered by the other model"}
    assert result["at_the_end"]["open_files"] < result["after_warm"]["open_files"] + 100


def test_what_is_lost_is_said(result):
    booked = result["booked"]
    assert SOAK["faults"]({**result, "booked": {**booked, "light_output": booked["light_output"] - 1}}) == [
        f"light_output: {booked['light_output'] - 1} tokens are booked, {booked['light_output']} were sent"
    ]
    assert "299 requests are booked" in SOAK["faults"]({**result, "booked": {**booked, "requests": 299}})[0]
