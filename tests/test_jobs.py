"""From a recipe to a run: each job trains by the step that is its own, and with the models as the recipe has them."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from counterpoint import jobs
from counterpoint.run import Run, read_metrics
from pairs import QUESTIONS, recipe_in, tiny_policy
from single import dqo_recipe_in

SILENT = SimpleNamespace(update=lambda step, metrics, signal=None: None, warn=pytest.fail)


def screen(title, steps, first):
    return nullcontext(SILENT)


@pytest.fixture
def recipe_of_files(tmp_path):
    """A recipe whose models and questions are files, as a job reads them."""
    for seed, role in enumerate(("capable", "light")):
        (tmp_path / role).mkdir()
        tiny_policy(seed).save(tmp_path / role)
    rows = [json.dumps({"question": question.text, "answer": question.answer}) for question in QUESTIONS]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))

    def make(**sections):
        capable, light = ({"model": str(tmp_path / role), **sections.pop(role, {})} for role in ("capable", "light"))
        task = {"name": f"jsonl:{tmp_path}/rows.jsonl", "grader": "pairs:grade_one_by_bytes", "test_limit": 2}
        return recipe_in(tmp_path / "runs", capable=capable, light=light, task=task, **sections)

    return make


def test_the_pair_is_trained_by_the_joint_step(recipe_of_files):
    run = Run.create(recipe_of_files(), "duet")
    jobs.duet(run, screen)
    for record in read_metrics(run.directory):
        assert record.keys() >= {"aided_accuracy", "capable_groups", "light_groups"}
        assert "capable_kl_to_start" not in record
    assert {folder.name for folder in (run.directory / "models").iterdir()} == {"capable", "light"}


def test_the_baseline_is_trained_by_the_step_without_the_light_model(recipe_of_files):
    run = Run.create(jobs.alone_recipe(recipe_of_files()), "alone")
    jobs.alone(run, screen)
    for record in read_metrics(run.directory):
        assert record.keys() >= {"accuracy", "capable_groups"}
        assert not [name for name in record if name.startswith(("light_", "aided_"))]
    assert [folder.name for folder in (run.directory / "models").iterdir()] == ["capable"]


def test_the_baseline_of_a_pair_with_a_diversity_section_has_none(recipe_of_files):
    recipe = recipe_of_files(diversity={"embedder": "ngrams"})
    run = Run.create(jobs.alone_recipe(recipe), "alone")
    assert "[diversity" not in (run.directory / "config.toml").read_text()
    assert Run.open(run.directory).recipe == jobs.alone_recipe(recipe)


@pytest.mark.parametrize(("shaper", "shown"), [("dqo", {"floor", "alpha"}), ("none", {"floor"})])
def test_a_policys_run_ends_with_alpha_where_it_had_one(recipe_of_files, tmp_path, shaper, shown):
    files = recipe_of_files()
    policy, task = {"model": str(tmp_path / "capable")}, files.task.model_dump(exclude_none=True)
    recipe = dqo_recipe_in(tmp_path, run={"steps": 1}, policy=policy, task=task, diversity={"shaper": shaper})
    run = Run.create(recipe, "dqo")
    jobs.dqo(run, screen)
    assert json.loads((run.directory / "summary.json").read_text()).keys() == shown


@pytest.mark.parametrize(("kind", "job"), [("duet", jobs.duet), ("alone", jobs.alone)])
def test_a_model_with_a_kl_term_is_held_to_where_it_started(recipe_of_files, kind, job):
    recipe = recipe_of_files(capable={"kl_coefficient": 0.1})
    run = Run.create(recipe, kind)
    job(run, screen)
    first, *_, last = (record["capable_kl_to_start"] for record in read_metrics(run.directory))
    assert first == pytest.approx(0, abs=1e-5)
    assert abs(last) > 1e-3


def test_only_a_model_that_trains_and_has_a_kl_term_keeps_a_reference(recipe_of_files):
    def reference(**settings):
        return jobs.learner_of(recipe_of_files(capable=settings).capable, "").reference

    assert reference(kl_coefficient=0.1) is not None
    assert reference() is None
    assert reference(kl_coefficient=0.1, train=False) is None
