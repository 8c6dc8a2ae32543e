"""Before the first step: how the accuracy to keep is measured."""

import pytest

from counterpoint.duet.start import start_state
from counterpoint.errors import TrainingError
from fakes import FakePolicy
from pairs import QUESTIONS, learner, recipe_in, toy_task


class Sampled(FakePolicy):
    """Remembers how it was sampled."""

    def __init__(self):
        super().__init__(lambda prompt, i: "x</think> 1")
        self.params = []

    def sample(self, prompts, n, params, seed):
        self.params.append(params)
        return super().sample(prompts, n, params, seed)


def started(tmp_path, reward, **sections):
    recipe = recipe_in(tmp_path, control={"kind": "accuracy_floor"}, **sections)
    policy = Sampled()
    task = toy_task(lambda questions, responses: [reward] * len(responses))
    return start_state(recipe, learner(policy, recipe.capable).speaker, QUESTIONS, task), policy


def test_the_floor_is_measured_with_the_sampling_of_the_evaluation(tmp_path):
    duet = {"temperature": 1.0, "max_signal_tokens": 12, "max_answer_tokens": 8}
    _, policy = started(tmp_path, 1.0, duet=duet, evaluation={"temperature": 0.3, "top_p": 0.8, "top_k": 5})
    assert policy.params
    assert {(p.max_tokens, p.temperature, p.top_p, p.top_k) for p in policy.params} == {(20, 0.3, 0.8, 5)}


def test_a_capable_model_that_is_never_right_has_no_accuracy_to_keep(tmp_path):
    with pytest.raises(TrainingError, match="M alone is never right on the 6 training questions") as raised:
        started(tmp_path, 0.0)
    for advice in ("Warm M up", "easier questions", "control.floor_of = 'absolute'"):
        assert advice in str(raised.value)


def test_a_capable_model_that_is_seldom_right_has_one(tmp_path):
    state, _ = started(tmp_path, 0.125)
    assert (state.capable_alone, state.floor) == (0.125, 0.99 * 0.125)
