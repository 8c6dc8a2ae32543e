"""Run directories written by hand, for what no real run writes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counterpoint.config_files import load_recipe
from counterpoint.toml import dumps


def made(directory: Path, kind: str = "dqo", seed: int = 0, overrides: Sequence[str] = (), **files: Any) -> Path:
    """A finished run in `directory`, with the quickstart's recipe. `files`: rows of JSONL, a value of JSON, or None."""
    directory.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe("quickstart-duet" if kind in ("duet", "alone") else "quickstart-dqo", overrides)
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": directory.name, "seed": seed})})
    (directory / "config.toml").write_text(dumps(recipe.model_dump()), "utf-8")
    content = {
        "run": {"kind": kind, "seed": seed, "command": ["counterpoint", kind], "versions": {"torch": "2"}},
        "status": {"status": "finished"},
        "summary": {},
        "metrics": [{"step": 1, "reward": 0.5}],
    }
    for name, value in (content | files).items():
        if isinstance(value, list):
            text = "".join(json.dumps(row) + "\n" for row in value)
            (directory / f"{name}.jsonl").write_text(text, "utf-8")
        elif value is not None:
            (directory / f"{name}.json").write_text(json.dumps(value), "utf-8")
    return directory


def said(system: str, question: str, response: str, correct: float | None = 1.0, **more: Any) -> dict[str, Any]:
    """A row of evaluation_samples.jsonl."""
    row = {"question": question, "text": f"text of {question}", "reference": "r", "system": system, "correct": correct}
    return row | {"response": response, "capable_output_tokens": 1, **more}


def estimate(value: float, width: float = 0.0) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


def result(accuracy: float, **more: Any) -> dict[str, Any]:
    """A system of evaluation.json."""
    values: dict[str, Any] = dict.fromkeys(
        ("capable_prompt_tokens", "capable_output_tokens", "light_prompt_tokens", "light_output_tokens"), 1.0
    )
    values |= {"accuracy": estimate(accuracy), "pass_at": {}, "flops": None, "seconds_per_batch": 1.0, "money_per_1000": None}
    values |= {"unfinished": 0.0, "signals_cut": 0, "skipped": 0, "token_share": None, "accuracy_difference": None}
    return values | {"diversity": {}, **more}


def evaluation(systems: Mapping[str, dict[str, Any]], samples: int = 2) -> dict[str, Any]:
    """evaluation.json."""
    return {
        "task": "arithmetic", "questions": 3, "samples": samples, "batch": 3, "temperature": 0.6, "top_p": 0.95, "top_k": 0,
        "max_signal_tokens": 8, "max_answer_tokens": 8, "seed": 0, "cut_budget": None, "systems": dict(systems),
    }  # fmt: skip
