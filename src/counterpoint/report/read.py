"""A run directory as it stands: whole, half done, failed or damaged. What is missing is named, and nothing is guessed."""

import json
import os
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterpoint.errors import RunError
from counterpoint.evaluate.results import Evaluation
from counterpoint.evaluate.run import EVALUATION
from counterpoint.evaluate.run import SAMPLES as EVALUATION_SAMPLES
from counterpoint.run import CONFIG, INFO, METRICS, PROBES, SAMPLES, STATUS, SUMMARY

Record = dict[str, Any]
Fields = Mapping[str, type]
"""What a line must have to be used, and of which type."""

OF_METRICS: Fields = {"step": int}
OF_SAMPLES: Fields = {"step": int, "question": str}
OF_PROBES: Fields = {"step": int, "question": str, "signal": str}
OF_EVALUATION: Fields = {"question": str, "system": str, "response": str}


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
    died: bool = False
    """Its process is gone, and has not said how the run ended."""
    missing: list[str] = field(default_factory=list)
    """What is not there, or damaged, in words for the reader."""

    @property
    def steps(self) -> int:
        """Steps that have ended."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def planned(self) -> int | None:
        """Steps of the recipe."""
        return as_record(self.recipe.get("run")).get("steps")

    @property
    def state(self) -> str:
        """running, stopped, failed, finished, or died: it was running, and its process is gone."""
        return "died" if self.died else str(self.status.get("status", "unknown"))


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
            return parse(file.read_bytes().decode("utf-8", "replace"))
        except (ValueError, RunError, RecursionError) as error:
            missing.append(f"{name} is damaged: {error}")
        except OSError as error:
            missing.append(f"{name} cannot be read: {error.strerror}")
        return None

    def lines(name: str, needed: bool, wanted: Fields, then: str = "") -> list[Record]:
        file = found(name, needed, then)
        records, problems = lines_of(file, wanted) if file else ([], [])
        missing.extend(problems)
        return records

    info = parsed(INFO, record_in, is_run) or {}
    kind = str(info.get("kind", "unknown")) if is_run else "evaluation"
    recipe_text = parsed(CONFIG, str, is_run) or ""
    recipe = parsed(CONFIG, tables_in, False) or {}
    status = parsed(STATUS, record_in, is_run) or {}
    ended = status.get("status") == "finished"
    measured = kind in ("duet", "dqo", "evaluation")
    again = f"; `counterpoint eval {directory}` makes it" if ended else " until the run has ended and is evaluated"
    return RunFiles(
        directory=directory,
        name=str(as_record(recipe.get("run")).get("name") or directory.resolve().name),
        kind=kind,
        recipe=recipe,
        recipe_text=recipe_text,
        info=info,
        status=status,
        summary=parsed(SUMMARY, record_in, ended) or {},
        metrics=lines(METRICS, is_run, OF_METRICS, ": no step has ended"),
        samples=lines(SAMPLES, False, OF_SAMPLES),
        probes=lines(PROBES, False, OF_PROBES),
        evaluation=parsed(EVALUATION, evaluation_in, measured, again),
        evaluation_samples=lines(EVALUATION_SAMPLES, False, OF_EVALUATION),
        died=has_died(directory),
        missing=missing,
    )


def as_record(value: Any) -> Record:
    return value if isinstance(value, dict) else {}


def record_in(text: str) -> Record:
    """A JSON object. Raises `ValueError`."""
    value = json.loads(without_halves(text))
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


def tables_in(text: str) -> Record:
    """TOML that has nothing outside tables, as a recipe. Raises `ValueError`."""
    tables = tomllib.loads(text)
    if not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError("a recipe consists of tables")
    return tables


def evaluation_in(text: str) -> Evaluation:
    return Evaluation.from_json(without_halves(text))


def without_halves(text: str) -> str:
    """JSON with U+FFFD for every escape of half a character (a lone surrogate), which could not be written again."""
    if "\\ud" not in text.lower():
        return text
    pieces = r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u[dD][89a-fA-F].."
    return re.sub(pieces, lambda found: r"\ufffd" if len(found[0]) == 6 else found[0], text)


def lines_of(file: Path, wanted: Fields) -> tuple[list[Record], list[str]]:
    """The records of a JSONL file that have the `wanted` fields, and what is wrong with the others, in words."""
    try:
        content = file.read_bytes()
    except OSError as error:
        return [], [f"{file.name} cannot be read: {error.strerror}"]
    records: list[Record] = []
    damaged: list[int] = []
    unfinished = False
    lines = content.split(b"\n")
    last = len(lines) if lines[-1] else len(lines) - 1
    for number, line in enumerate(lines[:last], 1):
        try:
            record = json.loads(without_halves(line.decode()))
            if not isinstance(record, dict) or not all(type(record.get(name)) is kind for name, kind in wanted.items()):
                raise ValueError
            records.append(record)
        except (ValueError, RecursionError):
            if number == last and not content.endswith(b"\n"):
                unfinished = True
            else:
                damaged.append(number)
    problems = [f"{file.name}: its last line is unfinished, and left out"] if unfinished else []
    if damaged:
        shown = ", ".join(map(str, damaged[:5])) + (f" and {len(damaged) - 5} more" if len(damaged) > 5 else "")
        problems.append(f"{file.name}: damaged and left out: line {shown}")
    return records, problems


def has_died(directory: Path) -> bool:
    """Whether a run that says that it is running cannot be: its process was on this machine, and is gone.

    A run of another machine, or one that did not say where it runs, is believed. So it is on Windows, where to ask for a
    process as is done here is to end it.
    """
    try:
        status = record_in((directory / STATUS).read_text("utf-8", "replace"))
    except (OSError, ValueError, RecursionError):
        return False  # what is wrong with the file is said where it is read for all else
    process = status.get("process")
    if status.get("status") != "running" or status.get("machine") != platform.node() or sys.platform == "win32":
        return False
    if not isinstance(process, int) or process < 1:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return is_zombie(process)


def is_zombie(process: int) -> bool:
    """Whether a process has ended and nobody has asked how; False where the system does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False
