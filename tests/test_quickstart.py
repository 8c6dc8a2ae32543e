"""The quickstart: what it leaves behind, and that one which was interrupted goes on."""

import json
import shutil

import pytest

from counterpoint import jobs
from counterpoint.cli import screens
from counterpoint.config_files import apply_override, validate
from counterpoint.errors import ConfigError
from counterpoint.quickstart import grpo_recipe, quickstart
from counterpoint.run import Run
from pairs import tiny_policy
from single import dqo_recipe_in

SHORT = (
    "run.steps=2", "run.checkpoint_every=1", "duet.questions=2", "duet.signals=2", "evaluation.questions=4",
    "evaluation.samples=1", "evaluation.pass_at=[1]", "control.kind=constant",
)  # fmt: skip


@pytest.fixture
def overrides(tmp_path):
    return [*SHORT, f"run.directory={tmp_path}"]


def test_an_interrupted_quickstart_goes_on_and_a_finished_one_is_left_alone(overrides, monkeypatch, tmp_path, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("counterpoint.jobs.alone", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quickstart(overrides, screens(True), quiet=True, only="duet")
    first = (tmp_path / "quickstart-duet" / "metrics.jsonl").read_text()
    assert len(first.splitlines()) == 2

    [directory] = quickstart(overrides, screens(True), quiet=True, only="duet")
    assert directory == tmp_path / "quickstart-duet"
    assert (directory / "metrics.jsonl").read_text() == first  # the pair was not trained again
    systems = json.loads((directory / "evaluation.json").read_text())["systems"]
    assert {"M trained alone", "trained pair"} <= set(systems)
    assert "Everything is in" in capsys.readouterr().out

    (directory / "evaluation.json").unlink()
    [other] = quickstart([*overrides, "run.seed=1"], screens(True), quiet=True, only="duet")
    assert other == tmp_path / "quickstart-duet-2"  # another recipe is another run
    shutil.rmtree(tmp_path)


# --- DQO


@pytest.fixture
def tiny_recipe(tmp_path, monkeypatch):
    """Takes the place of the recipe that ships: a tiny policy, one step."""
    pytest.importorskip("sacrebleu")
    tiny_policy(context_length=64).save(tmp_path / "model")
    recipe = dqo_recipe_in(
        tmp_path,
        run={"name": "quickstart-dqo", "steps": 1},
        task={"name": "arithmetic", "train_limit": 8, "test_limit": 8},
        policy={"model": str(tmp_path / "model")},
        evaluation={"questions": 4, "samples": 2, "pass_at": [1, 2], "top_k": 0},
    )

    def load(name, overrides):
        assert name == "quickstart-dqo"
        values = recipe.model_dump(exclude_none=True)
        for override in overrides:
            apply_override(values, override)
        return validate(values, name)

    monkeypatch.setattr("counterpoint.quickstart.load_recipe", load)
    return recipe


def dqo_quickstart(*overrides):
    [directory] = quickstart(overrides, screens(True), quiet=True, only="dqo")
    return directory


def test_dqo_and_grpo_go_from_one_start_and_are_measured_side_by_side(tiny_recipe, tmp_path, capsys):
    directory = dqo_quickstart()
    runs = [Run.open(tmp_path / name) for name in ("quickstart-dqo", "quickstart-dqo-grpo")]
    assert directory == runs[0].directory
    assert [(run.kind, run.status, run.recipe.diversity.shaper) for run in runs] == [
        ("dqo", "finished", "dqo"),
        ("dqo", "finished", "none"),
    ]
    rewards = [json.loads((run.directory / "metrics.jsonl").read_text())["reward"] for run in runs]
    assert rewards[0] == rewards[1]  # of the first step: the same start, questions and seed
    systems = json.loads((directory / "evaluation.json").read_text())["systems"]
    assert list(systems) == ["start", "quickstart-dqo", "quickstart-dqo-grpo"]
    assert (directory / "evaluation.png").is_file()
    assert f"Everything is in {directory}" in capsys.readouterr().out


def test_an_interrupted_quickstart_of_dqo_goes_on_and_a_finished_one_is_left_alone(tiny_recipe, tmp_path, monkeypatch):
    job, done = jobs.dqo, []

    def interrupted(run, screen):
        if done:
            raise KeyboardInterrupt
        done.append(run.recipe.run.name)
        return job(run, screen)

    with monkeypatch.context() as patch:
        patch.setattr("counterpoint.jobs.dqo", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dqo_quickstart()
    assert done == ["quickstart-dqo-grpo"]
    first = (tmp_path / done[0] / "metrics.jsonl").read_text()

    assert dqo_quickstart() == tmp_path / "quickstart-dqo"
    assert (tmp_path / done[0] / "metrics.jsonl").read_text() == first  # not trained again
    assert dqo_quickstart() == tmp_path / "quickstart-dqo-2"
    shutil.rmtree(tmp_path)


def test_the_baseline_differs_in_the_diversity_alone(tmp_path):
    recipe = dqo_recipe_in(tmp_path, diversity={"control": "quality_floor", "options": {"correct_only": True}})
    baseline = grpo_recipe(recipe)
    assert baseline.run.name == "trial-grpo"
    assert (baseline.diversity.shaper, baseline.diversity.control, baseline.diversity.options) == ("none", "constant", {})
    assert baseline.model_copy(update={"run": recipe.run, "diversity": recipe.diversity}) == recipe


def test_an_override_goes_to_the_recipe_that_its_table_is_for(monkeypatch):
    given = {}
    monkeypatch.setattr("counterpoint.quickstart.duet_part", lambda overrides, *_: given.setdefault("duet", overrides))
    monkeypatch.setattr("counterpoint.quickstart.dqo_part", lambda overrides, *_: given.setdefault("dqo", overrides))
    overrides = ["run.steps=2", "duet.signals=2", "dqo.samples=3", "diversity.alpha=2", "nonsense.key=1"]
    quickstart(overrides, screens(True), quiet=True)
    assert given["duet"] == ["run.steps=2", "duet.signals=2", "nonsense.key=1"]
    assert given["dqo"] == ["run.steps=2", "dqo.samples=3", "diversity.alpha=2", "nonsense.key=1"]
    given.clear()
    quickstart(["diversity.alpha=2", "task.name=gsm8k"], screens(True), quiet=True, only="duet")
    assert given == {"duet": ["diversity.alpha=2", "task.name=gsm8k"]}


@pytest.mark.parametrize(
    "override",
    [
        *("run.name=mine", "run.name =mine", "run={name='mine'}", "run={steps=2}"),
        *("task.name=gsm8k", "task={name='gsm8k'}", "algorithm.loss=cispo"),
    ],
)
def test_what_each_run_needs_for_itself_is_not_set_for_both(override):
    with pytest.raises(ConfigError, match="needs --only duet or --only dqo"):
        quickstart([override], screens(True), quiet=True)
