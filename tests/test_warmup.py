"""Supervised warm-up: it is cross-entropy, it falls, and it teaches where to end."""

import random

import pytest
import torch

from counterpoint.cli import screens
from counterpoint.config import WarmupConfig
from counterpoint.duet.infer import answer_alone
from counterpoint.errors import ConfigError, DataError, TrainingError
from counterpoint.jobs import warmup as warmup_job
from counterpoint.policy.prompting import Renderer, Speaker
from counterpoint.rl.types import Question, SamplingParams
from counterpoint.run import Run, read_metrics
from counterpoint.warmup import CROSS_ENTROPY, schedule, to_imitate, warm_up, worked
from fakes import FakePolicy
from pairs import QUESTIONS, learner, recipe_in, tiny_policy, tokenizer, toy_task, without_times
from single import dqo_recipe_in

ROLES = ("capable", "light")


def recipe_for(directory, role="capable", steps=25, rate=3e-2, **warmup):
    return recipe_in(
        directory,
        run={"steps": steps, "checkpoint_every": 5},
        warmup={"role": role, "rows": 6, "warmup_steps": 3, **warmup},
        **{role: {"learning_rate": rate}},
    )


def speaker(seed=0, hidden_size=16):
    return Speaker(tiny_policy(seed, hidden_size), Renderer(tokenizer(), 96))


def warmed(recipe, one, observe=lambda step, metrics: None, run=None):
    with run or Run.create(recipe, "warmup") as run:
        warm_up(run, one, toy_task(), observe)
    return read_metrics(run.directory)


def rows(recipe, one, role="capable", share=0.0):
    settings = WarmupConfig.model_validate({"role": role, "unaided": share})
    return [to_imitate(one, question, settings, recipe, random.Random(i)) for i, question in enumerate(QUESTIONS)]


def said(tokens):
    return tokenizer().decode(list(tokens))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cross_entropy_falls(tmp_path, role, seed):
    metrics = warmed(recipe_for(tmp_path, role), speaker(seed))
    losses = [record["cross_entropy"] for record in metrics]
    assert losses[0] > 4.5
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("role", ROLES)
def test_its_gradient_is_that_of_cross_entropy(tmp_path, role):
    one = speaker()
    data = rows(recipe_for(tmp_path), one, role)
    model = one.policy.model
    one.policy.optimizer.step = lambda: None
    one.policy.optimizer.zero_grad = lambda: None
    one.policy.max_grad_norm = 1e9
    metrics = one.policy.update(data, CROSS_ENTROPY, 0.1)
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters()}

    model.zero_grad()
    longest = max(len(datum.prompt + datum.tokens) for datum in data)
    ids, labels = torch.zeros(len(data), longest, dtype=torch.long), torch.full((len(data), longest), -100)
    for i, datum in enumerate(data):
        ids[i, : len(datum.prompt + datum.tokens)] = torch.tensor(datum.prompt + datum.tokens)
        labels[i, len(datum.prompt) : len(datum.prompt + datum.tokens)] = torch.tensor(datum.tokens)
    logits = model(input_ids=ids).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()
    assert metrics["logprob"] == pytest.approx(-loss.item(), rel=1e-5)
    for name, weight in model.named_parameters():
        difference = (ours[name] - weight.grad).norm() / weight.grad.norm()
        assert difference < 1e-5, name


def test_the_capable_model_imitates_the_solution_and_the_answer(tmp_path):
    first, second, *_ = rows(recipe_for(tmp_path), speaker())
    assert said(first.prompt) == "<|user|>0+1<|assistant|><think>\n"
    assert said(first.tokens) == "0+1=1\n</think>\n\n1<|end|>"
    assert said(second.tokens) == "1+2=3\n</think>\n\n3<|end|>"
    assert first.advantages == (1.0,) * len(first.tokens)


def test_the_light_model_imitates_the_answer_to_a_solution_or_to_none(tmp_path):
    recipe = recipe_for(tmp_path, "light")
    aided, unaided = (rows(recipe, speaker(), "light", share)[0] for share in (0.0, 1.0))
    assert said(aided.prompt) == "<|user|>0+1<|assistant|><think>\n0+1=1\n</think>\n\n"
    assert said(unaided.prompt) == "<|user|>0+1<|assistant|><think>\n\n</think>\n\n"
    assert said(aided.tokens) == said(unaided.tokens) == "1<|end|>"


def test_it_reads_and_writes_what_training_does(tmp_path):
    """What M is warmed up to write is, cut at the closing tag, what m is warmed up to read."""
    one = speaker()
    written = said(rows(recipe_for(tmp_path), one)[2].tokens)
    signal, answer = written.split("</think>")
    prompt = one.renderer.answer_prompt(QUESTIONS[2].text, signal, 8).tokens
    read = rows(recipe_for(tmp_path, "light"), one, "light")[2]
    assert prompt == read.prompt
    assert answer == f"\n\n{said(read.tokens)}"


def test_the_end_of_the_answer_is_learned(tmp_path):
    one = speaker(hidden_size=32)
    warmed(recipe_for(tmp_path, steps=60, rate=3e-2), one)
    responses = answer_alone(one, QUESTIONS, 1, SamplingParams(30, temperature=0), seed=0)
    ended = [response for [response] in responses if response.stop == "end" and "</think>" in response.text]
    assert len(ended) == len(QUESTIONS)


def test_the_learning_rate_rises_then_falls_to_a_hundredth():
    shares = [schedule(step, 10, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[9] == pytest.approx(0.98, abs=0.01)
    assert shares[9:] == sorted(shares[9:], reverse=True)
    assert schedule(50, 0, 100) == pytest.approx(0.01 + 0.99 / 2)
    assert schedule(100, 10, 100) == pytest.approx(0.01)


def test_a_task_without_worked_solutions_is_an_error():
    task = toy_task(questions=[Question("q", "1+2", "3")])
    with pytest.raises(DataError, match="task toy has no worked solutions to warm up on"):
        worked(task)


def test_questions_without_a_solution_are_left_out():
    task = toy_task(questions=[Question("q", "1+2", "3"), QUESTIONS[0]])
    assert worked(task) == [QUESTIONS[0]]


def test_a_warm_up_that_was_interrupted_and_resumed_equals_an_unbroken_one(tmp_path):
    one, other = speaker(), speaker()
    expected = warmed(recipe_for(tmp_path / "unbroken", "light", steps=8, unaided=0.5), one)

    def observe(step, metrics):
        if step == 7:
            raise KeyboardInterrupt

    recipe = recipe_for(tmp_path / "broken", "light", steps=8, unaided=0.5)
    with pytest.raises(KeyboardInterrupt):
        warmed(recipe, speaker(), observe)
    metrics = warmed(recipe, other, run=Run.open(tmp_path / "broken" / "trial"))
    assert without_times(metrics) == without_times(expected)
    assert all(torch.equal(a, b) for a, b in zip(one.policy.weights, other.policy.weights, strict=True))


def test_updates_that_keep_being_not_finite_end_it(tmp_path):
    class Broken(FakePolicy):
        def update(self, data, loss, learning_rate, optimizer_steps=1):
            return {"skipped_updates": 1.0}

    recipe = recipe_for(tmp_path)
    with pytest.raises(TrainingError, match="5 steps in a row"):
        warmed(recipe, learner(Broken(), recipe.capable).speaker)


def test_a_single_policy_writes_the_solution_and_the_answer_in_its_own_way():
    recipe = dqo_recipe_in("nowhere")
    one, settings = speaker(), WarmupConfig.model_validate({"role": "policy"})
    with_trace, without = (
        to_imitate(one, Question("q", "1+2", "3", trace=trace), settings, recipe, random.Random(0)) for trace in ("1+2=3", "")
    )
    assert said(with_trace.prompt) == said(without.prompt) == "<|user|>1+2<|assistant|>"
    end = said((one.renderer.end_token,))
    assert said(with_trace.tokens) == f"1+2=3\n\n3{end}"
    assert said(without.tokens) == f"3{end}"


def test_a_single_policy_is_warmed_up(tmp_path):
    warmup = {"role": "policy", "rows": 6, "warmup_steps": 3}
    recipe = dqo_recipe_in(tmp_path, run={"steps": 25}, policy={"learning_rate": 3e-2}, warmup=warmup)
    losses = [record["cross_entropy"] for record in warmed(recipe, speaker())]
    assert losses[-1] < 0.5 * losses[0]


def test_a_role_that_the_recipe_does_not_have_is_named(tmp_path):
    run = Run.create(dqo_recipe_in(tmp_path, warmup={"role": "light"}), "warmup")
    with pytest.raises(ConfigError, match=r"warmup\.role is light, and the recipe has policy"):
        warmup_job(run, screens(True))


class Loaded(Exception):
    """Raised in place of a model."""


def test_it_samples_nothing_so_it_starts_no_vllm(tmp_path, monkeypatch):
    def load(config, instruction):
        raise Loaded(config.sampler)

    monkeypatch.setattr("counterpoint.jobs.speaker_of", load)
    recipe = dqo_recipe_in(tmp_path, policy={"sampler": "vllm"}, warmup={"role": "policy"})
    with pytest.raises(Loaded, match="transformers"):
        warmup_job(Run.create(recipe, "warmup"), screens(True))
