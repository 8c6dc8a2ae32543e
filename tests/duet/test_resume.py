"""One seed gives one run, however often it was interrupted."""

import pytest

from counterpoint.run import Run
from pairs import TEST_QUESTIONS, recipe_in, same, toy_task, trained


class Stopped(Exception):
    """The end of a run that a test brings about."""


def settings(advantage="dr_grpo", **control):
    return {
        "run": {"steps": 5},
        "capable": {"kl_coefficient": 0.01},
        "algorithm": {"advantage": advantage},
        "control": control or {"kind": "length_target", "rate": 0.3},
    }


@pytest.mark.parametrize(
    ("chosen", "stop_at"),
    [
        (settings(), 3),
        (settings("reinforce_pp", kind="accuracy_floor", floor=0.5, tolerance=0.3, rate=0.2), 3),
        (settings("reinforce_pp", kind="accuracy_floor", floor=0.5, tolerance=0.3, rate=0.2), 1),
        (settings("separate", kind="constant", value=0.4), 4),
    ],
    ids=["length_target", "accuracy_floor", "before the first checkpoint", "before a checkpoint was written"],
)
def test_a_run_that_was_interrupted_and_resumed_equals_an_unbroken_one(tmp_path, chosen, stop_at):
    task = toy_task(test=TEST_QUESTIONS)
    unbroken, expected, final = trained(recipe_in(tmp_path / "unbroken", **chosen), task=task)

    def observe(step, metrics, samples):
        if step == stop_at:
            raise Stopped

    recipe = recipe_in(tmp_path / "broken", **chosen)
    with pytest.raises(Stopped):
        trained(recipe, task=task, observe=observe)
    run = Run.open(tmp_path / "broken" / "trial")
    # checkpoints are every two steps, written after the observer was told: step `stop_at` is always done again
    resumed, metrics, state = trained(recipe, task=task, run=run)
    assert metrics == expected
    assert [record["step"] for record in metrics] == [1, 2, 3, 4, 5]
    assert state == final
    for one, other in zip(unbroken, resumed, strict=True):
        assert same(one, other)
    for file in ("samples.jsonl", "probes.jsonl"):
        said, said_again = ((tmp_path / name / "trial" / file).read_text() for name in ("unbroken", "broken"))
        assert said == said_again


def test_a_finished_run_resumed_changes_nothing(tmp_path):
    recipe = recipe_in(tmp_path)
    pair, metrics, state = trained(recipe)
    again, same_metrics, same_state = trained(recipe, run=Run.open(tmp_path / "trial"))
    assert same_metrics == metrics
    assert same_state == state
    assert all(same(one, other) for one, other in zip(pair, again, strict=True))


def test_one_seed_gives_one_run_and_another_seed_another(tmp_path):
    runs = [trained(recipe_in(tmp_path / str(i), run={"seed": seed})) for i, seed in enumerate((0, 0, 1))]
    (first, metrics, _), (again, same_metrics, _), (other, other_metrics, _) = runs
    assert metrics == same_metrics
    assert same(first[0], again[0])
    assert same(first[1], again[1])
    assert metrics != other_metrics
    assert not same(first[0], other[0])
