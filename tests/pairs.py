"""A pair small enough to train within a test, a task that any text can be graded on, and a recipe for both."""

from functools import cache

import pytest
import torch

from counterpoint.duet.train import train
from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.prompting import Renderer, Speaker
from counterpoint.policy.tiny import learn_tokenizer, new_model
from counterpoint.recipe import DuetRecipe
from counterpoint.rl.learn import Learner
from counterpoint.rl.types import Question
from counterpoint.run import Run, read_metrics
from counterpoint.tasks.base import Task

QUESTIONS = tuple(Question(f"q{i}", f"{i}+{i + 1}", str(2 * i + 1), trace=f"{i}+{i + 1}={2 * i + 1}\n") for i in range(6))

TEST_QUESTIONS = tuple(Question(f"t{i}", f"{i}+{i + 3}", str(2 * i + 3)) for i in range(12))


@cache
def tokenizer():
    return learn_tokenizer(f"{q.text} {q.trace} the answer is {q.answer}" for q in QUESTIONS)


def tiny_policy(seed=0, hidden_size=16, context_length=96):
    model = new_model(tokenizer(), hidden_size, layers=1, heads=2, context_length=context_length, seed=seed)
    return LocalPolicy(model, tokenizer())


def grade_by_bytes(questions, responses):
    """Some reward between 0 and 1 that depends on every byte, so that random models get a spread of them."""
    return [sum(response.encode()) % 7 / 6 for response in responses]


def grade_one_by_bytes(question, response):
    """The same, as a recipe names it: pairs:grade_one_by_bytes."""
    return grade_by_bytes([question], [response])[0]


def toy_task(grade=grade_by_bytes, questions=QUESTIONS, test=()):
    return Task("toy", questions, test, grade)


def recipe_in(directory, **sections):
    """A recipe whose steps take milliseconds; a section given is laid over it."""
    values = {
        "run": {"name": "trial", "directory": str(directory), "steps": 3, "checkpoint_every": 2, "sample_every": 1},
        "capable": {"model": "none", "learning_rate": 1e-2, "device": "cpu"},
        "light": {"model": "none", "learning_rate": 1e-2, "device": "cpu"},
        "duet": {
            "questions": 2,
            "signals": 3,
            "answers": 2,
            "max_signal_tokens": 12,
            "max_answer_tokens": 8,
            "length_scale": 12,
        },
        "control": {"kind": "length_target", "rate": 0.1},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return DuetRecipe.model_validate(values)


def learner(policy, config, context_length=96):
    speaker = Speaker(policy, Renderer(tokenizer(), context_length))
    held = config.train and config.kl_coefficient > 0
    return Learner(speaker, config, policy.reference() if held else None)


def tiny_pair(recipe, seed=0):
    """(capable, light) with random weights."""
    return learner(tiny_policy(seed), recipe.capable), learner(tiny_policy(seed + 1), recipe.light)


def weights_of(learner):
    return {name: weight.detach().clone() for name, weight in learner.speaker.policy.model.state_dict().items()}


def trained(recipe, pair=None, task=None, observe=lambda step, metrics, samples: None, warn=pytest.fail, run=None, **options):
    """(pair, metrics without times, final state) of a run from where it stands to its end."""
    pair = pair or tiny_pair(recipe)
    with run or Run.create(recipe, "duet") as run:
        state = train(run, *pair, task or toy_task(), observe, warn, **options)
    return pair, without_times(read_metrics(run.directory)), state


def without_times(records):
    def is_time(name):
        return name == "time" or name.startswith("seconds")

    return [{name: value for name, value in record.items() if not is_time(name)} for record in records]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights_of(one).values(), weights_of(other).values(), strict=True))
