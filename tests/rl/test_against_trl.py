"""Our advantages and losses against TRL's own code, on the same numbers.

The trainers are real ones. What they would have computed with a model (log-probabilities, completions,
rewards) is handed to them, and `_generate_and_score_completions` and `_compute_loss` run as they are.
"""

from types import SimpleNamespace

import pytest
import torch

from counterpoint.rl.advantages import dr_grpo, grpo, rloo
from counterpoint.rl.losses import LossSpec, aggregation_weights, token_losses

trl = pytest.importorskip("trl", reason="compares with TRL; install counterpoint[trl]")

GROUP, SEQUENCES, TOKENS = 4, 8, 6
TRL_EPSILON = 1e-4
MAX_COMPLETION = 20
LENGTHS = torch.tensor([6, 1, 4, 3, 2, 6, 5, 3])


@pytest.fixture(scope="module")
def numbers():
    """Log-probabilities that disagree enough for clips and truncation to matter, and advantages of both
    signs."""
    generator = torch.Generator().manual_seed(0)

    def near(logprobs, deviation):
        return logprobs + deviation * torch.randn(SEQUENCES, TOKENS, generator=generator)

    new = -torch.rand(SEQUENCES, TOKENS, generator=generator) * 3
    old = near(new, 0.4)
    return SimpleNamespace(
        new=new,
        old=old,
        sampler=near(old, 0.4),
        reference=near(new, 0.5),
        advantages=torch.randn(SEQUENCES, generator=generator),
        mask=torch.arange(TOKENS) < LENGTHS.unsqueeze(1),
    )


@pytest.fixture(scope="module")
def make_trainer(tmp_path_factory):
    """A function that builds a real GRPO or RLOO trainer around a model of a few hundred parameters."""
    datasets = pytest.importorskip("datasets", reason="TRL's trainers need datasets")
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "</s>": 1, "a": 2, "b": 3}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="</s>",
    )
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    prompts = datasets.Dataset.from_list([{"prompt": "a"}] * SEQUENCES)

    def make(algorithm="GRPO", **arguments):
        config = getattr(trl, f"{algorithm}Config")(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            num_generations=GROUP,
            per_device_train_batch_size=SEQUENCES,
            max_completion_length=MAX_COMPLETION,
            use_cpu=True,
            bf16=False,
            report_to=[],
            **arguments,
        )
        trainer = getattr(trl, f"{algorithm}Trainer")(
            model=LlamaForCausalLM(LlamaConfig(vocab_size=4, **size)),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=prompts,
            processing_class=tokenizer,
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return make


def score(trainer, rewards, logprobs=None, sampler_logprobs=None):
    """What TRL makes of `SEQUENCES` completions with these rewards."""
    completions = [[2] * length for length in LENGTHS.tolist()]
    prompts = [[2]] * SEQUENCES
    sampled = None
    if sampler_logprobs is not None:
        rows = zip(sampler_logprobs.tolist(), LENGTHS.tolist(), strict=True)
        sampled = [row[:length] for row, length in rows]
    texts = ["a"] * SEQUENCES
    if type(trainer).__name__ == "RLOOTrainer":
        trainer._generate = lambda _: (prompts, completions, texts)
    else:
        trainer._generate = lambda _: (prompts, completions, None, texts, sampled, {}, None, None)
    trainer._calculate_rewards = lambda *_: rewards.reshape(-1, 1)
    given = torch.zeros(SEQUENCES, TOKENS) if logprobs is None else logprobs
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (given, None, None)
    return trainer._generate_and_score_completions([{"prompt": "a"} for _ in range(SEQUENCES)])


def trl_loss(trainer, numbers, on_policy=False, **inputs):
    """TRL's loss of the whole batch, and its gradient in the log-probabilities."""
    new = numbers.new.clone().requires_grad_()
    entropies = torch.zeros_like(new)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (new, entropies, None)
    loss = trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": torch.full((SEQUENCES, 1), 2),
            "prompt_mask": torch.ones(SEQUENCES, 1, dtype=torch.long),
            "completion_ids": torch.full((SEQUENCES, TOKENS), 2),
            "completion_mask": numbers.mask.long(),
            "advantages": numbers.advantages,
            "old_per_token_logps": None if on_policy else numbers.old,
            "ref_per_token_logps": numbers.reference,
            "num_items_in_batch": numbers.mask.sum(),
            **inputs,
        },
    )
    loss.backward()
    return loss.detach(), new.grad


def our_loss(spec, numbers, on_policy=False):
    """The same from ours, in two micro-batches."""
    new = numbers.new.clone().requires_grad_()
    weights = aggregation_weights(numbers.mask.sum(1), spec.aggregation, spec.constant_length)
    total = torch.zeros(())
    for part in (slice(0, 3), slice(3, None)):
        losses, _ = token_losses(
            spec,
            new[part],
            None if on_policy else numbers.old[part],
            numbers.advantages[part].unsqueeze(1).expand(-1, TOKENS),
            numbers.mask[part],
            sampler_logprobs=numbers.sampler[part],
            reference_logprobs=numbers.reference[part],
        )
        total = total + (losses.sum(1) * weights[part]).sum()
    total.backward()
    return total.detach(), new.grad


def assert_equal(ours, theirs):
    assert theirs[1].abs().sum() > 0.1  # a gradient of zero would prove nothing
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])


REWARDS = torch.tensor([[0.0, 1.0, 2.0, 5.0], [1.0, 1.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("algorithm", "arguments", "ours"),
    [
        ("GRPO", {"scale_rewards": "group"}, grpo(REWARDS, epsilon=TRL_EPSILON)),
        ("GRPO", {"scale_rewards": "none"}, dr_grpo(REWARDS)),
        ("RLOO", {"beta": 0.0}, rloo(REWARDS)),
    ],
    ids=["grpo", "dr_grpo", "rloo"],
)
def test_advantages_equal_trl(make_trainer, algorithm, arguments, ours):
    scored = score(make_trainer(algorithm, **arguments), REWARDS)
    torch.testing.assert_close(scored["advantages"].reshape(REWARDS.shape), ours)


AGGREGATIONS = {
    "grpo": {"aggregation": "sequence"},
    "dapo": {"aggregation": "token"},
    "bnpo": {"aggregation": "token"},
    "dr_grpo": {"aggregation": "constant", "constant_length": MAX_COMPLETION},
}


@pytest.mark.parametrize("on_policy", [False, True])
@pytest.mark.parametrize("loss_type", AGGREGATIONS)
def test_clipped_loss_equals_trl(make_trainer, numbers, loss_type, on_policy):
    trainer = make_trainer(loss_type=loss_type, epsilon=0.2, epsilon_high=0.28)
    spec = LossSpec("clipped", clip_low=0.2, clip_high=0.28, **AGGREGATIONS[loss_type])
    assert_equal(our_loss(spec, numbers, on_policy), trl_loss(trainer, numbers, on_policy))


def test_k3_kl_in_the_loss_equals_trl(make_trainer, numbers):
    # TRL's default weights the KL with the ratio besides (DeepSeek-V3.2, arXiv 2512.02556); ours is the plain
    # k3.
    trainer = make_trainer(loss_type="dapo", epsilon=0.2, epsilon_high=0.28, use_bias_correction_kl=False)
    trainer.beta = 0.3  # after construction, so that no reference model is loaded
    with_kl = our_loss(LossSpec(kl_coefficient=0.3), numbers)
    assert_equal(with_kl, trl_loss(trainer, numbers))
    assert (with_kl[1] - our_loss(LossSpec(), numbers)[1]).abs().sum() > 0.05


def test_gspo_equals_trl(make_trainer, numbers):
    # The clip is narrow enough to bite: sequence ratios are closer to 1 than token ratios.
    trainer = make_trainer(loss_type="grpo", importance_sampling_level="sequence", epsilon=0.05, epsilon_high=0.05)
    spec = LossSpec("gspo", clip_low=0.05, clip_high=0.05, aggregation="sequence")
    assert_equal(our_loss(spec, numbers), trl_loss(trainer, numbers))


def test_cispo_equals_trl_whose_epsilon_high_is_the_largest_weight_itself(make_trainer, numbers):
    trainer = make_trainer(loss_type="cispo", epsilon_high=1.28)
    spec = LossSpec("cispo", clip_high=0.28, aggregation="token")
    assert_equal(our_loss(spec, numbers), trl_loss(trainer, numbers))


def test_truncated_importance_weights_equal_trl(make_trainer, numbers):
    trainer = make_trainer(
        loss_type="dapo",
        epsilon=0.2,
        epsilon_high=0.28,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=1.2,
    )
    trainer.use_vllm = True  # after construction, so that no engine is started: only the correction runs
    scored = score(trainer, REWARDS, numbers.old, numbers.sampler)
    theirs = trl_loss(trainer, numbers, importance_sampling_ratio=scored["importance_sampling_ratio"])
    truncated = our_loss(LossSpec(max_importance_weight=1.2), numbers)
    assert_equal(truncated, theirs)
    assert (truncated[1] - our_loss(LossSpec(), numbers)[1]).abs().sum() > 0.05
