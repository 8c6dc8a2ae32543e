"""vLLM as the sampler of training, the real one on a CPU. In .venv-vllm; see the Makefile."""

import gc
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import tiny_models
from counterpoint import jobs
from counterpoint.config import ModelConfig
from counterpoint.errors import ModelError
from counterpoint.policy.load import load_policy
from counterpoint.policy.rollout import TransformersSampler
from counterpoint.policy.vllm import VllmSampler, import_vllm
from counterpoint.rl.data import make_data
from counterpoint.rl.losses import LossSpec
from counterpoint.rl.types import Datum, SamplingParams
from counterpoint.run import Run, read_metrics
from pairs import QUESTIONS, learner, recipe_in, tiny_policy, toy_task
from single import dqo_recipe_in, trained_dqo

pytestmark = pytest.mark.vllm
SHAPE = {"hidden_size": 64, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
"""The smallest that vLLM has attention for on a CPU."""
TEXT = "Add three and four. The sum of all is the answer. "
PROMPTS = [tuple(tiny_models.tokenizer().encode(text)) for text in (TEXT, "the answer", TEXT * 12)]
"""The last is longer than a block of vLLM's cache."""
SAMPLED = SamplingParams(12, temperature=0.7)
GREEDY = SamplingParams(12, temperature=0)


def saved(directory, kind="llama", seed=0, **options):
    """A directory with a small model."""
    tiny_models.model(kind, seed, **(SHAPE | options)).save_pretrained(directory)
    tiny_models.tokenizer().save_pretrained(directory)
    return str(directory)


def loaded(directory, **options):
    return load_policy(ModelConfig(**({"model": str(directory), "device": "cpu", "sampler": "vllm"} | options)))


@pytest.fixture(autouse=True, scope="module")
def small_caches():
    """A share of the memory is gigabytes, and this file starts many engines."""
    vllm = import_vllm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm, "LLM", partial(vllm.LLM, kv_cache_memory_bytes=1 << 26))
        yield


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """One for the tests that leave its weights as they are."""
    return loaded(saved(tmp_path_factory.mktemp("model")))


def transformers_of(policy):
    return TransformersSampler(policy.model, policy.tokenizer, 100_000)


def flat(groups):
    return [completion for group in groups for completion in group]


def tokens_of(groups):
    return [completion.tokens for completion in flat(groups)]


def assert_logprobs_are_the_policys(policy, groups, temperature, tolerance=1e-3):
    completions = flat(groups)
    expected = policy.logprobs(make_data(completions, [0.0] * len(completions)), temperature)
    for completion, numbers in zip(completions, expected, strict=True):
        torch.testing.assert_close(torch.tensor(completion.logprobs), torch.tensor(numbers), atol=tolerance, rtol=0)


def update(policy, learning_rate=3e-2):
    """A step that changes what is likely."""
    return policy.update([Datum(PROMPTS[0], (40, 50, 60), (1.0,) * 3)], LossSpec("importance_sampling"), learning_rate)


def test_greedy_samples_are_those_of_transformers(policy):
    expected = transformers_of(policy).sample(PROMPTS, 2, GREEDY, seed=0)
    found = policy.sample(PROMPTS, 2, GREEDY, seed=0)
    assert tokens_of(found) == tokens_of(expected)
    assert [c.text for c in flat(found)] == [c.text for c in flat(expected)]
    assert [[c.prompt for c in group] for group in found] == [[prompt] * 2 for prompt in PROMPTS]
    assert_logprobs_are_the_policys(policy, found, 1.0)


def test_log_probabilities_are_the_policys_at_the_temperature(policy):
    assert_logprobs_are_the_policys(policy, policy.sample(PROMPTS, 3, SAMPLED, seed=0), 0.7)


@pytest.mark.parametrize("truncated", [{"top_k": 2}, {"top_p": 0.5}, {"top_k": 20, "top_p": 0.8}])
def test_log_probabilities_are_those_of_the_whole_distribution(policy, truncated):
    params = SamplingParams(12, temperature=0.9, **truncated)
    found = policy.sample(PROMPTS, 3, params, seed=0)
    assert_logprobs_are_the_policys(policy, found, 0.9)
    assert tokens_of(found) != tokens_of(policy.sample(PROMPTS, 3, SamplingParams(12, temperature=0.9), seed=0))


def test_the_likeliest_token_is_all_that_top_k_of_one_leaves(policy):
    found = policy.sample(PROMPTS, 1, SamplingParams(12, top_k=1), seed=0)
    assert tokens_of(found) == tokens_of(policy.sample(PROMPTS, 1, GREEDY, seed=1))


def test_samples_are_distributed_as_the_policy_says(policy):
    draws = tokens_of(policy.sample([PROMPTS[0]], 4000, SamplingParams(1), seed=3))
    counts = torch.bincount(torch.tensor(draws).flatten(), minlength=len(policy.tokenizer)) / len(draws)
    every = [Datum(PROMPTS[0], (token,), (0.0,)) for token in range(len(policy.tokenizer))]
    expected = torch.tensor(policy.logprobs(every)).flatten().exp()
    assert (counts - expected).abs().sum() < 0.15  # 0.09 to 0.12 for samples of it, 1 and more for others


def test_equal_seeds_give_equal_completions_and_others_differ(policy):
    one, again, other = (policy.sample(PROMPTS, 4, SAMPLED, seed) for seed in (5, 5, 6))
    assert one == again
    assert tokens_of(one) != tokens_of(other)
    assert len(set(tokens_of(one))) == 12


def test_equal_prompts_of_a_call_get_samples_of_their_own(policy):
    assert len(set(tokens_of(policy.sample([PROMPTS[0]] * 3, 2, SAMPLED, seed=0)))) == 6


def test_the_processs_own_random_numbers_are_left_alone(tmp_path):
    drawn = []
    for sampler in ("transformers", "vllm"):
        torch.manual_seed(4)
        loaded(saved(tmp_path), sampler=sampler)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_a_completion_ends_at_a_stop_string_which_is_cut_from_its_text(policy):
    plain = policy.sample(PROMPTS, 4, SAMPLED, seed=0)
    found = policy.sample(PROMPTS, 4, SamplingParams(12, temperature=0.7, stop=("e", "th")), seed=0)
    expected = []
    for completion in flat(plain):
        texts = [policy.decode(completion.tokens[:end]) for end in range(1, len(completion.tokens) + 1)]
        ends = [end for end, text in enumerate(texts, 1) if "e" in text or "th" in text]
        expected.append(completion.tokens[: ends[0]] if ends else completion.tokens)
    assert tokens_of(found) == expected
    assert {c.stop for c in flat(found)} > {"stop"}
    for completion in flat(found):
        assert len(completion.logprobs) == len(completion.tokens)
        whole = policy.decode(completion.tokens)
        assert (completion.stop == "stop") == ("e" in whole or "th" in whole)
        assert "e" not in completion.text
        assert "th" not in completion.text


def test_a_completion_ends_at_an_end_token_which_it_keeps(tmp_path):
    policy = loaded(saved(tmp_path))
    end = policy.tokenizer.convert_tokens_to_ids(tiny_models.END)
    for _ in range(12):
        policy.update([Datum(PROMPTS[0], (40, end), (1.0,) * 2)], LossSpec("importance_sampling"), 1e-2)
    [[found]] = policy.sample(PROMPTS[:1], 1, SamplingParams(12, temperature=0), seed=0)
    assert (found.tokens[-1], found.stop) == (end, "end")
    assert tiny_models.END not in found.text
    assert tokens_of(transformers_of(policy).sample(PROMPTS[:1], 1, GREEDY, seed=0)) == [found.tokens]


def test_what_a_group_shares_is_computed_once(policy, monkeypatch):
    cached = []
    generate = policy.sampler._llm.generate

    def heard(*args, **options):
        outputs = generate(*args, **options)
        cached.extend(output.num_cached_tokens for output in outputs)
        return outputs

    monkeypatch.setattr(policy.sampler._llm, "generate", heard)
    for _ in range(2):
        policy.sample([PROMPTS[2]], 2, SAMPLED, seed=0)
    assert cached[-1] > len(PROMPTS[2]) / 2


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_after_an_update_the_new_weights_are_sampled_from(tmp_path, kind, tied):
    policy = loaded(saved(tmp_path, kind, tie_word_embeddings=tied))
    before = policy.sample(PROMPTS, 2, GREEDY, seed=0)
    update(policy)
    after = policy.sample(PROMPTS, 2, GREEDY, seed=0)
    assert tokens_of(after) != tokens_of(before)
    assert tokens_of(after) == tokens_of(transformers_of(policy).sample(PROMPTS, 2, GREEDY, seed=0))
    assert_logprobs_are_the_policys(policy, after, 1.0)


def test_weights_are_not_sent_again_while_they_stay(tmp_path, monkeypatch):
    policy = loaded(saved(tmp_path))
    sent = []
    call = policy.sampler._llm.collective_rpc
    monkeypatch.setattr(policy.sampler._llm, "collective_rpc", lambda *args, **options: sent.append(1) or call(*args, **options))
    for _ in range(3):
        policy.sample(PROMPTS[:1], 1, SAMPLED, seed=0)
    assert len(sent) == 1
    update(policy)
    policy.sample(PROMPTS[:1], 1, SAMPLED, seed=0)
    assert len(sent) == 2


def test_what_is_loaded_is_sampled_from(tmp_path):
    policy, other = loaded(saved(tmp_path / "one")), loaded(saved(tmp_path / "other", seed=1))
    other.save(tmp_path / "checkpoint")
    expected = other.sample(PROMPTS, 2, SAMPLED, seed=0)
    assert policy.sample(PROMPTS, 2, SAMPLED, seed=0) != expected
    policy.load(tmp_path / "checkpoint")
    assert policy.sample(PROMPTS, 2, SAMPLED, seed=0) == expected


def test_bfloat16_is_near_the_policy(tmp_path):
    policy = loaded(saved(tmp_path), dtype="bfloat16")
    update(policy)
    assert_logprobs_are_the_policys(policy, policy.sample(PROMPTS, 3, SAMPLED, seed=0), 0.7, tolerance=0.2)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_adapters_are_sampled_with_and_the_reference_without_them(tmp_path, tied):
    pytest.importorskip("peft")
    policy = loaded(saved(tmp_path, tie_word_embeddings=tied), lora={"rank": 4, "alpha": 16})
    reference = policy.reference()
    start = policy.sample(PROMPTS, 2, GREEDY, seed=0)
    base = {name: weight.clone() for name, weight in policy.model.named_parameters() if "lora" not in name}
    for _ in range(3):
        update(policy)
    after = policy.sample(PROMPTS, 2, GREEDY, seed=0)
    assert tokens_of(after) != tokens_of(start)
    assert_logprobs_are_the_policys(policy, after, 1.0)
    assert tokens_of(reference.sample(PROMPTS, 2, GREEDY, seed=0)) == tokens_of(start)
    assert all(torch.equal(weight, base[name]) for name, weight in policy.model.named_parameters() if name in base)


def test_a_model_that_vllm_computes_differently_is_refused(tmp_path):
    policy = loaded(saved(tmp_path))
    policy.model.lm_head.register_forward_hook(lambda module, inputs, output: output.flip(-1))
    policy._head_is_plain = False
    with pytest.raises(ModelError, match=r"vLLM computes something else .* nats a token; set sampler = \"transformers\""):
        policy.sample(PROMPTS, 1, SAMPLED, seed=0)


def test_a_model_that_vllm_cannot_run_is_named_with_what_to_do(tmp_path):
    policy = loaded(saved(tmp_path, hidden_size=32, head_dim=8, num_attention_heads=4))
    with pytest.raises(ModelError, match=rf"vLLM cannot sample with {tmp_path} on cpu: .*head_dim=8[\s\S]*set sampler"):
        policy.sample(PROMPTS, 1, SAMPLED, seed=0)


def test_memory_that_is_not_there_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(import_vllm(), "LLM", import_vllm().LLM.func)
    with pytest.raises(ModelError, match=r"vLLM cannot start with .* on cpu: .*\n.*set vllm_memory \(it is 0\.0001 of the"):
        loaded(saved(tmp_path), vllm_memory=0.0001)


def test_a_policy_samples_on_when_another_is_gone(policy, tmp_path):
    expected = policy.sample(PROMPTS, 1, SAMPLED, seed=0)
    other = loaded(saved(tmp_path))
    other.sample(PROMPTS, 1, SAMPLED, seed=0)
    gc.unfreeze()  # vLLM exempts what there is from collection when it starts
    del other
    gc.collect()
    assert policy.sample(PROMPTS, 1, SAMPLED, seed=0) == expected


def letters(questions, responses):
    return [float(response[:1] in "abcdefgh") for response in responses]


def dqo_learner(recipe, sampler):
    """The learner of a recipe over one small model, whatever samples from it."""
    policy = tiny_policy(hidden_size=64)
    if sampler == "vllm":
        policy.sampler = VllmSampler(policy, 0.1)
    return learner(policy, recipe.policy.model_copy(update={"sampler": sampler}))


def test_a_training_learns_as_it_does_with_transformers(tmp_path):
    rewards = {}
    for sampler in ("transformers", "vllm"):
        recipe = dqo_recipe_in(
            tmp_path / sampler,
            run={"steps": 12, "checkpoint_every": 100},
            dqo={"questions": len(QUESTIONS), "samples": 16, "max_tokens": 1},
            diversity={"shaper": "none"},
            policy={"learning_rate": 1e-2},
        )
        task = toy_task(letters)
        _, metrics, _ = trained_dqo(recipe, dqo_learner(recipe, sampler), task=task, warn=lambda message: None)
        rewards[sampler] = [record["reward"] for record in metrics]
        assert ("truncated_share" in metrics[0]) == (sampler == "vllm")
        assert rewards[sampler][-1] > 0.9
    assert rewards["vllm"][0] < 0.3
    differences = torch.tensor(rewards["vllm"]) - torch.tensor(rewards["transformers"])
    assert differences.abs().mean() < 0.1


class Stopped(Exception):
    """The end of a run that a test brings about."""


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    def recipe(name):
        return dqo_recipe_in(tmp_path / name, run={"steps": 4})

    def stop(step, metrics, samples):
        if step == 3:
            raise Stopped

    whole = recipe("whole")
    _, expected, _ = trained_dqo(whole, dqo_learner(whole, "vllm"))
    broken = recipe("broken")
    with pytest.raises(Stopped):
        trained_dqo(broken, dqo_learner(broken, "vllm"), observe=stop)
    resumed = Run.open(tmp_path / "broken" / "trial")
    _, found, _ = trained_dqo(broken, dqo_learner(broken, "vllm"), run=resumed)
    assert [record["step"] for record in found] == [1, 2, 3, 4]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def silent(title, steps, first):
    return nullcontext(SimpleNamespace(update=lambda step, metrics, signal=None: None, warn=lambda message: None))


def test_recipes_train_by_it_both_models_of_a_pair_too(tmp_path):
    rows = "\n".join(f'{{"question": "{q.text}", "answer": "{q.answer}"}}' for q in QUESTIONS)
    (tmp_path / "rows.jsonl").write_text(rows)
    task = {"name": f"jsonl:{tmp_path}/rows.jsonl", "grader": "pairs:grade_one_by_bytes", "test_limit": 2}
    for seed, role in enumerate(("capable", "light")):
        (tmp_path / role).mkdir()
        tiny_policy(seed, hidden_size=64).save(tmp_path / role)
    models = {role: {"model": str(tmp_path / role), "sampler": "vllm"} for role in ("capable", "light")}
    run = Run.create(recipe_in(tmp_path / "runs", task=task, **models), "duet")
    jobs.duet(run, silent)
    metrics = read_metrics(run.directory)
    assert [record["step"] for record in metrics] == [1, 2, 3]
    assert all(record.keys() >= {"capable_truncated_share", "light_truncated_share"} for record in metrics)
    run = Run.create(dqo_recipe_in(tmp_path / "single", task=task, policy=models["light"]), "dqo")
    jobs.dqo(run, silent)
    assert len(read_metrics(run.directory)) == 3
