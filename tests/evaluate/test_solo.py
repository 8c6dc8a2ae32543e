"""M trained alone, the baseline beside a pair's run: it is taken only where it belongs to that pair."""

import pytest

from counterpoint.errors import RunError
from counterpoint.evaluate.command import differing, solo_model
from counterpoint.jobs import alone_recipe
from counterpoint.run import Run
from fakes import FakePolicy
from pairs import recipe_in


def finished(recipe, kind):
    """A run that has written its models."""
    with Run.create(recipe, kind) as run:
        run.finish({"capable": FakePolicy()}, {})
    return run


def pair_and(beside, tmp_path, kind="alone"):
    """The run of a pair, and beside it one with the recipe that `beside` makes of the baseline's."""
    recipe = recipe_in(tmp_path)
    baseline = alone_recipe(recipe)
    finished(baseline.model_copy(update=beside(baseline)), kind)
    return finished(recipe, "duet")


def test_the_baseline_of_a_pair_is_found_beside_it(tmp_path):
    run = pair_and(lambda baseline: {}, tmp_path)
    config = run.recipe.capable.model_copy(update={"gguf_file": "x.gguf", "dtype": "bfloat16"})
    solo = solo_model(run, config)
    assert solo == config.model_copy(
        update={"model": str(tmp_path / "trial-alone" / "models" / "capable"), "gguf_file": None, "train": False}
    )


def test_a_pair_may_have_been_moved_with_its_baseline(tmp_path):
    pair_and(lambda baseline: {}, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    run = Run.open(tmp_path / "there" / "trial")
    assert solo_model(run, run.recipe.capable).model == str(tmp_path / "there" / "trial-alone" / "models" / "capable")


def test_a_pair_without_its_baseline_has_none(tmp_path):
    run = finished(recipe_in(tmp_path), "duet")
    assert solo_model(run, run.recipe.capable) is None
    Run.create(alone_recipe(run.recipe), "alone")
    assert solo_model(run, run.recipe.capable) is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"run": {"seed": 7, "steps": 9}}, r"differ in run\.seed, run\.steps\. "),
        ({"duet": {"length_scale": 99.0}}, r"differ in duet\.length_scale\. "),
        ({"task": {"options": {"level": 2}}}, r"differ in task\.options\.level\. "),
    ],
    ids=["run", "penalty", "task"],
)
def test_a_run_beside_it_that_was_trained_otherwise_is_refused(tmp_path, changed, named):
    def beside(baseline):
        return {section: getattr(baseline, section).model_copy(update=values) for section, values in changed.items()}

    run = pair_and(beside, tmp_path)
    with pytest.raises(RunError, match=named) as raised:
        solo_model(run, run.recipe.capable)
    assert f"counterpoint duet {tmp_path}/trial/config.toml --alone" in str(raised.value)
    assert "evaluation.solo=false" in str(raised.value)


def test_a_run_beside_it_of_another_kind_is_refused(tmp_path):
    run = pair_and(lambda baseline: {}, tmp_path, kind="duet")
    with pytest.raises(RunError, match="it is a run of kind duet"):
        solo_model(run, run.recipe.capable)


def test_settings_that_differ_are_named_with_their_tables():
    one = {"a": {"b": 1, "c": {"d": 2}}, "e": None, "f": {"g": 1}, "only": 3}
    other = {"a": {"b": 1, "c": {"d": 3}}, "e": {"x": 1}, "f": None}
    assert differing(one, other) == ["a.c.d", "e", "f", "only"]
    assert differing(one, one) == []
