"""What a client asks and how its answer is read, as plain JSON, whichever client it was."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from counterpoint.gateway.command import upstream
from counterpoint.gateway.config import UpstreamConfig
from counterpoint.gateway.policies import Pair
from counterpoint.tasks.arithmetic import questions

SUMS = questions("test", seed=0, count=5)
RIGHT_AT_LEAST = 4
"""Of the five; the built-in pair is right in 19 of 20."""
BUDGET = {"low": 80, "medium": 160, "high": 160, "answer": 8}
"""As the built-in pair was trained."""


def builtin_pair() -> Pair:
    """The pair that ships with the package, in this process."""
    capable, light = (
        upstream(role, UpstreamConfig(path=f"builtin:{role}"))  # pyright: ignore[reportCallIssue]
        for role in ("capable", "light")
    )
    return Pair(capable, light)


def asking(question: str, **fields: Any) -> dict[str, Any]:
    """The fields of a request to the pair."""
    return {"model": "duet", "messages": [{"role": "user", "content": question}], "temperature": 0, **fields}


def assert_right(answers: Sequence[str]) -> None:
    """Of `SUMS`."""
    found = [(question.text, question.answer, said.strip()) for question, said in zip(SUMS, answers, strict=True)]
    assert sum(answer == said for _, answer, said in found) >= RIGHT_AT_LEAST, found


def read_whole(response: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Signal, answer and usage."""
    message = response["choices"][0]["message"]
    return message["reasoning_content"], message["content"], response["usage"]


def read_stream(chunks: Sequence[dict[str, Any]]) -> tuple[str, str, dict[str, Any]]:
    """Signal, answer and usage. The signal must come in several pieces, all of them before the answer; the usage last."""
    parts = [
        (kind, choice["delta"][kind])
        for chunk in chunks
        for choice in chunk["choices"]
        for kind in ("reasoning_content", "content")
        if choice["delta"].get(kind)
    ]
    kinds = [kind for kind, _ in parts]
    assert kinds == sorted(kinds, reverse=True), "the answer began before the signal had ended"
    assert kinds.count("reasoning_content") > 3
    signal, answer = ("".join(text for kind, text in parts if kind == wanted) for wanted in ("reasoning_content", "content"))
    return signal, answer, chunks[-1]["usage"]


def assert_told_apart(usage: dict[str, Any], signal: str, budget: int) -> None:
    """The signal's tokens are M's and within its budget, the others m's."""
    assert_counted(usage, signal, budget)
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert usage["counterpoint"]["capable_tokens"] == reasoning
    assert usage["counterpoint"]["light_tokens"] == usage["completion_tokens"] - reasoning


def assert_counted(usage: dict[str, Any], signal: str, budget: int) -> None:
    """OpenAI's own fields: there was a signal, within its budget, and an answer."""
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert signal
    assert 0 < reasoning <= budget
    assert usage["completion_tokens"] > reasoning


def by_curl(url: str, body: dict[str, Any]) -> Any:
    """What curl gets: the parsed body, or the chunks of a stream."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    command = [curl, "--fail-with-body", "-sS", "-N", "--max-time", "120", f"{url}/v1/chat/completions"]
    command += ["-H", "Content-Type: application/json", "-H", "Authorization: Bearer none", "-d", json.dumps(body)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if not body.get("stream"):
        return json.loads(said)
    events = [line.removeprefix("data: ") for line in said.splitlines() if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]
