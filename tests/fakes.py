"""A policy without a model, for tests of what is around one."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from counterpoint.rl.losses import LossSpec
from counterpoint.rl.types import Completion, Datum, SamplingParams

LOGPROB = -0.5
"""Of every token it says or is shown."""


class StandingTime:
    """Takes the place of `time.perf_counter`: time that stands still but in functions made to take some."""

    def __init__(self, monkeypatch: Any):
        self.now = 0.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def taking(self, seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, but each call of it takes so many seconds."""

        def slow(*args: Any, **kwargs: Any) -> Any:
            self.now += seconds
            return function(*args, **kwargs)

        return slow


class FakePolicy:
    """Says what it is told to. Its tokens are the bytes of text, its only weight counts the updates.

    Args:
        reply: (prompt, number of the sample) -> the tokens of the completion, or its text.
    """

    def __init__(self, reply: Callable[[tuple[int, ...], int], Sequence[int] | str] = lambda prompt, i: f"reply {i}"):
        self.reply = reply
        self.updates = 0
        self.seen: list[Sequence[Datum]] = []
        """The data of each update; not saved."""
        self.seeds: list[int] = []

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    def sample(self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seed: int) -> list[list[Completion]]:
        self.seeds.append(seed)
        return [[self.complete(tuple(prompt), i, params) for i in range(n)] for prompt in prompts]

    def complete(self, prompt: tuple[int, ...], i: int, params: SamplingParams) -> Completion:
        said = self.reply(prompt, i)
        whole = self.encode(said) if isinstance(said, str) else tuple(said)
        text = self.decode(whole[: params.max_tokens])
        ends = [(text.find(stop), stop) for stop in params.stop if stop in text]
        if ends:
            at, stop = min(ends)
            tokens, text, reason = self.encode(text[:at] + stop), text[:at], "stop"
        else:
            tokens, reason = whole[: params.max_tokens], "length" if len(whole) > params.max_tokens else "end"
        return Completion(prompt, tokens, (LOGPROB,) * len(tokens), text, reason)

    def update(self, data: Sequence[Datum], loss: LossSpec, learning_rate: float, optimizer_steps: int = 1) -> dict[str, float]:
        self.updates += optimizer_steps
        self.seen.append(data)
        return {"loss": 0.0, "grad_norm": 1.0, "skipped_updates": 0.0}

    def logprobs(self, data: Sequence[Datum], temperature: float = 1.0) -> list[tuple[float, ...]]:
        return [(LOGPROB,) * len(datum.tokens) for datum in data]

    def save(self, directory: Path) -> None:
        (directory / "weights.json").write_text(json.dumps({"updates": self.updates}))
        (directory / "optimizer.pt").write_text("{}")

    def load(self, directory: Path) -> None:
        saved: dict[str, Any] = json.loads((directory / "weights.json").read_text())
        self.updates = saved["updates"]
