"""DUET with a [diversity] section: M's signals are shaped as DQO shapes responses, before their length is charged."""

import json
import math
from dataclasses import replace

import pytest
import torch

from counterpoint.dqo.embed import Embedder
from counterpoint.dqo.shape import Diversity, load_diversity
from counterpoint.duet.train import duet_step, train
from counterpoint.rl.control import Constant
from counterpoint.rl.state import State
from counterpoint.run import STATE, Run, read_metrics
from fakes import FakePolicy
from pairs import QUESTIONS, learner, recipe_in, same, tiny_pair, tokenizer, toy_task, trained, without_times

SIGNALS = ("x</think>", "x</think>", "yy</think>")
FLOOR = {"control": "quality_floor", "floor": 0.4, "rate": 0.2, "tolerance": 0.2, "embedder": "ngrams"}


class Stopped(Exception):
    """The end of a run that a test brings about."""


class Uncertain(FakePolicy):
    """Says how uncertain it was of each token, where it is asked to: 0.1 of the last, 2 of the others."""

    def complete(self, prompt, i, params):
        said = super().complete(prompt, i, params)
        return replace(said, entropies=(2.0,) * (len(said.tokens) - 1) + (0.1,)) if params.entropies else said


def answer(prompt, i):
    """Right to the signals that say x."""
    return "right" if "<think>\nx\n" in tokenizer().decode(list(prompt)) else "wrong"


def step_of(recipe, diversity, capable=None, alpha=0.5, multiplier=1.2):
    capable = learner(capable or FakePolicy(lambda prompt, i: SIGNALS[i]), recipe.capable)
    task = toy_task(lambda questions, responses: [float(response == "right") for response in responses])
    state = State(Constant(multiplier), alpha=Constant(alpha))
    light = learner(FakePolicy(answer), recipe.light)
    result, state = duet_step(0, QUESTIONS[:1], capable, light, task, recipe, state, diversity)
    return result.metrics, state, capable.speaker.policy.seen[0]


def test_signals_are_paid_for_being_different_and_then_charged_for_their_length(tmp_path):
    """Two signals say x, one says yy. det(L + I) is 6; without an x 4, without the yy 3. λ / B is 0.1."""
    recipe = recipe_in(tmp_path, diversity={"alpha": 0.5, "embedder": "ngrams"})
    vectors = {"x": [1.0, 0.0], "yy": [0.0, 1.0]}
    diversity = Diversity(recipe.diversity, Embedder(lambda texts: [vectors[text] for text in texts]))
    metrics, state, data = step_of(recipe, diversity)
    shaped = [1 + 0.5 * math.log(6 / 4) - 0.9] * 2 + [0.5 * math.log(6 / 3) - 1.0]
    baseline = sum(shaped) / 3
    assert [datum.advantages[0] for datum in data] == pytest.approx([reward - baseline for reward in shaped], abs=1e-6)
    assert metrics["capable_reward"] == pytest.approx(baseline, abs=1e-6)
    assert metrics["aided_accuracy"] == pytest.approx(2 / 3)  # as it was before any shaping
    assert metrics["diversity_reward"] == pytest.approx(0.5 * (2 * math.log(6 / 4) + math.log(6 / 3)) / 3)
    assert (metrics["alpha"], metrics["multiplier"]) == (0.5, 1.2)
    assert state.alpha == Constant(0.5)


def test_the_entropy_shaper_pays_uncertain_tokens_of_signals(tmp_path):
    recipe = recipe_in(tmp_path, diversity={"shaper": "entropy"})
    diversity = load_diversity(recipe.diversity, FakePolicy(), recipe.duet.signals)
    capable = Uncertain(lambda prompt, i: SIGNALS[i])
    _, _, data = step_of(recipe, diversity, capable, alpha=0.4, multiplier=0.0)
    for datum, advantage in zip(data, (1 / 3, 1 / 3, -2 / 3), strict=True):
        most = abs(advantage) / 2
        assert datum.advantages[0] == pytest.approx(advantage + min(0.8, most))
        assert datum.advantages[-1] == pytest.approx(advantage + 0.04)


def run_to_the_end(recipe, observe=lambda step, metrics, samples: None, run=None):
    """(pair, metrics without times, final state)."""
    pair = tiny_pair(recipe)
    diversity = load_diversity(recipe.diversity, pair[0].speaker.policy, recipe.duet.signals)
    with run or Run.create(recipe, "duet") as run:
        state = train(run, *pair, toy_task(), observe, pytest.fail, diversity=diversity)
    return pair, without_times(read_metrics(run.directory)), state


def test_alpha_answers_to_quality_and_is_in_every_checkpoint(tmp_path):
    recipe = recipe_in(tmp_path, run={"steps": 5}, diversity=FLOOR)
    _, metrics, state = run_to_the_end(recipe)
    alphas = [record["alpha"] for record in metrics]
    assert alphas[0] == 1.0
    assert len(set(alphas)) > 2
    assert state.alpha.floor == 0.4
    run = Run.open(tmp_path / "trial")
    saved = json.loads((run.newest_checkpoint(("capable", "light")) / STATE).read_text())["state"]
    assert State.from_dict(saved) == state


def test_a_run_with_diversity_that_was_interrupted_and_resumed_equals_an_unbroken_one(tmp_path):
    unbroken, expected, final = run_to_the_end(recipe_in(tmp_path / "unbroken", run={"steps": 5}, diversity=FLOOR))

    def observe(step, metrics, samples):
        if step == 3:
            raise Stopped

    recipe = recipe_in(tmp_path / "broken", run={"steps": 5}, diversity=FLOOR)
    with pytest.raises(Stopped):
        run_to_the_end(recipe, observe)
    resumed, metrics, state = run_to_the_end(recipe, run=Run.open(tmp_path / "broken" / "trial"))
    assert (metrics, state) == (expected, final)
    assert all(same(one, other) for one, other in zip(unbroken, resumed, strict=True))


def test_signals_that_the_encoder_cut_bring_a_warning_with_the_samples(tmp_path):
    recipe = recipe_in(tmp_path, run={"steps": 4, "sample_every": 3}, diversity={"embedder": "ngrams"})
    short = Embedder(lambda texts: torch.ones(len(texts), 1), lambda texts: [True] * len(texts))
    warnings = []
    _, metrics, _ = trained(recipe, warn=warnings.append, diversity=Diversity(recipe.diversity, short))
    cut = [record["embeddings_truncated"] for record in metrics]
    said = [f"step {step}: the encoder cut {cut[step - 1]:.0f} of the texts that it compared" for step in (1, 4)]
    assert [warning.partition(",")[0] for warning in warnings] == said


def test_without_a_section_nothing_is_said_of_alpha(tmp_path):
    _, metrics, state = trained(recipe_in(tmp_path))
    assert not any("alpha" in record for record in metrics)
    assert state.alpha is None
