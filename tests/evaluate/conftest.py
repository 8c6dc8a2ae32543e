"""A pair of tiny random models that remember what they were asked, and a task whose grades vary."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from counterpoint.config_files import validate
from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.prompting import Renderer, Speaker
from counterpoint.policy.tiny import learn_tokenizer, new_model
from counterpoint.recipe import DuetRecipe
from counterpoint.rl.types import Completion, Question, SamplingParams
from counterpoint.tasks.base import Task

TEXTS = ["12+34", "what is 5 plus 6?", "start with 12.\nthe answer is 46"]


class Recorder(LocalPolicy):
    """A local policy that remembers its completions and how they were asked for."""

    def sample(self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seed: int) -> list[list[Completion]]:
        completions = super().sample(prompts, n, params, seed)
        self.calls.append((params, seed, [completion for group in completions for completion in group]))
        return completions


def speaker(seed: int, hidden_size: int) -> Speaker:
    tokenizer = learn_tokenizer(TEXTS)
    policy = Recorder(new_model(tokenizer, hidden_size, layers=1, heads=2, context_length=96, seed=seed), tokenizer)
    policy.calls = []
    return Speaker(policy, Renderer(tokenizer, policy.context_length))


@pytest.fixture(scope="session")
def models() -> dict[str, Speaker]:
    return {"M": speaker(0, 16), "m": speaker(1, 8), "trained M": speaker(2, 16), "trained m": speaker(3, 8)}


@pytest.fixture(autouse=True)
def forget(models):
    for model in models.values():
        model.policy.calls.clear()


@pytest.fixture
def capable(models) -> Speaker:
    return models["M"]


@pytest.fixture
def light(models) -> Speaker:
    return models["m"]


@pytest.fixture(scope="session")
def recipe_with() -> Callable[..., DuetRecipe]:
    """A recipe whose section `evaluation` is changed by keyword."""

    def make(**evaluation: Any) -> DuetRecipe:
        settings = {"questions": 5, "samples": 3, "pass_at": [1, 3], "batch": 2, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
        values = {
            "capable": {"model": "tiny"},
            "light": {"model": "tiny"},
            "duet": {"max_signal_tokens": 9, "max_answer_tokens": 4},
            "evaluation": settings | evaluation,
        }
        return validate(values, "test")

    return make


@pytest.fixture
def recipe(recipe_with) -> DuetRecipe:
    return recipe_with()


@pytest.fixture
def task() -> Task:
    """Six questions of different lengths. Half of all responses are right."""
    questions = [Question(id=f"q{i}", text="1" * (i + 1), answer="") for i in range(6)]
    return Task("parity", [], questions, lambda _, responses: [float(len(response) % 2) for response in responses])
