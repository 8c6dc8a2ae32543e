"""The load of the gateway's benchmark, on a server whose pace is known."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SAID = "".join(f" w{number}" for number in range(32))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    command = [sys.executable, ROOT / "tests" / "gateway" / "misbehaving.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def load(url: str, *texts: str, calls: int = 1) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "load.py"), "--url", url, "--calls", str(calls), "--concurrent", "2"]
    command += ["--warm-up", "0.1", "--seconds", "0.2", "--texts", *texts]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def test_first_tokens_and_gaps_are_those_of_the_server(server):
    found = load(f"{server}/paced=5/load/v1", SAID, SAID, calls=2)
    assert found["requests"] >= 2
    assert not found["wrong"] + found["failed"]
    assert all(first["p50"] >= 5 for first in found["first"])
    assert found["gap"]["p50"] == pytest.approx(5, abs=2)


def test_the_stages_of_one_answer_are_told_apart(server):
    signal, answer = SAID[: SAID.index(" w16")], SAID[SAID.index(" w16") :]
    found = load(f"{server}/thinking/load/v1", signal, answer)
    assert found["requests"] >= 2
    assert len(found["first"]) == 2


@pytest.mark.parametrize("mode", ["cut", "troubled", "broken"])
def test_answers_that_are_not_whole_are_wrong(server, mode):
    found = load(f"{server}/{mode}/load/v1", SAID)
    assert found["requests"] == 0
    assert found["wrong"] > 0


def test_answers_that_say_something_else_are_wrong(server):
    found = load(f"{server}/instant/load/v1", SAID + "!")
    assert (found["requests"], found["wrong"] > 0) == (0, True)


def test_connections_that_the_server_drops_are_counted(server):
    found = load(f"{server}/dropped/load/v1", SAID)
    assert found["requests"] == 0
    assert found["failed"] > 0
