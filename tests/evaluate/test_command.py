"""`counterpoint eval`: what a command line turns into, for runs of DQO."""

import json
import shutil

import pytest
from matplotlib.image import imread

from counterpoint import jobs
from counterpoint.cli import main, screens
from counterpoint.errors import ConfigError, RunError
from counterpoint.evaluate.command import evaluate
from counterpoint.evaluate.results import Evaluation, TrainedBy
from counterpoint.evaluate.run import EVALUATION, SAMPLES
from counterpoint.run import Run
from pairs import recipe_in, tiny_policy
from single import dqo_recipe_in

MEASURES = {"different_correct", "distinct_2", "self_bleu_diversity", "mean_pairwise_distance", "vendi_score", "log_det"}

MINE, PLAIN = "quickstart-dqo", "quickstart-dqo-grpo"
"""The names that the quickstart's table must have room for."""


def recipe_for(directory, model, name, **diversity):
    return dqo_recipe_in(
        directory,
        run={"name": name, "steps": 1},
        task={"name": "arithmetic", "train_limit": 8, "test_limit": 8},
        policy={"model": str(model)},
        diversity=diversity,
        evaluation={"questions": 4, "samples": 3, "pass_at": [1, 3], "batch": 4, "temperature": 1.0, "top_p": 1.0, "top_k": 0},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs from one start: by DQO, and without diversity."""
    pytest.importorskip("sacrebleu")
    folder = tmp_path_factory.mktemp("runs")
    tiny_policy(context_length=64).save(folder / "model")
    for name, shaper in ((MINE, "dqo"), (PLAIN, "none")):
        jobs.dqo(Run.create(recipe_for(folder, folder / "model", name, shaper=shaper), "dqo"), screens(True))
    return folder / MINE, folder / PLAIN


def test_runs_are_measured_side_by_side_from_where_they_started(runs, capsys):
    assert main(["eval", *map(str, runs), "--quiet"]) == 0
    said = capsys.readouterr().out
    evaluation = Evaluation.from_json((runs[0] / EVALUATION).read_text())
    assert list(evaluation.systems) == ["start", MINE, PLAIN]
    assert evaluation.task == "arithmetic"
    for name, result in evaluation.systems.items():
        assert set(result.diversity) >= MEASURES
        assert all(e.low <= e.value <= e.high for e in result.diversity.values())
        assert 0 < result.capable_output_tokens <= 8
        assert result.accuracy_difference is not None
        [line] = [line for line in said.splitlines() if line.startswith(f" {name} ")]
        assert len(line) <= 110
        assert "…" not in line
    assert evaluation.systems["start"].token_share == 1.0
    rows = [json.loads(line) for line in (runs[0] / SAMPLES).read_text().splitlines()]
    assert len(rows) == 3 * 4 * 3
    assert imread(runs[0] / "evaluation.png").shape[:2] == (750, 1200)
    assert not (runs[1] / EVALUATION).exists()


def test_an_evaluation_says_which_runs_it_is_of_and_what_was_asked(runs):
    evaluate([str(run) for run in runs], (), None, quiet=True)
    evaluation = Evaluation.from_json((runs[0] / EVALUATION).read_text())
    assert evaluation.trained == {run.name: TrainedBy(Run.open(run).info["id"], 1) for run in runs}
    assert evaluation.models == {"policy": str(runs[0].parent / "model")}
    assert evaluation.embedder == Run.open(runs[0]).recipe.model_dump()["diversity"]["embedder"]
    assert evaluation.asked == {"name": "arithmetic", "grader_options": {}, "on_grader_error": "stop", "options": {}}
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


def test_a_run_of_an_older_version_or_without_metrics_is_measured_too(runs, tmp_path):
    copies = [tmp_path / run.name for run in runs]
    for run, copy in zip(runs, copies, strict=True):
        shutil.copytree(run, copy)
    info = json.loads((copies[0] / "run.json").read_text())
    (copies[0] / "run.json").write_text(json.dumps({name: value for name, value in info.items() if name != "id"}))
    (copies[1] / "metrics.jsonl").unlink()
    evaluation = evaluate([str(copy) for copy in copies], (), None, quiet=True)
    assert evaluation.trained == {PLAIN: TrainedBy(Run.open(runs[1]).info["id"], None)}


def test_measures_are_of_what_was_trained(runs, tmp_path):
    """At a temperature of 0 a policy says one thing, and what one step changed shows in the file of samples."""
    evaluate(
        [str(run) for run in runs],
        ["evaluation.temperature=0", "evaluation.samples=2", "evaluation.pass_at=[1]"],
        tmp_path,
        quiet=True,
    )
    evaluation = Evaluation.from_json((tmp_path / EVALUATION).read_text())
    assert all(result.diversity["mean_pairwise_distance"].value == 0 for result in evaluation.systems.values())
    said = {}
    for row in map(json.loads, (tmp_path / SAMPLES).read_text().splitlines()):
        said.setdefault(row["system"], []).append(row["response"])
    assert said["start"] != said[MINE]


def test_a_recipe_is_measured_untrained(runs, capsys):
    assert main(["eval", str(runs[0] / "config.toml"), "--quiet"]) == 0
    folder = runs[0].with_name(f"{MINE}-untrained")
    assert list(json.loads((folder / EVALUATION).read_text())["systems"]) == ["start"]
    assert str(folder) in capsys.readouterr().out


def test_runs_of_another_start_task_or_budget_are_not_put_beside(runs, tmp_path):
    other = recipe_for(tmp_path, runs[0].parent / "model", "other")
    changed = {"task": other.task.model_copy(update={"test_limit": 6}), "dqo": other.dqo.model_copy(update={"max_tokens": 7})}
    jobs.dqo(Run.create(other.model_copy(update=changed), "dqo"), screens(True))
    with pytest.raises(
        ConfigError, match=r"other cannot be measured beside .*: dqo.max_tokens, task.test_limit of the two differ"
    ):
        evaluate([str(runs[0]), str(tmp_path / "other")], [], tmp_path, quiet=True)


def test_two_runs_of_one_name_are_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match=f"there is a {MINE} in the table already"):
        evaluate([str(runs[0]), str(runs[0])], [], tmp_path, quiet=True)


def test_recipes_side_by_side_are_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match="is no run directory"):
        evaluate([str(runs[0] / "config.toml"), str(runs[1])], [], tmp_path, quiet=True)


def test_a_run_that_has_not_finished_is_named(runs, tmp_path):
    Run.create(recipe_for(tmp_path, runs[0].parent / "model", "begun"), "dqo").close()
    with pytest.raises(RunError, match=r"begun has no trained policy model yet; finish it with: counterpoint resume"):
        evaluate([str(runs[0]), str(tmp_path / "begun")], [], tmp_path, quiet=True)


def test_runs_of_duet_are_measured_one_at_a_time(runs, tmp_path):
    Run.create(recipe_in(tmp_path), "duet").close()
    with pytest.raises(ConfigError, match="one at a time"):
        evaluate([str(tmp_path / "trial"), str(runs[0])], [], None, quiet=True)
    with pytest.raises(ConfigError, match="trial is a recipe for `counterpoint duet`"):
        evaluate([str(runs[0]), str(tmp_path / "trial")], [], tmp_path, quiet=True)
