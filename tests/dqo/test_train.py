"""DQO's step by hand, and the loop around it: who learns from what, and what leaves a step."""

import inspect
import math
import re
from dataclasses import replace
from typing import get_args

import pytest
import torch

from counterpoint.config import DiversityConfig
from counterpoint.dqo.embed import Embedder
from counterpoint.dqo.options import OPTIONS
from counterpoint.dqo.shape import Diversity, alpha_controller, load_diversity
from counterpoint.dqo.shaping import SHAPERS as SHAPERS_BY_NAME
from counterpoint.dqo.train import dqo_step
from counterpoint.errors import ConfigError, DataError, TrainingError
from counterpoint.rl.control import Constant, QualityFloor
from counterpoint.rl.state import State
from counterpoint.rl.types import Question
from counterpoint.run import read_metrics
from counterpoint.tasks.answers import boxed
from counterpoint.tasks.graders import exact
from fakes import FakePolicy, StandingTime
from pairs import QUESTIONS, grade_by_bytes, learner, tokenizer, toy_task, weights_of
from single import dqo_recipe_in, tiny_critic, tiny_learner, trained_dqo

SHAPERS = get_args(DiversityConfig.model_fields["shaper"].annotation)
VECTORS = {"x": [1.0, 0.0], "y": [0.0, 1.0]}


class Uncertain(FakePolicy):
    """Says "ab" or "c", and how uncertain it was of each token where it is asked to."""

    def __init__(self):
        super().__init__(lambda prompt, i: ("ab", "c")[i])

    def complete(self, prompt, i, params):
        said = super().complete(prompt, i, params)
        return replace(said, entropies=((0.1, 2.0), (1.0,))[i]) if params.entropies else said


class Heard(FakePolicy):
    """Remembers how it was asked, and the learning rates it was told."""

    def __init__(self, reply=lambda prompt, i: f"reply {i}"):
        super().__init__(reply)
        self.asked, self.rates = [], []

    def sample(self, prompts, n, params, seed):
        self.asked += [(tokenizer().decode(list(prompt)), n, params) for prompt in prompts]
        return super().sample(prompts, n, params, seed)

    def update(self, data, loss, learning_rate, optimizer_steps=1):
        self.rates.append(learning_rate)
        return super().update(data, loss, learning_rate, optimizer_steps)


def fake(recipe, policy=None):
    return learner(policy or Heard(), recipe.policy)


def one_step(recipe, policy, diversity=None, task=None, alpha=None, step=0, count=2, critic=None):
    diversity = diversity or load_diversity(recipe.diversity, policy.speaker.policy, recipe.dqo.samples)
    state = State(Constant(recipe.diversity.alpha if alpha is None else alpha))
    return dqo_step(step, QUESTIONS[:count], policy, diversity, task or toy_task(), recipe, state, critic)


def broken_on(question_id):
    def grade(questions, responses):
        if any(question.id == question_id for question in questions):
            raise ValueError("cannot read this")
        return grade_by_bytes(questions, responses)

    return toy_task(grade)


# --- a step by hand


def test_a_step_by_hand(tmp_path):
    """Two say x, which is right, one says y, which is not. det(L + I) is 6; without an x 4, without the y 3."""
    recipe = dqo_recipe_in(tmp_path, dqo={"questions": 1, "samples": 3}, diversity={"alpha": 0.5})
    policy = fake(recipe, Heard(lambda prompt, i: "xxy"[i]))
    diversity = Diversity(recipe.diversity, Embedder(lambda texts: [VECTORS[text] for text in texts]))
    task = toy_task(lambda questions, responses: [float(response == "x") for response in responses])
    result, state = one_step(recipe, policy, diversity, task, count=1)

    shaped = [1 + 0.5 * math.log(6 / 4)] * 2 + [0.5 * math.log(6 / 3)]
    baseline = sum(shaped) / 3
    [data] = policy.speaker.policy.seen
    assert [bytes(datum.tokens).decode() for datum in data] == ["x", "x", "y"]
    assert [datum.advantages for datum in data] == [pytest.approx((reward - baseline,)) for reward in shaped]
    assert result.samples == [
        {
            "question": "q0",
            "text": "0+1",
            "reference": "1",
            "responses": ["x", "x", "y"],
            "rewards": [1.0, 1.0, 0.0],
            "shaped": pytest.approx(shaped),
        }
    ]
    shown = result.metrics
    assert shown["reward"] == pytest.approx(2 / 3)
    assert shown["shaped_reward"] == pytest.approx(baseline)
    assert shown["diversity_reward"] == pytest.approx(baseline - 2 / 3)
    assert shown["log_det"] == pytest.approx(math.log(6))
    assert (shown["alpha"], shown["response_tokens"], shown["responses_unfinished"]) == (0.5, 1, 0)
    assert (shown["embeddings_truncated"], shown["responses_empty"], shown["gradings_skipped"]) == (0, 0, 0)
    assert state.controller == Constant(0.5)


@pytest.mark.parametrize(("advantage", "doses"), [("grpo", False), ("dr_grpo", True), ("rloo", True)])
def test_alpha_doses_the_term_in_a_group_that_ties_but_under_grpo(tmp_path, advantage, doses):
    """Why the recipes have dr_grpo and a quality floor refuses grpo: twice α is twice the push, or the same."""
    pushes = []
    for alpha in (0.5, 1.0):
        recipe = dqo_recipe_in(tmp_path, dqo={"samples": 3}, algorithm={"advantage": advantage})
        policy = fake(recipe, Heard(lambda prompt, i: "xxy"[i]))
        task = toy_task(lambda questions, responses: [1.0] * len(responses))
        diversity = Diversity(recipe.diversity, Embedder(lambda texts: [VECTORS[text] for text in texts]))
        one_step(recipe, policy, diversity, task, alpha=alpha, count=1)
        pushes.append(policy.speaker.policy.seen[0][2].advantages[0])
    assert pushes[1] / pushes[0] == pytest.approx(2 if doses else 1, rel=1e-3)


def test_a_question_is_asked_k_times_in_the_models_own_way(tmp_path):
    recipe = dqo_recipe_in(tmp_path, dqo={"temperature": 0.7})
    policy = fake(recipe)
    one_step(recipe, policy)
    asked = policy.speaker.policy.asked
    assert [(prompt, n) for prompt, n, _ in asked] == [(f"<|user|>{q.text}<|assistant|>", 4) for q in QUESTIONS[:2]]
    assert {(params.max_tokens, params.temperature, params.entropies) for _, _, params in asked} == {(8, 0.7, False)}


def test_what_a_response_cost_and_what_was_cut_off_or_empty_is_counted(tmp_path):
    recipe = dqo_recipe_in(tmp_path, dqo={"samples": 3, "max_tokens": 4})
    result, _ = one_step(recipe, fake(recipe, Heard(lambda prompt, i: ("ab", "abcdef", "")[i])))
    assert result.metrics["response_tokens"] == (2 + 4 + 0) / 3
    assert result.metrics["responses_unfinished"] == pytest.approx(1 / 3)
    assert result.metrics["responses_empty"] == 2  # one of each of two questions


@pytest.mark.parametrize("with_critic", [False, True])
def test_the_time_of_a_step_is_told_by_phase(tmp_path, monkeypatch, with_critic):
    recipe = dqo_recipe_in(tmp_path, run={"steps": 1}, **({"critic": {"warmup_steps": 0}} if with_critic else {}))
    policy, time = Heard(), StandingTime(monkeypatch)
    policy.sample, policy.update = time.taking(1, policy.sample), time.taking(1000, policy.update)
    diversity = Diversity(recipe.diversity, time.taking(100, load_diversity(recipe.diversity, policy, 4).embedder))
    task, valued = toy_task(time.taking(10, grade_by_bytes)), tiny_critic() if with_critic else None
    trained_dqo(recipe, fake(recipe, policy), valued, task, diversity=diversity)
    [metrics] = read_metrics(tmp_path / "trial")
    assert [metrics[f"seconds_{phase}"] for phase in ("sample", "score", "shape", "update")] == [1, 10, 100, 1000]
    assert metrics["seconds"] == 1111


@pytest.mark.parametrize("critic", [None, tiny_critic()], ids=["group", "critic"])
def test_the_learning_rate_follows_its_schedule(tmp_path, critic):
    sections = {} if critic is None else {"critic": {"warmup_steps": 0}}
    recipe = dqo_recipe_in(tmp_path, run={"steps": 4}, algorithm={"schedule": "linear"}, **sections)
    policy, _, _ = trained_dqo(recipe, fake(recipe), critic)
    assert policy.speaker.policy.rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])


def test_every_step_draws_its_own_samples_and_the_same_again(tmp_path):
    recipe = dqo_recipe_in(tmp_path)
    policies = [fake(recipe), fake(recipe)]
    for policy in policies:
        for step in (0, 1, 2):
            one_step(recipe, policy, step=step)
    first, again = (policy.speaker.policy.seeds for policy in policies)
    assert first == again
    assert len(set(first)) == 3


def test_what_an_update_draws_at_random_depends_on_nothing_but_seed_and_step(tmp_path):
    """Dropout, say: or a resumed run would not go on as an unbroken one."""

    class Drawing(FakePolicy):
        def update(self, *arguments):
            drawn.append(torch.rand(1).item())
            return super().update(*arguments)

    recipe, drawn = dqo_recipe_in(tmp_path), []
    for before in (1, 2):
        torch.manual_seed(before)
        for step in (0, 1):
            one_step(recipe, fake(recipe, Drawing()), step=step)
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


# --- shapers


@pytest.mark.parametrize("shaper", SHAPERS)
def test_every_shaper_takes_a_step(tmp_path, shaper):
    options = {"threshold": 0.1} if shaper == "darling" else {}  # what random weights say is never nearly alike
    recipe = dqo_recipe_in(tmp_path, diversity={"shaper": shaper, "alpha": 0.5, "options": options})
    policy = tiny_learner(recipe)
    before = weights_of(policy)
    result, _ = one_step(recipe, policy)
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert not all(torch.equal(before[name], weight) for name, weight in weights_of(policy).items())
    unchanged = result.metrics["shaped_reward"] == pytest.approx(result.metrics["reward"])
    assert unchanged == (shaper in ("none", "entropy"))


def test_a_response_is_as_likely_as_all_of_its_tokens_together(tmp_path):
    """Three tokens of −0.5 nats are rarer than one: the mean would not tell them apart, and unlikeliness not pay them."""
    recipe = dqo_recipe_in(tmp_path, dqo={"samples": 2}, diversity={"shaper": "unlikeliness", "alpha": 0.5})
    task = toy_task(lambda questions, responses: [1.0] * len(responses))
    result, _ = one_step(recipe, fake(recipe, Heard(lambda prompt, i: ("abc", "d")[i])), task=task, count=1)
    assert result.samples[0]["shaped"] == pytest.approx([0.75, 0.5])


def test_a_policys_own_states_move_with_it(tmp_path):
    recipe = dqo_recipe_in(tmp_path, diversity={"embedder": "policy"})
    policy = tiny_learner(recipe)
    diversity = load_diversity(recipe.diversity, policy.speaker.policy, recipe.dqo.samples)
    before = diversity.embedder(["1+2"]).vectors
    one_step(recipe, policy, diversity)
    assert not torch.equal(diversity.embedder(["1+2"]).vectors, before)


@pytest.mark.parametrize(
    ("shaper", "options", "says"),
    [
        ("dqo", {"kernle": "rbf"}, r"kernle: no such setting; did you mean kernel\?"),
        ("dqo", {"alpha": 2.0}, "alpha: no such setting"),
        ("none", {"k": 4}, "k: no such setting; there are none"),
        ("entropy", {"kappa": 4}, "kappa: no such setting; there are none"),
        ("pass_at_k", {"kernel": "rbf"}, "kernel: no such setting; there are k"),
        ("pass_at_k", {"k": 99}, "k = 99, and a group is 4"),
        ("pass_at_k", {"k": 0}, "k: .*greater than or equal to 1"),
        ("pass_at_k", {"k": 2.5}, "k: .*integer"),
        ("darling", {"threshold": 90}, "threshold: .*less than or equal to 1"),
        ("dqo", {"kernel": "cosine"}, "kernel: .*'linear', 'rbf' or 'cosine_power'"),
        ("dqo", {"correct_only": "no"}, "correct_only: .*valid boolean"),
        ("dqo", {"threshold": "0.5"}, "threshold: .*valid number"),
        ("dqo", {"parameter": 4}, "parameter is of rbf or cosine_power, and the kernel is linear"),
        ("dqo", {"kernel": "cosine_power", "parameter": 1.5}, "a whole number"),
        ("dqo", {"quality_temperature": 0}, "quality_temperature: .*greater than 0"),
    ],
)
def test_an_option_that_the_shaper_does_not_take_is_refused_by_name(tmp_path, shaper, options, says):
    recipe = dqo_recipe_in(tmp_path, diversity={"shaper": shaper, "options": options})
    with pytest.raises(ConfigError, match=f"(?s)diversity.options.*the shaper {shaper}.*{says}"):
        load_diversity(recipe.diversity, FakePolicy(), recipe.dqo.samples)


@pytest.mark.parametrize("shaper", OPTIONS)
def test_options_are_those_of_the_shapers_own_signature(shaper):
    parameters = inspect.signature(SHAPERS_BY_NAME[shaper]).parameters
    for name, field in OPTIONS[shaper].model_fields.items():
        assert parameters[name].default == field.default


@pytest.mark.parametrize("shaper", ["unlikeliness", "pass_at_k", "darling"])
@pytest.mark.parametrize(
    "strength",
    [
        {"alpha": 1.5},
        {"alpha": 0.5, "control": "linear", "alpha_end": 2.0},
        {"alpha": 2.0, "control": "linear", "alpha_end": 0.5},
        {"alpha": 0.5, "control": "quality_floor"},
    ],
)
def test_a_share_of_the_reward_above_all_of_it_is_refused(tmp_path, shaper, strength):
    """DARLING at α = 4 would pay right responses that are alike −1.67, and wrong ones 0."""
    recipe = dqo_recipe_in(tmp_path, diversity={"shaper": shaper, **strength})
    with pytest.raises(ConfigError, match=f"the shaper {shaper} is a share of the reward, so at most 1"):
        load_diversity(recipe.diversity, FakePolicy(), recipe.dqo.samples)


def test_options_reach_the_shaper(tmp_path):
    wrong = toy_task(lambda questions, responses: [0.0, 1.0, 1.0, 0.0] * len(questions[::4]))
    recipe = dqo_recipe_in(tmp_path, diversity={"options": {"correct_only": True}})
    result, _ = one_step(recipe, fake(recipe), task=wrong)
    for row in result.samples:
        assert [shaped > reward for shaped, reward in zip(row["shaped"], row["rewards"], strict=True)] == [
            False,
            True,
            True,
            False,
        ]


def test_only_the_part_that_is_named_is_embedded(tmp_path):
    said = ["<think>a</think>7", "<think>b</think>7"]
    seen = {}
    for part in ("response", "reasoning", "answer"):
        recipe = dqo_recipe_in(tmp_path, dqo={"samples": 2, "max_tokens": 30}, diversity={"part": part})
        texts = seen.setdefault(part, [])

        def encode(different, texts=texts):
            texts += different
            return torch.eye(len(different))

        one_step(recipe, fake(recipe, Heard(lambda prompt, i: said[i])), Diversity(recipe.diversity, Embedder(encode)))
    assert seen["response"] == said
    assert seen["answer"] == ["7"]
    assert [text.removeprefix("<think>") for text in seen["reasoning"]] == ["a", "b"]


def test_the_answer_that_is_embedded_is_what_the_grader_finds(tmp_path):
    """Or noise beside the answer, which no grader sees, would be paid as a different answer."""
    said = ["<think>a</think>\\boxed{7} Ω", "<think>b</think>so \\boxed{7} ψ", "no box: 8", "\\boxed{9}"]
    recipe = dqo_recipe_in(tmp_path, dqo={"samples": 4, "max_tokens": 60}, diversity={"part": "answer"})
    seen = []
    task = replace(toy_task(), grade=exact(extract=boxed))
    diversity = Diversity(recipe.diversity, Embedder(lambda texts: seen.append(texts) or torch.eye(len(texts))))
    result, _ = one_step(recipe, fake(recipe, Heard(lambda prompt, i: said[i])), diversity, task, count=1)
    assert seen == [["7", "9"]]
    assert result.metrics["responses_empty"] == 1  # where the grader finds none, nothing is spanned


def test_the_entropy_shaper_pays_uncertain_tokens_and_turns_no_advantage_around(tmp_path):
    recipe = dqo_recipe_in(tmp_path, dqo={"samples": 2}, diversity={"shaper": "entropy", "alpha": 0.4})
    task = toy_task(lambda questions, responses: [float(response == "ab") for response in responses])
    policy = fake(recipe, Uncertain())
    result, _ = one_step(recipe, policy, task=task, count=1)
    [data] = policy.speaker.policy.seen
    # advantages of ±0.5; a bonus of 0.4 · H, at most half of the advantage
    assert [datum.advantages for datum in data] == [pytest.approx((0.5 + 0.04, 0.5 + 0.25)), pytest.approx((-0.5 + 0.25,))]
    assert result.metrics["shaped_reward"] == result.metrics["reward"] == 0.5


def test_the_entropy_shaper_needs_a_policy_that_says_its_entropies(tmp_path):
    recipe = dqo_recipe_in(tmp_path, diversity={"shaper": "entropy"})
    with pytest.raises(ValueError, match="entropies"):
        one_step(recipe, fake(recipe))


# --- α


def alphas(metrics):
    return [record["alpha"] for record in metrics]


def test_alpha_stays_or_goes_in_a_line_to_its_end_at_the_last_step(tmp_path):
    for control, expected in (("constant", [2.0] * 5), ("linear", [2.0, 1.75, 1.5, 1.25, 1.0])):
        chosen = {"control": control, "alpha": 2.0, "alpha_end": 1.0}
        recipe = dqo_recipe_in(tmp_path / control, run={"steps": 5}, diversity=chosen)
        _, metrics, _ = trained_dqo(recipe, fake(recipe))
        assert alphas(metrics) == pytest.approx(expected)


def test_every_setting_of_the_floor_reaches_its_controller():
    values = {"alpha": 0.3, "floor": 0.7, "rate": 0.11, "gain": 0.9, "tolerance": 0.13, "maximum": 3.5, "grace": 17}
    settings = DiversityConfig.model_validate({"control": "quality_floor", **values})
    expected = QualityFloor(floor=0.7, value=0.3, rate=0.11, gain=0.9, tolerance=0.13, maximum=3.5, grace=17)
    assert alpha_controller(settings, 100) == expected


def test_a_line_of_one_step_is_its_start():
    settings = DiversityConfig.model_validate({"control": "linear", "alpha": 2.0, "alpha_end": 1.0})
    assert alpha_controller(settings, 1).value == 2.0


@pytest.mark.parametrize(("floor", "moves"), [(0.3, [1.0, 1.5, 1.6, 1.7, 1.8]), (0.9, [1.0, 0.0, 0.0, 0.0, 0.0])])
def test_a_floor_of_quality_raises_alpha_above_it_and_switches_it_off_below(tmp_path, floor, moves):
    """Every second response is right, a mean reward of 0.5: two tolerances above the one floor, and four below the other."""
    chosen = {"control": "quality_floor", "floor": floor, "rate": 0.1, "gain": 0.2, "tolerance": 0.1, "alpha": 1.0}
    recipe = dqo_recipe_in(tmp_path, run={"steps": 4}, diversity=chosen)
    task = toy_task(lambda questions, responses: [float(i % 2) for i in range(len(responses))])
    _, metrics, state = trained_dqo(recipe, fake(recipe), task=task)
    assert [*alphas(metrics), state.controller.value] == pytest.approx(moves)
    assert {record["floor"] for record in metrics} == {floor}
    assert (state.floor, state.controller.floor) == (floor, floor)


def test_without_a_floor_none_is_logged(tmp_path):
    recipe = dqo_recipe_in(tmp_path)
    assert "floor" not in trained_dqo(recipe, fake(recipe))[1][0]


# --- a critic


def test_with_a_critic_the_policy_rests_while_the_critic_warms_up(tmp_path):
    recipe = dqo_recipe_in(tmp_path, critic={"warmup_steps": 2, "learning_rate": 1e-2})
    policy, critic = tiny_learner(recipe), tiny_critic()
    before = weights_of(policy)
    moved, values = [], []

    def observe(step, metrics, samples):
        moved.append(not all(torch.equal(before[name], weight) for name, weight in weights_of(policy).items()))
        values.append(critic.head.bias.item())

    _, metrics, _ = trained_dqo(recipe, policy, critic, observe=observe)
    assert moved == [False, False, True]
    assert len({0.0, *values}) == 4  # the critic moves in every step
    assert ["grad_norm" in record for record in metrics] == [False, False, True]
    assert all("critic_value_loss" in record for record in metrics)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (
            {"control": "quality_floor", "floor": 0.3, "rate": 0.1, "gain": 0.2, "tolerance": 0.1, "alpha": 1.0},
            [1, 1, 1, 1.5, 1.6],
        ),
        ({"control": "linear", "alpha": 2.0, "alpha_end": 1.0}, [2, 2, 2, 1.5, 1]),
    ],
    ids=["quality_floor", "linear"],
)
def test_alpha_stays_while_only_the_critic_learns(tmp_path, chosen, expected):
    """Quality is above the floor from the start, and none of it is α's doing before the third step."""
    recipe = dqo_recipe_in(tmp_path, run={"steps": 5}, critic={"warmup_steps": 2}, diversity=chosen)
    task = toy_task(lambda questions, responses: [float(i % 2) for i in range(len(responses))])
    _, metrics, _ = trained_dqo(recipe, fake(recipe), tiny_critic(), task)
    assert alphas(metrics) == pytest.approx(expected)


def test_a_critic_is_paid_the_shaped_rewards(tmp_path):
    recipe = dqo_recipe_in(tmp_path, critic={"warmup_steps": 0, "lam": 1.0})
    told = []

    class FakeCritic:
        def values(self, data):
            return [(0.0,) * len(datum.tokens) for datum in data]

        def update(self, data, returns, *rest):
            told.extend(returns)
            return {"skipped_updates": 0.0}

    result, _ = one_step(recipe, fake(recipe), critic=FakeCritic())
    assert [row[-1] for row in told] == pytest.approx([reward for row in result.samples for reward in row["shaped"]])


# --- what goes wrong


def test_layers_that_ran_again_for_want_of_memory_are_told_of_once_and_change_nothing(tmp_path, monkeypatch):
    found, warnings = [], []
    for free in (1 << 60, 0):
        monkeypatch.setattr("counterpoint.policy.trainable.free_memory", lambda _, free=free: free)
        recipe = dqo_recipe_in(tmp_path / str(free), run={"steps": 3})
        found.append(trained_dqo(recipe, warn=pytest.fail if free else warnings.append)[1])
    plenty, none = found
    assert len(warnings) == 1
    assert "a micro-batch of policy did not fit" in warnings[0]
    assert [record.pop("checkpointed_microbatches") for record in none] == [1.0] * 3
    assert none == plenty


def test_texts_that_the_encoder_cut_bring_a_warning_with_the_samples(tmp_path):
    recipe = dqo_recipe_in(tmp_path, run={"steps": 4, "sample_every": 3})
    warnings = []
    policy = fake(recipe, Heard(lambda prompt, i: ("a", "long text", "bb", "longer text")[i]))
    short = Embedder(lambda texts: torch.eye(len(texts)), lambda texts: [len(text) > 3 for text in texts])
    trained_dqo(recipe, policy, warn=warnings.append, diversity=Diversity(recipe.diversity, short))
    said = [f"step {step}: the encoder cut 4 of the texts that it compared" for step in (1, 4)]
    assert [warning.partition(",")[0] for warning in warnings] == said


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"part": "reasoning"}, "step 1: every text that is compared is empty.* needs a model that writes </think>"),
        (
            {"options": {"correct_only": True, "threshold": 0.9}},
            "step 1: .* changed no reward, though the mean reward is 0.4: no",
        ),
    ],
    ids=["nothing embedded", "nothing counted"],
)
def test_a_diversity_term_that_does_nothing_is_told_of_once(tmp_path, chosen, said):
    recipe = dqo_recipe_in(tmp_path, diversity=chosen)
    task, warnings = toy_task(lambda questions, responses: [0.3, 0.5] * (len(responses) // 2)), []
    trained_dqo(recipe, fake(recipe), task=task, warn=warnings.append)
    [warning] = warnings
    assert re.match(said, warning)


@pytest.mark.parametrize("chosen", [{"alpha": 0.0}, {"shaper": "none"}, {"shaper": "pass_at_k"}, {"shaper": "dra"}], ids=str)
def test_where_no_term_is_asked_for_or_it_works_nothing_is_told(tmp_path, chosen):
    recipe = dqo_recipe_in(tmp_path, diversity=chosen)
    trained_dqo(recipe, fake(recipe), task=toy_task(lambda questions, responses: [1.0, 0.0] * (len(responses) // 2)))


def test_a_question_that_cannot_be_graded_leaves_the_step_and_is_counted(tmp_path):
    recipe = dqo_recipe_in(tmp_path, task={"on_grader_error": "skip"})
    policy = fake(recipe)
    result, _ = one_step(recipe, policy, task=broken_on("q1"), count=3)
    assert result.metrics["gradings_skipped"] == 4
    assert result.metrics["groups"] == 2
    assert [row["question"] for row in result.samples] == ["q0", "q2"]
    learned = {tokenizer().decode(list(datum.prompt)) for datum in policy.speaker.policy.seen[0]}
    assert learned == {f"<|user|>{QUESTIONS[i].text}<|assistant|>" for i in (0, 2)}


def test_a_step_in_which_nothing_can_be_graded_ends_the_run(tmp_path):
    recipe = dqo_recipe_in(tmp_path, task={"on_grader_error": "skip"})
    with pytest.raises(TrainingError, match=r"step 1: no question could be graded \(8 gradings skipped\)"):
        one_step(recipe, fake(recipe), task=toy_task(lambda questions, responses: 1 / 0))


def test_a_question_that_is_too_long_is_found_before_the_first_step(tmp_path):
    task = toy_task(questions=[*QUESTIONS, Question("long", "?" * 300, "x")])
    recipe = dqo_recipe_in(tmp_path, run={"steps": 1})
    with pytest.raises(DataError, match=r"question long: its prompt of \d+ tokens"):
        trained_dqo(recipe, fake(recipe), task=task)
    assert not (tmp_path / "trial" / "metrics.jsonl").exists()


def test_a_frozen_policy_is_an_error(tmp_path):
    recipe = dqo_recipe_in(tmp_path, policy={"train": False})
    with pytest.raises(ConfigError, match=r"policy\.train is false"):
        trained_dqo(recipe, fake(recipe))


def test_steps_in_which_all_are_wrong_bring_a_warning_though_diversity_is_paid(tmp_path):
    recipe = dqo_recipe_in(tmp_path, run={"steps": 10})
    warnings = []
    trained_dqo(recipe, fake(recipe), task=toy_task(lambda questions, responses: [0.0] * len(responses)), warn=warnings.append)
    assert len(warnings) == 1
