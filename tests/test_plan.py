"""`counterpoint plan`: what a recipe will take, against hand sums and a real policy."""

import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config

from counterpoint import flops
from counterpoint import plan as plan_module
from counterpoint.errors import ModelError
from counterpoint.plan import PROMPT_TOKENS, Plan, format_plan, gpu_memory, plan
from counterpoint.policy.tiny import learn_tokenizer, new_model
from counterpoint.recipe import DqoRecipe, DuetRecipe

DUET = {"questions": 4, "signals": 3, "answers": 2, "max_signal_tokens": 20, "max_answer_tokens": 5, "unaided_every": 2}
CONFIG = Qwen3Config(
    vocab_size=64, hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=8, tie_word_embeddings=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a configuration and no weights: none are read."""
    folder = tmp_path_factory.mktemp("model")
    CONFIG.save_pretrained(folder)
    return str(folder)


def recipe(model, capable=None, light=None, **sections):
    return DuetRecipe.model_validate(
        {"capable": {"model": model, **(capable or {})}, "light": {"model": model, **(light or {})}, "duet": DUET, **sections}
    )


def test_tokens_of_a_step(model):
    capable, light = plan(recipe(model)).models
    assert capable.sampled_tokens == 4 * 3 * 20
    # 24 aided answers, and 8 unaided ones every other step
    assert light.sampled_tokens == (24 + 4) * 5
    assert (capable.prompt_tokens, light.prompt_tokens) == (PROMPT_TOKENS, PROMPT_TOKENS + 20)


def test_unaided_answers_are_sampled_every_step_where_the_baseline_needs_them(model):
    light = plan(recipe(model, algorithm={"advantage": "reinforce_pp"})).models[1]
    assert light.sampled_tokens == (24 + 8) * 5


def test_flops_of_a_step(model):
    capable, light = plan(recipe(model)).models
    shape = flops.shape_of(CONFIG)
    assert capable.sampling_flops == 4 * flops.completion_flops(shape, PROMPT_TOKENS, 20, samples=3)
    assert capable.training_flops == 12 * flops.training_flops(shape, PROMPT_TOKENS, 20)
    aided = 12 * flops.completion_flops(shape, PROMPT_TOKENS + 20, 5, samples=2)
    assert light.sampling_flops == aided + 2 * flops.completion_flops(shape, PROMPT_TOKENS, 5, samples=2)
    assert light.training_flops == 24 * flops.training_flops(shape, PROMPT_TOKENS + 20, 5)


def test_memory_of_full_training(model):
    real = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(CONFIG).parameters())
    capable, light = plan(recipe(model, light={"dtype": "bfloat16"})).models
    assert capable.shape.parameters == capable.trained_parameters == real
    assert (capable.weights, capable.gradients, capable.optimizer) == (4 * real, 4 * real, 8 * real)
    assert (light.weights, light.gradients, light.optimizer) == (2 * real, 4 * real, 12 * real)
    assert capable.reference == light.reference == 0


def test_a_frozen_model_learns_nothing(model):
    light = plan(recipe(model, light={"train": False})).models[1]
    assert light.trained_parameters == light.optimizer == light.gradients == light.activations == light.training_flops == 0
    assert light.sampling_flops > 0


def test_a_kl_term_holds_a_second_copy(model):
    plain = plan(recipe(model)).models[0]
    held = plan(recipe(model, capable={"kl_coefficient": 0.001})).models[0]
    assert held.reference == held.weights
    read = flops.forward_flops(plain.shape, PROMPT_TOKENS + 20, logit_tokens=20)
    assert held.training_flops == plain.training_flops + 12 * read


def test_adapters_train_alone(model):
    pytest.importorskip("peft", reason="adapters are peft's, which is not installed")
    lora = {"lora": {"rank": 4, "targets": ["q_proj"]}, "dtype": "bfloat16", "kl_coefficient": 0.001}
    capable = plan(recipe(model, capable=lora)).models[0]
    adapters = 2 * 4 * (32 + 32)  # layers · rank · (inputs + outputs)
    assert capable.trained_parameters == adapters
    assert capable.weights == 2 * capable.shape.parameters + 4 * adapters
    assert (capable.gradients, capable.optimizer, capable.reference) == (4 * adapters, 8 * adapters, 0)


def test_the_cache_stays_within_its_budget(model):
    def cache(tokens):
        return plan(recipe(model, capable={"tokens_per_rollout": tokens})).models[0].cache

    prompt = 3 * (PROMPT_TOKENS + 20)  # a prompt with its samples
    per_token = 2 * flops.kv_cache_bytes(flops.shape_of(CONFIG), 1, "float32")
    assert cache(10**9) == 4 * prompt * per_token
    assert cache(2 * prompt + 1) == 2 * prompt * per_token
    assert cache(1) == prompt * per_token, "one prompt at least"


def test_activations_follow_the_micro_batch(model):
    def activations(tokens):
        return plan(recipe(model, capable={"tokens_per_microbatch": tokens})).models[0].activations

    sequence = PROMPT_TOKENS + 20
    assert activations(3 * sequence) > 2 * activations(sequence)
    assert activations(1) == activations(sequence)


def test_a_model_folder_as_transformers_writes_it(tmp_path):
    tokenizer = learn_tokenizer(["1 + 2 = 3"], 280)
    real = new_model(tokenizer, 16, 1, 2, 64, seed=0)
    real.save_pretrained(tmp_path)
    assert plan(recipe(str(tmp_path))).models[0].shape.parameters == sum(weight.numel() for weight in real.parameters())


def test_a_hub_name_needs_its_configuration_alone(monkeypatch):
    asked = []

    def from_hub(name, **settings):
        asked.append(name)
        return CONFIG

    monkeypatch.setattr(AutoConfig, "from_pretrained", from_hub)
    plan(recipe("owner/model"))
    assert asked == ["owner/model", "owner/model"]


def test_without_a_network_it_says_what_to_do(monkeypatch):
    def offline(name, **settings):
        raise OSError("we couldn't connect to the hub")

    monkeypatch.setattr(AutoConfig, "from_pretrained", offline)
    with pytest.raises(ModelError, match=r"configuration of owner/model: .*couldn't connect[\s\S]*give its directory"):
        plan(recipe("owner/model"))


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="nothing"):
        plan(recipe(str(tmp_path / "nothing")))


def test_one_model_works_at_a_time(model):
    capable, light = plan(recipe(model)).models
    passing = max(capable.cache, light.cache, capable.gradients + capable.activations, light.gradients + light.activations)
    assert Plan([capable, light], None).peak == capable.weights + capable.optimizer + light.weights + light.optimizer + passing


def test_the_verdict(model):
    made = plan(recipe(model))
    assert "no GPU here" in format_plan(dataclasses.replace(made, device_memory=None), width=200)
    assert "it fits." in format_plan(dataclasses.replace(made, device_memory=2**40), width=200)
    small = format_plan(dataclasses.replace(made, device_memory=2**10), width=400)
    assert "does not fit. Lower tokens_per_rollout" in small
    assert "computed again in the backward pass" in small


def test_the_memory_of_a_gpu_counts_where_the_run_is_on_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_memory(["auto", "auto"]) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(plan_module, "pick_device", lambda name: torch.device("cuda" if name == "auto" else name))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Properties", (), {"total_memory": 80})())
    assert gpu_memory(["cpu", "cpu"]) is None
    assert gpu_memory(["cpu", "auto"]) == 80


def test_the_page(model):
    page = format_plan(plan(recipe(model, light={"train": False})), width=100)
    for part in (
        "capable",
        "light",
        "trained",
        "cache, one sampling batch",
        "FLOPs of a step",
        f"Assumed: a question takes {PROMPT_TOKENS}",
    ):
        assert part in page
    assert max(map(len, page.splitlines())) <= 100


def test_a_step_of_dqo(model):
    """Five questions with four responses of twelve tokens each."""
    values = {"policy": {"model": model}, "dqo": {"questions": 5, "samples": 4, "max_tokens": 12}}
    its_plan = plan(DqoRecipe.model_validate(values))
    [policy] = its_plan.models
    shape = flops.shape_of(CONFIG)
    assert (policy.role, policy.sampled_tokens, policy.prompt_tokens) == ("policy", 5 * 4 * 12, PROMPT_TOKENS)
    assert policy.sampling_flops == 5 * flops.completion_flops(shape, PROMPT_TOKENS, 12, samples=4)
    assert policy.training_flops == 20 * flops.training_flops(shape, PROMPT_TOKENS, 12)
    assert "Peak memory: " in format_plan(its_plan, width=100)


def test_a_critic_reads_what_the_policy_writes(model):
    values = {"policy": {"model": model}, "dqo": {"questions": 5, "samples": 4, "max_tokens": 12}, "critic": {}}
    policy, critic = plan(DqoRecipe.model_validate(values)).models
    assert (critic.role, critic.sampled_tokens, critic.cache) == ("critic", 0, 0)
    assert critic.resident == policy.resident
    assert critic.training_flops == policy.training_flops
    assert critic.sampling_flops == 20 * flops.forward_flops(flops.shape_of(CONFIG), PROMPT_TOKENS + 12, logit_tokens=0)


def test_what_vllm_takes_is_not_there_for_the_rest(model):
    capable = {"sampler": "vllm", "vllm_memory": 0.25}
    plain, made = plan(recipe(model)), plan(recipe(model, capable=capable, light=capable))
    assert [one.cache for one in made.models] == [0, 0]
    assert all(one.cache for one in plain.models)
    assert made.vllm_share == 0.5
    just = dataclasses.replace(made, device_memory=2 * made.peak)
    assert just.fits
    assert "less 50% for vLLM: it fits." in format_plan(just, width=200)
    assert not dataclasses.replace(made, device_memory=2 * made.peak - 2).fits


def test_a_share_that_cannot_hold_the_weights_does_not_fit(model):
    made = plan(recipe(model, capable={"sampler": "vllm", "vllm_memory": 0.001}))
    large = dataclasses.replace(made, device_memory=999 * made.models[0].weights)
    assert large.peak < (1 - large.vllm_share) * 999 * made.models[0].weights
    assert not large.fits
    assert "too small for the weights of capable; raise its vllm_memory" in format_plan(large, width=400)
    assert dataclasses.replace(made, device_memory=1001 * made.models[0].weights).fits


def test_a_critic_takes_no_share_of_vllms(model):
    values = {"policy": {"model": model, "sampler": "vllm"}, "critic": {}}
    assert plan(DqoRecipe.model_validate(values)).vllm_share == 0.3
