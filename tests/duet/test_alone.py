"""The baseline: M alone, every token of it penalised, m out of the way."""

import pytest
import torch

from counterpoint.duet import reward
from counterpoint.duet.alone import alone_step
from counterpoint.duet.train import train
from counterpoint.errors import TrainingError
from counterpoint.rl.control import LengthTarget
from counterpoint.rl.state import State
from counterpoint.run import Run, read_metrics
from fakes import FakePolicy, StandingTime
from pairs import QUESTIONS, grade_by_bytes, learner, recipe_in, same, tiny_pair, toy_task, weights_of

SAID = ["a</think>1", "aa</think>\n\n22", "aaa"]


def step_with(recipe, task, multiplier=0.5, count=2):
    capable = FakePolicy(lambda prompt, i: SAID[i])
    light = FakePolicy(lambda prompt, i: pytest.fail("m is not asked"))
    pair = learner(capable, recipe.capable), learner(light, recipe.light)
    result, state = alone_step(0, QUESTIONS[:count], *pair, task, recipe, State(LengthTarget(multiplier, 0.1)))
    return result, state, capable, light


def test_all_tokens_are_penalised_the_answers_too(tmp_path):
    recipe = recipe_in(tmp_path)
    task = toy_task(lambda questions, responses: [float(response in ("1", "22")) for response in responses])
    result, state, capable, light = step_with(recipe, task)
    lengths = [len(text) for text in SAID]
    expected = [right - 0.5 * length / 12 for right, length in zip([1, 1, 0], lengths, strict=True)]
    advantages = [value - sum(expected) / 3 for value in expected]
    [data] = capable.seen
    assert [bytes(datum.tokens).decode() for datum in data] == SAID * 2
    assert [datum.advantages[0] for datum in data] == pytest.approx(advantages * 2, abs=1e-6)
    assert result.metrics["accuracy"] == pytest.approx(2 / 3)
    assert result.metrics["signal_tokens"] == sum(lengths) / 3
    assert result.metrics["capable_reward"] == pytest.approx(sum(expected) / 3)
    assert state.controller.value == pytest.approx(0.5 + 0.1 * (sum(lengths) / 3 / 12 - 1))
    assert light.updates == 0


def test_it_may_take_the_budgets_of_both(tmp_path):
    recipe = recipe_in(tmp_path, duet={"max_signal_tokens": 7, "max_answer_tokens": 2})
    result, *_ = step_with(recipe, toy_task())
    assert result.metrics["signal_tokens"] == (9 + 9 + 3) / 3


def test_samples_show_what_it_said(tmp_path):
    result, *_ = step_with(recipe_in(tmp_path), toy_task(lambda questions, responses: [0.25] * len(responses)))
    assert [(row["question"], row["signal"], row["rewards"]) for row in result.samples] == [
        ("q0", SAID[0], [0.25]),
        ("q1", SAID[0], [0.25]),
    ]


def test_a_question_that_cannot_be_graded_leaves_the_step(tmp_path):
    def grade(questions, responses):
        if any(question.id == "q0" for question in questions):
            raise ValueError("no")
        return grade_by_bytes(questions, responses)

    recipe = recipe_in(tmp_path, task={"on_grader_error": "skip"})
    result, *_ = step_with(recipe, toy_task(grade))
    assert (result.metrics["gradings_skipped"], result.metrics["capable_groups"]) == (3, 1)
    with pytest.raises(TrainingError, match=r"step 1: no question could be graded \(3 gradings skipped\)"):
        step_with(recipe, toy_task(grade), count=1)


def test_the_light_model_stays_as_it_is(tmp_path):
    recipe = recipe_in(tmp_path, light={"train": False})
    pair, fresh = tiny_pair(recipe), tiny_pair(recipe)
    with Run.create(recipe, "alone") as run:
        train(run, *pair, toy_task(), lambda step, metrics, samples: None, pytest.fail, step_function=alone_step)
    assert not same(pair[0], fresh[0])
    assert same(pair[1], fresh[1])
    assert all(torch.isfinite(weight).all() for weight in weights_of(pair[0]).values())


def test_the_time_of_a_step_is_told_by_phase(tmp_path, monkeypatch):
    recipe = recipe_in(tmp_path, run={"steps": 1}, light={"train": False})
    capable = FakePolicy(lambda prompt, i: SAID[i])
    time = StandingTime(monkeypatch)
    capable.sample, capable.update = time.taking(1, capable.sample), time.taking(1000, capable.update)
    monkeypatch.setattr(reward, "signal_reward", time.taking(100, reward.signal_reward))
    pair = learner(capable, recipe.capable), learner(FakePolicy(), recipe.light)
    with Run.create(recipe, "alone") as run:
        task = toy_task(time.taking(10, grade_by_bytes))
        train(run, *pair, task, lambda step, metrics, samples: None, pytest.fail, step_function=alone_step)
    [metrics] = read_metrics(run.directory)
    assert [metrics[f"seconds_{phase}"] for phase in ("sample", "score", "shape", "update")] == [1, 10, 100, 1000]
    assert metrics["seconds"] == 1111
