"""One seed gives one run, however often it was interrupted."""

import pytest
import torch

from counterpoint.run import Run
from pairs import same
from single import dqo_recipe_in, tiny_critic, trained_dqo

FLOOR = {"control": "quality_floor", "floor": 0.45, "rate": 0.2, "tolerance": 0.2}


class Stopped(Exception):
    """The end of a run that a test brings about."""


@pytest.mark.parametrize(
    "chosen",
    [
        {"diversity": FLOOR, "policy": {"kl_coefficient": 0.01}},
        {"diversity": {"control": "linear", "embedder": "policy"}},
        {"diversity": {"shaper": "entropy", "alpha": 0.4}},
        {"diversity": FLOOR, "critic": {"warmup_steps": 2, "learning_rate": 1e-2}},
    ],
    ids=["quality_floor", "linear", "entropy", "critic"],
)
@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_run_that_was_interrupted_and_resumed_equals_an_unbroken_one(tmp_path, chosen, stop_at):
    def critic():
        return tiny_critic() if "critic" in chosen else None

    unbroken_critic, resumed_critic = critic(), critic()
    recipe = dqo_recipe_in(tmp_path / "unbroken", run={"steps": 5}, **chosen)
    unbroken, expected, final = trained_dqo(recipe, critic=unbroken_critic)

    def observe(step, metrics, samples):
        if step == stop_at:
            raise Stopped

    recipe = dqo_recipe_in(tmp_path / "broken", run={"steps": 5}, **chosen)
    with pytest.raises(Stopped):
        trained_dqo(recipe, critic=critic(), observe=observe)
    run = Run.open(tmp_path / "broken" / "trial")
    resumed, metrics, state = trained_dqo(recipe, critic=resumed_critic, run=run)
    assert metrics == expected
    assert [record["step"] for record in metrics] == [1, 2, 3, 4, 5]
    assert state == final
    assert same(unbroken, resumed)
    if unbroken_critic is not None:
        assert torch.equal(unbroken_critic.head.weight, resumed_critic.head.weight)
    samples = [(tmp_path / name / "trial" / "samples.jsonl").read_text() for name in ("unbroken", "broken")]
    assert samples[0] == samples[1]


def test_alpha_moves_in_the_runs_that_are_compared(tmp_path):
    """Else the tests above would show nothing of its controller."""
    _, metrics, _ = trained_dqo(dqo_recipe_in(tmp_path, run={"steps": 5}, diversity=FLOOR))
    assert len({record["alpha"] for record in metrics}) > 2
