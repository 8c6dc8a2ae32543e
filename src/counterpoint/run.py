"""The run directory: everything that a run is, in files that a person can read.

    config.toml       the recipe, every default written out
    run.json          what was run, with which versions, on what
    status.json       running, stopped, failed or finished
    metrics.jsonl     one line a step
    samples.jsonl     what the models said, now and then
    probes.jsonl      what a pair says to the same few test questions, at the start and at every checkpoint
    checkpoints/      step-000050/{capable,light}/ and state.json; the newest few
    models/           after the last step: {capable,light}/, for `from_pretrained`
    summary.json      the run in a few numbers
    lock              held by the process that trains

A checkpoint is written beside its place and moved there whole: what stands under its name is complete, whenever the process died.
"""

import logging
import math
import os
import platform
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from filelock import FileLock, Timeout

from counterpoint import toml
from counterpoint.config_files import load_recipe
from counterpoint.errors import CounterpointError, RunError
from counterpoint.files import (
    append_line,
    cause,
    is_empty,
    is_write_failure,
    json_text,
    read_json,
    read_lines,
    recover,
    remove_folder,
    truncate_after,
    write_text,
    written_whole,
)
from counterpoint.loggers import LOGGERS, Logger, check_loggers
from counterpoint.model_card import model_card
from counterpoint.policy.base import Policy, Saved
from counterpoint.recipe import Recipe

CONFIG, INFO, STATUS, SUMMARY = "config.toml", "run.json", "status.json", "summary.json"
METRICS, SAMPLES, PROBES, STATE = "metrics.jsonl", "samples.jsonl", "probes.jsonl", "state.json"
CHECKPOINTS, MODELS, LOCK = "checkpoints", "models", "lock"
OPTIMIZER = "optimizer.pt"

Status = Literal["running", "stopped", "failed", "finished"]

log = logging.getLogger(__name__)


class Run:
    """One run directory. As a context manager it keeps other processes out, closes its loggers and writes how the run ended."""

    def __init__(self, directory: Path, recipe: Recipe, info: Mapping[str, Any]):
        """Use `create` or `open`."""
        self.directory = directory
        self.recipe = recipe
        self.info = dict(info)
        self.kind = str(info["kind"])
        self._resumed_at: int | None = None
        self._training = False
        self._lock = FileLock(directory / LOCK, blocking=False)
        self._loggers: list[Logger] | None = None

    @classmethod
    def create(cls, recipe: Recipe, kind: str, command: Sequence[str] = ()) -> Self:
        """Start a run in `<run.directory>/<run.name>`.

        Raises `RunError` if there is something already, or if it cannot be written; `ConfigError` if a logger is not installed.
        """
        check_loggers(list(recipe.run.loggers))
        directory = Path(recipe.run.directory) / recipe.run.name
        if directory.exists() and not (directory.is_dir() and never_began(directory)):
            raise RunError(
                f"there is a run in {directory} already; resume it with `counterpoint resume {directory}`, "
                "or choose another run.name"
            )
        run = cls(directory, recipe, run_info(recipe, kind, command))
        config = toml.dumps(recipe.model_dump())
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_text(directory / INFO, json_text(run.info))
            write_text(directory / CONFIG, config)
        except OSError as error:
            raise RunError(f"cannot write the run directory {directory}: {cause(error)}. Choose another run.directory") from error
        run._start()
        return run

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """A run that exists. Nothing is written until `restore`. Raises `RunError` that names what is missing or damaged."""
        directory = Path(directory)
        if not directory.is_dir():
            raise RunError(
                f"there is no run directory {directory}; give one that `counterpoint duet` or `counterpoint dqo` has made"
            )
        for name in (CONFIG, INFO):
            if not (directory / name).is_file():
                raise RunError(f"{directory} is not a run directory, or a damaged one: {name} is missing")
        try:
            recipe = load_recipe(directory / CONFIG)
        except CounterpointError as error:
            raise RunError(
                f"the run directory {directory} is damaged, or from another version of counterpoint: {error}"
            ) from error
        info = read_json(directory / INFO)
        if not isinstance(info, dict) or "kind" not in info:
            raise RunError(f"the run directory {directory} is damaged: {INFO} does not say the kind of the run")
        return cls(directory, recipe, info)

    @property
    def status(self) -> Status | None:
        """How the run stands; None if that was never written."""
        file = self.directory / STATUS
        return read_json(file)["status"] if file.is_file() else None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a step's metrics to metrics.jsonl, and send them to the loggers. What is not finite is written as null."""
        values = {name: float(value) for name, value in metrics.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append(METRICS, {"step": step, "time": time.time(), **finite})
        if self._loggers is None:
            self._loggers = self._open_loggers()
        for logger in self._loggers:
            logger.log(step, values)

    def sample(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append what the models said to samples.jsonl, a line a row."""
        for row in rows:
            self._append(SAMPLES, {"step": step, **row})

    def probe(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append what the models said to the questions that are asked again and again to probes.jsonl, a line a row."""
        for row in rows:
            self._append(PROBES, {"step": step, **row})

    def checkpoint(self, step: int, policies: Mapping[str, Saved], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint, whole or not at all, then remove the oldest ones. `state` must fit into JSON.

        Raises `RunError` if it cannot be written; the checkpoint before it is then still there.
        """
        target = self.directory / CHECKPOINTS / f"step-{step:06d}"
        text = json_text({"step": step, "state": dict(state)})
        with self._writing(target), written_whole(target) as folder:
            for role, policy in policies.items():
                (folder / role).mkdir()
                policy.save(folder / role)
            write_text(folder / STATE, text)
        with self._writing(target.parent):
            for old in self._checkpoints()[: -self.recipe.run.keep_checkpoints]:
                remove_folder(old)
        return target

    def newest_checkpoint(self, roles: Sequence[str] = ()) -> Path | None:
        """The newest complete checkpoint that holds `roles`; None if there is none. One that is damaged is passed over, aloud."""
        for folder in reversed(self._checkpoints()):
            missing = [name for name in (STATE, *roles) if not (folder / name).exists()]
            if not missing:
                return folder
            log.warning("%s is damaged: %s missing; taking the checkpoint before it", folder, ", ".join(missing))
        return None

    def restore(self, policies: Mapping[str, Saved]) -> tuple[int, dict[str, Any]] | None:
        """Go on from the newest checkpoint: loads the policies and returns (step, state); None if there is no checkpoint.

        What the run wrote after that step is dropped from metrics.jsonl, samples.jsonl and probes.jsonl: it will be done again.
        Raises `RunError` if a file is damaged.
        """
        with self._writing(self.directory):
            recover(self.directory)
            recover(self.directory / CHECKPOINTS)
        folder = self.newest_checkpoint(list(policies))
        step, state = -1, {}
        if folder is not None:
            try:
                saved = read_json(folder / STATE)
                step, state = int(saved["step"]), dict(saved["state"])
                for role, policy in policies.items():
                    policy.load(folder / role)
            except Exception as error:
                raise RunError(
                    f"the checkpoint {folder} cannot be loaded ({type(error).__name__}: {error}). If the recipe's models are as "
                    f"they were, it is damaged: delete the folder, then `counterpoint resume {self.directory}` takes the one "
                    "before it"
                ) from error
        with self._writing(self.directory):
            for name in (METRICS, SAMPLES, PROBES):
                truncate_after(self.directory / name, step)
        self._resumed_at = step
        self._start()
        return None if folder is None else (step, state)

    def finish(self, policies: Mapping[str, Policy], summary: Mapping[str, Any]) -> None:
        """Write the trained models with their cards, and the summary, and mark the run as finished. Raises `RunError`."""
        text = json_text(summary)
        with self._writing(self.directory / MODELS), written_whole(self.directory / MODELS) as folder:
            for role, policy in policies.items():
                (folder / role).mkdir()
                policy.save(folder / role)
                (folder / role / OPTIMIZER).unlink(missing_ok=True)
                write_text(folder / role / "README.md", model_card(role, self.recipe, self.info, summary))
        with self._writing(self.directory / SUMMARY):
            write_text(self.directory / SUMMARY, text)
            self._write_status("finished")
        self._training = False

    def close(self) -> None:
        """Close the loggers."""
        loggers, self._loggers = self._loggers or [], None
        for logger in loggers:
            logger.close()

    def __enter__(self) -> Self:
        with self._writing(self.directory / LOCK):
            try:
                self._lock.acquire()
            except Timeout as error:
                raise RunError(f"another process is training in {self.directory}; wait for it, or stop it first") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._training:
                status = "failed" if isinstance(error, Exception) else "stopped"  # KeyboardInterrupt is no Exception
                self._write_status(status, "" if error is None else describe_error(error))
        except OSError as problem:
            # a full disk must not hide the error that ended the run
            log.warning("cannot write %s: %s", self.directory / STATUS, cause(problem))
        finally:
            self._training = False
            self.close()
            self._lock.release()

    def _start(self) -> None:
        self._training = True
        with self._writing(self.directory / STATUS):
            self._write_status("running")

    def _write_status(self, status: Status, error: str = "") -> None:
        # a process is known by its number on its own machine alone
        record = {"status": status, "time": time.time(), "process": os.getpid(), "machine": platform.node()}
        write_text(self.directory / STATUS, json_text(record | ({"error": error} if error else {})))

    def _open_loggers(self) -> list[Logger]:
        config, names = self.recipe.model_dump(), self.recipe.run.loggers
        run_id = str(self.info.get("id", self.recipe.run.name))
        return [LOGGERS[name](self.directory, self.recipe.run.name, run_id, config, self._resumed_at) for name in names]

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        with self._writing(self.directory / name):
            append_line(self.directory / name, record)

    def _checkpoints(self) -> list[Path]:
        """Folders of complete checkpoints, oldest first."""
        found = (self.directory / CHECKPOINTS).glob("step-*")
        return sorted((path for path in found if path.name[5:].isdigit()), key=lambda path: int(path.name[5:]))

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Turns a failure to write `path` into a `RunError` that says how to go on."""
        try:
            yield
        except Exception as error:
            if not is_write_failure(error):
                raise
            newest = self.newest_checkpoint()
            intact = f"The checkpoint {newest} is intact" if newest else "There is no checkpoint yet"
            raise RunError(
                f"cannot write {path}: {cause(error)}. {intact}. Make room or set the permissions right, then "
                f"`counterpoint resume {self.directory}`"
            ) from error


def never_began(directory: Path) -> bool:
    """Whether a folder is empty, or has no more than a run leaves that failed before its first step (a misspelt model, say)."""
    if not {path.name for path in directory.iterdir()} <= {CONFIG, INFO, STATUS, LOCK, PROBES}:
        return False
    status = directory / STATUS
    return is_empty(directory) or (status.is_file() and read_json(status).get("status") in ("failed", "stopped"))


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, oldest first; a null is a NaN again.

    A last line that a dying process left unfinished is left out. Raises `RunError` if the file is missing, or damaged elsewhere.
    """
    file = Path(directory) / METRICS
    if not file.is_file():
        raise RunError(f"{file} is missing: the run has not finished its first step, or this is not a run directory")
    records = (record for record, _ in read_lines(file))
    return [{name: math.nan if value is None else value for name, value in record.items()} for record in records]


def run_info(recipe: Recipe, kind: str, command: Sequence[str]) -> dict[str, Any]:
    """What run.json says: enough to repeat the run."""
    import torch

    graphics = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "id": uuid.uuid4().hex[:12],
        "kind": kind,
        "command": list(command),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": recipe.run.seed,
        "versions": {"python": platform.python_version()}
        | {package: installed_version(package) for package in ("counterpoint", "torch", "transformers")},
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "processors": os.cpu_count(),
            "gpu": graphics,
        },
    }


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_error(error: BaseException) -> str:
    text = str(error)
    return text if isinstance(error, CounterpointError) else f"{type(error).__name__}: {text}"
