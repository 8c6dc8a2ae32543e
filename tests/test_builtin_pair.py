"""The models that ship with the package: what they say they are, and good for what the quickstart needs."""

import hashlib
import re

import pytest
from transformers import AutoModelForCausalLM

from counterpoint import jobs
from counterpoint.config_files import load_recipe
from counterpoint.dqo.embed import load_embedder
from counterpoint.evaluate.baselines import capable_alone, light_alone, pair, responder
from counterpoint.evaluate.results import Measures
from counterpoint.evaluate.run import evaluate_systems
from counterpoint.policy.load import PACKAGED


@pytest.mark.parametrize("role", ["capable", "light", "policy"])
def test_the_weights_have_the_published_digest(role):
    digest = hashlib.sha256((PACKAGED / role / "model.safetensors").read_bytes()).hexdigest()
    assert re.search(rf"{digest}  {role}\b", (PACKAGED / "README.md").read_text())


@pytest.mark.parametrize(("role", "parameters"), [("capable", 1_049_520), ("light", 126_784), ("policy", 392_112)])
def test_transformers_loads_them_without_this_package(role, parameters):
    model = AutoModelForCausalLM.from_pretrained(PACKAGED / role)
    assert model.num_parameters() == parameters


def test_they_are_a_few_megabytes():
    assert sum(file.stat().st_size for file in PACKAGED.rglob("*") if file.is_file()) < 8 * 2**20


def test_alone_the_capable_model_is_right_the_light_one_is_not_and_together_they_are():
    recipe = load_recipe("quickstart-duet", ["evaluation.questions=100", "evaluation.samples=1", "evaluation.pass_at=[1]"])
    task = jobs.task_of(recipe)
    capable, light = (jobs.speaker_of(config, task.instruction) for config in (recipe.capable, recipe.light))
    systems = {"M alone": capable_alone(capable), "m alone": light_alone(light), "pair": pair(capable, light)}
    accuracy = {name: result.accuracy.value for name, result in evaluate_systems(systems, task, recipe).systems.items()}
    assert accuracy["M alone"] > 0.93
    assert accuracy["m alone"] < 0.2
    assert accuracy["pair"] > 0.93


def test_the_policy_is_right_in_many_ways_and_not_always():
    """GRPO has something to gain, and something to lose."""
    recipe = load_recipe("quickstart-dqo", ["evaluation.questions=100"])
    task = jobs.task_of(recipe)
    systems = {"start": responder(jobs.speaker_of(recipe.policy, task.instruction))}
    measures = Measures(embedder=load_embedder("ngrams"))
    result = evaluate_systems(systems, task, recipe, measures=measures).systems["start"]
    assert 0.6 < result.accuracy.value < 0.75
    assert result.diversity["different_correct"].value > 5
