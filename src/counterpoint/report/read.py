"""A run directory as it stands: whole, half done, failed or damaged. What is missing is named, and nothing is guessed."""

import os
import platform
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterpoint.errors import RunError
from counterpoint.evaluate.results import Evaluation
from counterpoint.evaluate.run import EVALUATION, PARTIAL
from counterpoint.evaluate.run import SAMPLES as EVALUATION_SAMPLES
from counterpoint.files import is_empty
from counterpoint.report.evaluated import evaluation_in
from counterpoint.report.lines import Fields, LinesOf
from counterpoint.report.records import Record, as_record, record_in
from counterpoint.report.text import listed, quoted, shown
from counterpoint.run import CHECKPOINTS, CONFIG, INFO, METRICS, PROBES, SAMPLES, STATE, STATUS, SUMMARY

OF_METRICS = Fields({"step": int}, None)
OF_SAMPLES = Fields({"step": int, "question": str}, ("rewards", "signal_tokens"))
OF_PROBES = Fields({"step": int, "question": str, "signal": str}, ("signal_tokens", "aided_reward", "unaided_reward"))
OF_EVALUATION = Fields({"question": str, "system": str, "response": str}, ("correct", "capable_output_tokens"))

NOT_ENDED = ": the evaluation has not ended, or broke off"

Looks = dict[Path, LinesOf]
"""The JSONL files that were read before, so that the next time only what was appended is."""


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
    derived: dict[Any, Any] = field(default_factory=dict)
    """What was worked out of `metrics`, and is gone on with when they are looked at again."""

    @property
    def id(self) -> str | None:
        """What tells the run from others of its name; None of an older version."""
        found = self.info.get("id")
        return found if isinstance(found, str) and found else None

    @property
    def steps(self) -> int:
        """Steps that have ended."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def planned(self) -> int | None:
        """Steps of the recipe."""
        steps = as_record(self.recipe.get("run")).get("steps")
        return steps if type(steps) is int else None

    @property
    def state(self) -> str:
        """running, stopped, failed, finished, unknown, or died: it was running, and its process is gone."""
        return "died" if self.died else str(self.status.get("status", "unknown"))


def read_run(directory: str | Path, looks: Looks | None = None) -> RunFiles:
    """Everything in a run directory, or in the folder of an evaluation. Raises `RunError` if it is neither.

    Who reads it again and again gives the same `looks` every time.
    """
    directory, looks = Path(directory), {} if looks is None else looks
    if not directory.is_dir():
        raise RunError(
            f"there is no run directory {shown(directory)}; give one that `counterpoint duet`, `dqo` or `eval` has made"
        )
    try:
        is_run = any((directory / name).is_file() for name in (CONFIG, INFO, METRICS))
    except OSError as error:
        raise RunError(f"cannot look into {shown(directory)}: {error.strerror}") from error
    if not is_run and not any((directory / name).is_file() for name in (EVALUATION, PARTIAL, EVALUATION_SAMPLES)):
        raise RunError(f"{shown(directory)} is not a run directory: it has none of {CONFIG}, {INFO}, {METRICS} and {EVALUATION}")
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
        records, problems = looks.setdefault(file, LinesOf(wanted)).look(file) if file else ([], [])
        missing.extend(problems)
        return records

    info = parsed(INFO, record_in, is_run) or {}
    kind = str(info.get("kind", "unknown")) if is_run else "evaluation"
    recipe_text = parsed(CONFIG, str, is_run) or ""
    recipe = parsed(CONFIG, tables_in, False) or {}
    status = parsed(STATUS, record_in, is_run, ": nothing says whether the run has ended") or {}
    ended = status.get("status") == "finished"
    command = f"; `counterpoint eval {quoted(directory)}` makes it"
    again = command if ended else " until the run has ended and is evaluated" if is_run else NOT_ENDED
    summary = parsed(SUMMARY, record_in, ended) or {}
    metrics = lines(METRICS, is_run, OF_METRICS, ": no step has ended")
    samples, probes = lines(SAMPLES, False, OF_SAMPLES), lines(PROBES, False, OF_PROBES)
    evaluation, problems = parsed(EVALUATION, evaluation_in, kind in ("duet", "dqo", "evaluation"), again) or (None, [])
    missing += [f"{EVALUATION}: {problem}" for problem in problems]
    said = lines(EVALUATION_SAMPLES, evaluation is not None, OF_EVALUATION, ": what was answered is not shown, nor pass@k over k")
    run = RunFiles(
        directory=directory,
        name=shown(str(as_record(recipe.get("run")).get("name") or directory.resolve().name)),
        kind=kind,
        recipe=recipe,
        recipe_text=recipe_text,
        info=info,
        status=status,
        summary=summary,
        metrics=metrics,
        samples=samples,
        probes=probes,
        evaluation=evaluation,
        evaluation_samples=said,
        died=has_died(directory),
        missing=missing,
        derived=looks[file].derived if (file := directory / METRICS) in looks else {},
    )
    missing += [line for line in (too_few_samples(run), unfinished_evaluation(run), older_than_the_run(run)) if line]
    return run


def read_runs(directories: Sequence[Path]) -> tuple[list[RunFiles], list[str]]:
    """What is in directories, as `read_run` reads it, and which are empty yet, in words: so is the folder of an evaluation that
    has only begun. Raises `RunError` for one that is something else, and where there is no run at all."""
    empty = [each for each in directories if each.is_dir() and os.access(each, os.R_OK) and is_empty(each)]
    if len(empty) == len(directories):
        read_run(directories[0])
    notes = [f"{shown(directory)} is empty: no run or evaluation there has got so far" for directory in dict.fromkeys(empty)]
    return [read_run(directory) for directory in directories if directory not in empty], notes


def too_few_samples(run: RunFiles) -> str:
    """What the file of samples lacks of what was evaluated, in words; empty if nothing."""
    if run.evaluation is None or not run.evaluation_samples:
        return ""
    counts = dict.fromkeys(run.evaluation.systems, 0)
    for row in run.evaluation_samples:
        if row["system"] in counts:
            counts[row["system"]] += 1
    each = int(run.evaluation.questions * run.evaluation.samples)
    short = [f"{count:,} of {each:,} responses of {name}" for name, count in counts.items() if count < each]
    return f"{EVALUATION_SAMPLES} is not whole: it has {listed(short, 5)}" if short else ""


def unfinished_evaluation(run: RunFiles) -> str:
    """That an evaluation was begun and has not ended, in words; empty if there is none."""
    if not (run.directory / PARTIAL).is_file():
        return ""
    records, _ = LinesOf(OF_EVALUATION).look(run.directory / PARTIAL)
    systems = list(dict.fromkeys(row["system"] for row in records))
    begun = f"{PARTIAL}: an evaluation goes on or broke off; it has the responses of {listed(systems, 5) or 'no system'}"
    return f"{begun}, and is not shown"


def older_than_the_run(run: RunFiles) -> str:
    """That a run has gone on since it was evaluated, in words; empty if not.

    Where the evaluation does not say of which step it is, the times of the files do, and it is said that they do.
    """
    if run.evaluation is None or run.kind == "evaluation":
        return ""
    [own] = [by for by in run.evaluation.trained.values() if by.run == run.id][:1] or [None]
    anew = f"`counterpoint eval {quoted(run.directory)}` measures it anew"
    if own is not None and own.step is not None:
        gone_on = own.step < run.steps
        return f"{EVALUATION} is of step {own.step}, and the run is at step {run.steps}; {anew}" if gone_on else ""
    checkpoints = sorted((run.directory / CHECKPOINTS).glob(f"step-*/{STATE}"))
    if own is None and checkpoints and checkpoints[-1].stat().st_mtime > (run.directory / EVALUATION).stat().st_mtime:
        newest = checkpoints[-1].parent.name
        return f"{EVALUATION} may be of an earlier step: by the times of the files it is older than {newest}; {anew}"
    return ""


def tables_in(text: str) -> Record:
    """TOML that has nothing outside tables, as a recipe. Raises `ValueError`."""
    tables = tomllib.loads(text)
    if not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError("a recipe consists of tables")
    return tables


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
