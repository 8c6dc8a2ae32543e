"""That it learns what it is for, on a task that takes seconds."""

import string

import pytest

from counterpoint.policy.prompting import respond
from counterpoint.rl.types import SamplingParams
from pairs import QUESTIONS, toy_task
from single import dqo_recipe_in, tiny_learner, trained_dqo

RIGHT = frozenset(string.ascii_lowercase)
SAMPLES = 16


def right_answers(directory, seed, shaper):
    """(mean number of different right answers in 16, mean reward) of a policy that was trained to say one letter."""
    recipe = dqo_recipe_in(
        directory / shaper,
        run={"seed": seed, "steps": 60, "checkpoint_every": 100, "sample_every": 100},
        policy={"learning_rate": 4e-2},
        dqo={"questions": len(QUESTIONS), "samples": 8, "max_tokens": 1},
        diversity={"shaper": shaper, "alpha": 2.0},
    )
    task = toy_task(lambda questions, responses: [float(response in RIGHT) for response in responses])
    # without diversity all responses end up right and alike, and the warning that nothing is learned any more is right
    policy, metrics, _ = trained_dqo(recipe, tiny_learner(recipe, seed), task=task, warn=lambda message: None)
    assert metrics[0]["reward"] < 0.2
    groups = [[c.text for c in group] for group in respond(policy.speaker, QUESTIONS, SAMPLES, SamplingParams(1), seed=99)]
    different = sum(len(RIGHT.intersection(group)) for group in groups) / len(groups)
    return different, sum(text in RIGHT for group in groups for text in group) / (SAMPLES * len(groups))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dqo_keeps_more_different_right_answers_than_plain_rewards_at_no_lower_reward(tmp_path, seed):
    """From one start, after equal steps; seeds 0 to 2 end with 8.0 to 8.3 of 16 against 3.2 to 4.5, all at 99 % or more."""
    plain, plain_reward = right_answers(tmp_path, seed, "none")
    diverse, reward = right_answers(tmp_path, seed, "dqo")
    assert diverse > 1.4 * plain
    assert min(reward, plain_reward) > 0.9
    assert reward > plain_reward - 0.05
