"""Loggers: real TensorBoard event files; the others against stand-ins, and what is said when they are not installed."""

import importlib
import sys
import types

import pytest

from counterpoint.errors import ConfigError
from counterpoint.recipe import DuetRecipe
from counterpoint.run import Run
from fakes import FakePolicy


def recipe(tmp_path, *loggers):
    model = {"model": "builtin:light"}
    run = {"name": "trial", "directory": str(tmp_path), "loggers": list(loggers)}
    return DuetRecipe.model_validate({"run": run, "capable": model, "light": model})


def test_tensorboard_goes_on_where_the_run_was_resumed(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Run.create(recipe(tmp_path, "tensorboard"), "duet") as run:
        for step in (1, 2, 3):
            run.log(step, {"reward": float(step)})
            if step == 2:
                run.checkpoint(2, {"capable": FakePolicy()}, {})
    with Run.open(run.directory) as resumed:
        resumed.restore({"capable": FakePolicy()})
        for step in (3, 4):
            resumed.log(step, {"reward": 10.0 * step})
    events = accumulator.EventAccumulator(str(run.directory / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_named_before_the_run_starts(tmp_path, monkeypatch, name):
    def missing(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=rf'pip install "counterpoint\[{name}\]"'):
        Run.create(recipe(tmp_path, name), "duet")
    assert list(tmp_path.iterdir()) == []


class Service:
    """Stands in for wandb and trackio: remembers what it was told."""

    def __init__(self):
        self.started, self.logged, self.finished = [], [], 0

    def module(self, name):
        module = types.ModuleType(name)
        module.init = self.init  # pyright: ignore[reportAttributeAccessIssue]
        return module

    def init(self, **settings):
        self.started.append(settings)
        return self

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_services_get_the_metrics_and_the_same_run_on_resume(tmp_path, monkeypatch, name):
    service = Service()
    monkeypatch.setitem(sys.modules, name, service.module(name))
    with Run.create(recipe(tmp_path, name), "duet") as run:
        run.log(1, {"reward": 0.5})
    with Run.open(run.directory) as resumed:
        resumed.restore({"capable": FakePolicy()})
        resumed.log(1, {"reward": 0.5})
    first, second = service.started
    assert first == second
    assert first["project"] == "counterpoint"
    assert first["resume"] == "allow"
    assert first["config"]["duet"]["signals"] == 4
    assert service.logged == [(1, {"reward": 0.5})] * 2
    assert service.finished == 2
