"""A run directory as it stands: whole, half done, failed or damaged. What is missing is named, and nothing is guessed."""

import json
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterpoint.errors import RunError
from counterpoint.evaluate.results import Evaluation
from counterpoint.evaluate.run import EVALUATION
from counterpoint.evaluate.run import SAMPLES as EVALUATION_SAMPLES
from counterpoint.run import CONFIG, INFO, METRICS, PROBES, SAMPLES, STATUS, SUMMARY

Record = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """What a run directory holds. A file that is not there is empty here, and named in `missing`."""

    directory: Path
    name: str
    kind: str
    """duet, alone, dqo or warmup; "evaluation" for a folder that `counterpoint eval --out` wrote; "unknown" without run.json."""
    recipe: Record
    recipe_text: str
    info: Record
    status: Record
    summary: Record
    metrics: list[Record]
    samples: list[Record]
    probes: list[Record]
    evaluation: Evaluation | None
    evaluation_samples: list[Record]
    missing: list[str] = field(default_factory=list)
    """What is not there, or damaged, in words for the reader."""

    @property
    def steps(self) -> int:
        """Steps that have ended."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def planned(self) -> int | None:
        """Steps of the recipe."""
        return self.recipe.get("run", {}).get("steps")

    @property
    def state(self) -> str:
        """running, stopped, failed or finished."""
        return str(self.status.get("status", "unknown"))


def read_run(directory: str | Path) -> RunFiles:
    """Everything in a run directory, or in the folder of an evaluation. Raises `RunError` if it is neither."""
    directory = Path(directory)
    if not directory.is_dir():
        raise RunError(f"there is no run directory {directory}; give one that `counterpoint duet`, `dqo` or `eval` has made")
    if not any((directory / name).is_file() for name in (CONFIG, INFO, METRICS, EVALUATION)):
        raise RunError(f"{directory} is not a run directory: it has none of {CONFIG}, {INFO}, {METRICS} and {EVALUATION}")
    is_run = any((directory / name).is_file() for name in (CONFIG, INFO, METRICS))
    missing: list[str] = []

    def found(name: str, needed: bool, then: str = "") -> Path | None:
        if (directory / name).is_file():
            return directory / name
        if needed:
            missing.append(f"{name} is missing{then}")
        return None

    def parsed(name: str, parse: Callable[[str], Any], needed: bool, then: str = "") -> Any:
        file = found(name, needed, then)
        if file is None:
            return None
        try:
            return parse(file.read_text(encoding="utf-8", errors="replace"))
        except (ValueError, RunError) as error:
            missing.append(f"{name} is damaged: {error}")
            return None

    def lines(name: str, needed: bool, wanted: Iterable[str], then: str = "") -> list[Record]:
        file = found(name, needed, then)
        records, problems = lines_of(file, wanted) if file else ([], [])
        missing.extend(problems)
        return records

    info = as_record(parsed(INFO, json.loads, is_run))
    kind = str(info.get("kind", "unknown")) if is_run else "evaluation"
    recipe_text = parsed(CONFIG, str, is_run) or ""
    recipe = as_record(parsed(CONFIG, tomllib.loads, False))
    status = as_record(parsed(STATUS, json.loads, is_run))
    ended = status.get("status") == "finished"
    measured = kind in ("duet", "dqo", "evaluation")
    again = f"; `counterpoint eval {directory}` makes it" if ended else " until the run has ended and is evaluated"
    return RunFiles(
        directory=directory,
        name=str(recipe.get("run", {}).get("name") or directory.resolve().name),
        kind=kind,
        recipe=recipe,
        recipe_text=recipe_text,
        info=info,
        status=status,
        summary=as_record(parsed(SUMMARY, json.loads, ended)),
        metrics=lines(METRICS, is_run, ("step",), ": no step has ended"),
        samples=lines(SAMPLES, False, ("step", "question")),
        probes=lines(PROBES, False, ("step", "question", "signal")),
        evaluation=parsed(EVALUATION, Evaluation.from_json, measured, again),
        evaluation_samples=lines(EVALUATION_SAMPLES, False, ("question", "system", "response")),
        missing=missing,
    )


def as_record(value: Any) -> Record:
    return value if isinstance(value, dict) else {}


def lines_of(file: Path, wanted: Iterable[str]) -> tuple[list[Record], list[str]]:
    """The records of a JSONL file that have the `wanted` fields, and what is wrong with the others, in words."""
    records: list[Record] = []
    damaged: list[int] = []
    wanted, unfinished = tuple(wanted), False
    content = file.read_bytes()
    lines = content.split(b"\n")
    last = len(lines) if lines[-1] else len(lines) - 1
    for number, line in enumerate(lines[:last], 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or any(name not in record for name in wanted):
                raise ValueError
            records.append(record)
        except ValueError:
            if number == last and not content.endswith(b"\n"):
                unfinished = True
            else:
                damaged.append(number)
    problems = [f"{file.name}: its last line is unfinished, and left out"] if unfinished else []
    if damaged:
        shown = ", ".join(map(str, damaged[:5])) + (f" and {len(damaged) - 5} more" if len(damaged) > 5 else "")
        problems.append(f"{file.name}: damaged and left out: line {shown}")
    return records, problems
