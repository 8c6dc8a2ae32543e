"""What is said where vLLM cannot sample, by a stand-in that fails as vLLM does. What it samples: engines/test_vllm_sampler.py."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
from pydantic import ValidationError

import tiny_models
from counterpoint.config import AlgorithmConfig, ModelConfig
from counterpoint.errors import ModelError
from counterpoint.evaluate.command import measured
from counterpoint.policy.load import load_policy
from counterpoint.policy.rollout import TransformersSampler
from counterpoint.rl.learn import corrected
from counterpoint.rl.types import SamplingParams
from pairs import recipe_in
from single import dqo_recipe_in

PROMPT = (20, 21, 22)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    tiny_models.model().save_pretrained(directory)
    tiny_models.tokenizer().save_pretrained(directory)
    return directory


class Engine:
    """Starts, and holds 64 tokens."""

    def __init__(self, *args, **options):
        self.model_config = SimpleNamespace(max_model_len=64)

    def collective_rpc(self, method, kwargs):
        raise KeyError("layers.0.strange.weight")


@pytest.fixture
def vllm(monkeypatch):
    """The package, for a CPU."""
    package = ModuleType("vllm")
    package.LLM = Engine
    package.platforms = SimpleNamespace(current_platform=SimpleNamespace(device_type="cpu"))
    for name in ("vllm", "vllm.platforms", "vllm.sampling_params"):
        monkeypatch.setitem(sys.modules, name, package)
    return package


def loaded(saved, **options):
    return load_policy(ModelConfig(model=str(saved), device="cpu", sampler="vllm", **options))


def test_without_vllm_the_error_says_how_to_install_it_and_what_else_to_do(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match=r'pip install "counterpoint\[vllm\]".* or set sampler = "transformers"'):
        loaded(saved)


def test_a_start_that_fails_names_the_model_and_the_memory(saved, vllm):
    def fails(*args, **options):
        raise ValueError("Free memory on device cuda:0 is less than desired GPU memory utilization (0.4)")

    vllm.LLM = fails
    with pytest.raises(ModelError, match=r"vLLM cannot start with .*tiny on cpu: Free memory") as raised:
        loaded(saved, vllm_memory=0.4)
    assert "set vllm_memory (it is 0.4 of the device's)" in str(raised.value)


def test_a_model_on_another_device_than_vllms_is_an_error(saved, vllm):
    vllm.platforms.current_platform.device_type = "cuda"
    with pytest.raises(ModelError, match=r"vLLM samples on the first cuda, and .*tiny is on cpu"):
        loaded(saved)


def test_weights_that_vllm_does_not_take_are_an_error(saved, vllm):
    policy = loaded(saved)
    with pytest.raises(ModelError, match=r"vLLM cannot take the weights with .*tiny on cpu: .*layers\.0\.strange\.weight"):
        policy.sample([PROMPT], 1, SamplingParams(4), seed=0)


@pytest.mark.parametrize(
    ("params", "on_tokens", "message"),
    [
        (SamplingParams(4), lambda *heard: None, "does not report tokens as they are drawn; leave on_tokens out"),
        (SamplingParams(4, entropies=True), None, r"cannot say entropies; use another diversity\.shaper than entropy"),
        (SamplingParams(62), None, r"are 65 tokens, and the memory that vLLM has \(0\.3 .*holds 64; raise vllm_memory"),
    ],
)
def test_what_it_cannot_do_is_an_error_that_says_what_to_do(saved, vllm, params, on_tokens, message):
    with pytest.raises(ModelError, match=message):
        loaded(saved).sample([PROMPT], 1, params, 0, on_tokens)


@pytest.mark.parametrize("make", [dqo_recipe_in, recipe_in])
def test_the_entropy_shaper_does_not_go_with_it(tmp_path, make):
    role = "policy" if make is dqo_recipe_in else "capable"
    with pytest.raises(ValidationError, match="entropy at each token, which vLLM does not say; set sampler = 'transformers'"):
        make(tmp_path, diversity={"shaper": "entropy"}, **{role: {"sampler": "vllm"}})


def test_two_shares_of_a_gpu_leave_some_of_it(tmp_path):
    models = {role: {"sampler": "vllm", "vllm_memory": 0.5} for role in ("capable", "light")}
    with pytest.raises(ValidationError, match=r"are 0\.5 and 0\.5, shares of one GPU .* lower them until their sum"):
        recipe_in(tmp_path, **models)
    recipe_in(tmp_path, **models | {"light": {"vllm_memory": 0.5}})


def test_what_it_samples_is_weighted_unless_the_recipe_says_how():
    algorithm = AlgorithmConfig()
    by_vllm, by_transformers = (ModelConfig(model="none", sampler=sampler) for sampler in ("vllm", "transformers"))
    assert corrected(algorithm, by_vllm).max_importance_weight == 2
    assert corrected(algorithm, by_transformers).max_importance_weight is None
    chosen = AlgorithmConfig(max_importance_weight=5)
    assert corrected(chosen, by_vllm).max_importance_weight == corrected(chosen, by_transformers).max_importance_weight == 5


def test_the_reference_of_a_policy_samples_with_transformers(saved, vllm):
    policy = loaded(saved, lora={"rank": 2, "alpha": 4})
    assert isinstance(policy.reference().sampler, TransformersSampler)
    assert not isinstance(policy.sampler, TransformersSampler)


def test_a_model_that_is_measured_is_sampled_by_transformers():
    config = measured(ModelConfig(model="none", sampler="vllm"))
    assert (config.sampler, config.train) == ("transformers", False)


def test_nothing_imports_vllm_until_it_samples():
    script = "import sys, counterpoint.jobs; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_completion_that_was_broken_off_is_not_learned_from(saved, vllm):
    drawn = SimpleNamespace(token_ids=(5,), finish_reason="abort", stop_reason=None, logprobs=SimpleNamespace(logprobs=(-1.0,)))
    with pytest.raises(ModelError, match=r"ended a completion of .*tiny for another reason than its end: abort"):
        loaded(saved).sampler._completion(PROMPT, drawn, SamplingParams(4))
