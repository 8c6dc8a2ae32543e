"""That it learns what it is for, on a task that takes seconds."""

from statistics import median

import pytest

from fakes import FakePolicy
from pairs import learner, recipe_in, tiny_policy, tokenizer, toy_task, trained


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_signal_shrinks_to_what_the_light_model_needs(tmp_path, seed):
    """m is right if the signal says anything at all; so M learns to say little, and not nothing."""

    def answer(prompt, i):
        signal = tokenizer().decode(list(prompt)).partition("<think>\n")[2].partition("\n</think>")[0]
        return "right" if signal.strip() else "wrong"

    recipe = recipe_in(
        tmp_path,
        run={"seed": seed, "steps": 60, "checkpoint_every": 100, "sample_every": 100},
        capable={"learning_rate": 2e-2},
        light={"train": False},
        duet={"questions": 6, "signals": 12, "answers": 1, "max_signal_tokens": 12, "max_answer_tokens": 8, "length_scale": 12},
        control={"kind": "constant", "value": 0.5},
    )
    pair = learner(tiny_policy(seed), recipe.capable), learner(FakePolicy(answer), recipe.light)
    task = toy_task(lambda questions, responses: [float(response == "right") for response in responses])
    _, metrics, _ = trained(recipe, pair, task)
    first, last = metrics[:3], metrics[-20:]
    assert min(record["signal_tokens"] for record in first) > 8
    assert median(record["signal_tokens"] for record in last) < 4
    assert median(record["aided_accuracy"] for record in last) > 0.8
