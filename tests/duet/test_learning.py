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
        run={"seed": seed, "steps": 70, "checkpoint_every": 100, "sample_every": 100},
        capable={"learning_rate": 1e-2},
        light={"train": False},
        duet={"questions": 6, "signals": 12, "answers": 1, "max_signal_tokens": 12, "max_answer_tokens": 8, "length_scale": 12},
        control={"kind": "constant", "value": 0.3},
    )
    pair = learner(tiny_policy(seed), recipe.capable), learner(FakePolicy(answer), recipe.light)
    task = toy_task(lambda questions, responses: [float(response == "right") for response in responses])
    # in the end all signals are alike, and the warning that nothing is learned any more is right
    _, metrics, _ = trained(recipe, pair, task, warn=lambda message: None)
    first, last = metrics[:3], metrics[-20:]
    assert min(record["signal_tokens"] for record in first) > 8
    # seeds 0 to 5 on one thread and on two end at 2.0 to 2.6 tokens, and at 98 % or more
    assert median(record["signal_tokens"] for record in last) < 4
    assert median(record["aided_accuracy"] for record in last) > 0.9
