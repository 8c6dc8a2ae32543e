"""The pair that ships with the package: what it says it is, and good for what the quickstart needs."""

import hashlib
import re

import pytest
from transformers import AutoModelForCausalLM

from counterpoint import jobs
from counterpoint.config import load_recipe
from counterpoint.evaluate.baselines import capable_alone, light_alone, pair
from counterpoint.evaluate.run import evaluate_systems
from counterpoint.policy.load import PACKAGED


@pytest.mark.parametrize("role", ["capable", "light"])
def test_the_weights_have_the_published_digest(role):
    digest = hashlib.sha256((PACKAGED / role / "model.safetensors").read_bytes()).hexdigest()
    assert re.search(rf"{digest}  {role}\b", (PACKAGED / "README.md").read_text())


@pytest.mark.parametrize(("role", "parameters"), [("capable", 1_049_520), ("light", 126_784)])
def test_transformers_loads_them_without_this_package(role, parameters):
    model = AutoModelForCausalLM.from_pretrained(PACKAGED / role)
    assert model.num_parameters() == parameters


def test_the_pair_is_a_few_megabytes():
    assert sum(file.stat().st_size for file in PACKAGED.rglob("*") if file.is_file()) < 6 * 2**20


def test_alone_the_capable_model_is_right_the_light_one_is_not_and_together_they_are():
    recipe = load_recipe("quickstart-duet", ["evaluation.questions=100", "evaluation.samples=1", "evaluation.pass_at=[1]"])
    task = jobs.task_of(recipe)
    capable, light = (jobs.speaker_of(config, task.instruction) for config in (recipe.capable, recipe.light))
    systems = {"M alone": capable_alone(capable), "m alone": light_alone(light), "pair": pair(capable, light)}
    accuracy = {name: result.accuracy.value for name, result in evaluate_systems(systems, task, recipe).systems.items()}
    assert accuracy["M alone"] > 0.93
    assert accuracy["m alone"] < 0.2
    assert accuracy["pair"] > 0.93
