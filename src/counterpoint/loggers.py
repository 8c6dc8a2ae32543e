"""Where metrics go beside metrics.jsonl. Each service is an extra, imported when a run asks for it."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from counterpoint.errors import ConfigError

PROJECT = "counterpoint"


class Logger(Protocol):
    """Takes the metrics of each step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `<run>/tensorboard`. A resumed run goes on there; points it takes again replace the old ones."""

    def __init__(self, directory: Path, name: str, run_id: str, config: Mapping[str, Any], resumed_at: int | None):
        writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self.writer = writer(str(directory / "tensorboard"), purge_step=None if resumed_at is None else resumed_at + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for metric, value in metrics.items():
            self.writer.add_scalar(metric, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run on Weights & Biases with this run's name. A resumed run goes on with the same one."""

    def __init__(self, directory: Path, name: str, run_id: str, config: Mapping[str, Any], resumed_at: int | None):
        wandb = require("wandb", "wandb")
        self.run = wandb.init(project=PROJECT, name=name, id=run_id, resume="allow", dir=str(directory), config=dict(config))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run in the local trackio dashboard. It knows runs by their name, so the id is part of it."""

    def __init__(self, directory: Path, name: str, run_id: str, config: Mapping[str, Any], resumed_at: int | None):
        trackio = require("trackio", "trackio")
        self.run = trackio.init(project=PROJECT, name=f"{name}-{run_id}", resume="allow", config=dict(config))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


LOGGERS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "trackio": Trackio}
MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}


def check_loggers(names: list[Any]) -> None:
    """Raises `ConfigError` if the package of one of them is not installed: before a run starts, not an hour into it."""
    for name in names:
        require(MODULES[name], name)


def require(module: str, extra: str) -> Any:
    """The module, or a `ConfigError` that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"run.loggers asks for {extra}, which is not installed ({error}). "
            f'Run: pip install "counterpoint[{extra}]", or take {extra} out of run.loggers'
        ) from error
