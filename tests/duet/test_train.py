"""The joint step and the loop around it: who is asked what, who learns from what, and what a resumed run repeats."""

import math
from dataclasses import replace

import pytest
import torch

from counterpoint.duet import reward
from counterpoint.duet.alone import alone_step
from counterpoint.duet.start import start_state
from counterpoint.duet.train import duet_step, light_groups
from counterpoint.errors import ConfigError, DataError, GraderError, TrainingError
from counterpoint.rl.control import LengthTarget
from counterpoint.rl.state import NOT_FINITE_BEFORE_STOP, State
from counterpoint.rl.types import Completion, Question
from counterpoint.run import Run, read_metrics
from fakes import FakePolicy, StandingTime
from pairs import QUESTIONS, grade_by_bytes, learner, recipe_in, same, tiny_pair, tokenizer, toy_task, trained, weights_of

ADVANTAGES = ("grpo", "dr_grpo", "rloo", "reinforce_pp", "separate")
UNAIDED = "<think>\n\n</think>"


class Heard(FakePolicy):
    """Remembers the last loss and all learning rates that it was told."""

    def __init__(self):
        super().__init__(lambda prompt, i: "a" * (i + 1) + "</think>")
        self.rates = []

    def update(self, data, loss, learning_rate, optimizer_steps=1):
        self.loss = loss
        self.rates.append(learning_rate)
        return super().update(data, loss, learning_rate, optimizer_steps)


class Asked(FakePolicy):
    """Remembers every prompt, as text, and how often it was asked."""

    def __init__(self, reply=lambda prompt, i: f"reply {i}"):
        super().__init__(reply)
        self.prompts = []

    def sample(self, prompts, n, params, seed):
        self.prompts += [(tokenizer().decode(list(prompt)), n) for prompt in prompts]
        return super().sample(prompts, n, params, seed)

    def unaided(self):
        return [prompt for prompt, _ in self.prompts if UNAIDED in prompt]


class NotFinite(FakePolicy):
    """Its updates have a gradient that is not finite, but for those that are named."""

    def __init__(self, finite=()):
        super().__init__()
        self.finite = finite

    def update(self, data, loss, learning_rate, optimizer_steps=1):
        self.updates += 1
        good = self.updates in self.finite
        return {"loss": 0.0, "grad_norm": 1.0, "skipped_updates": 0.0} if good else {"skipped_updates": 1.0}


def fake_pair(recipe, capable=None, light=None):
    pair = capable or Asked(lambda prompt, i: "a" * (i + 1) + "</think>"), light or Asked()
    return learner(pair[0], recipe.capable), learner(pair[1], recipe.light)


def one_step(recipe, pair, step=0, task=None, state=None, count=2):
    return duet_step(step, QUESTIONS[:count], *pair, task or toy_task(), recipe, state or State(LengthTarget()))


# --- who is asked what


def test_a_step_samples_n_signals_a_question_and_n_m_answers_a_signal(tmp_path):
    recipe = recipe_in(tmp_path)
    capable, light = fake_pair(recipe)
    one_step(recipe, (capable, light), step=1)
    starts = [f"<|user|>{q.text}<|assistant|><think>\n" for q in QUESTIONS[:2]]
    assert capable.speaker.policy.prompts == [(start, 3) for start in starts]
    assert light.speaker.policy.prompts == [(f"{start}{'a' * n}\n</think>\n\n", 2) for start in starts for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("advantage", "marginal_utility", "steps"),
    [("reinforce_pp", True, [0, 1, 2, 3]), ("reinforce_pp", False, [0, 2]), ("dr_grpo", True, [0, 2])],
)
def test_unaided_answers_are_sampled_once_a_question_and_only_when_used(tmp_path, advantage, marginal_utility, steps):
    duet = {"marginal_utility": marginal_utility, "unaided_every": 2}
    recipe = recipe_in(tmp_path, algorithm={"advantage": advantage}, duet=duet)
    for step in range(4):
        pair = fake_pair(recipe)
        result, _ = one_step(recipe, pair, step)
        assert len(pair[1].speaker.policy.unaided()) == (2 if step in steps else 0)
        assert ("unaided_accuracy" in result.metrics) == (step in steps)


def test_marginal_utility_lowers_the_reward_of_the_batch_baseline_only(tmp_path):
    task = toy_task(lambda questions, responses: [0.75 if r == "reply 0" else 0.25 for r in responses])
    for advantage, expected in (("reinforce_pp", 0.0), ("dr_grpo", 0.5)):
        recipe = recipe_in(tmp_path, algorithm={"advantage": advantage})
        result, _ = one_step(recipe, fake_pair(recipe), task=task)
        assert result.metrics["capable_reward"] == pytest.approx(expected)
        assert result.metrics["unaided_accuracy"] == result.metrics["aided_accuracy"] == 0.5


def test_what_a_step_shows_is_counted_in_tokens_and_rewards(tmp_path):
    recipe = recipe_in(tmp_path, duet={"signals": 4, "answers": 2, "max_signal_tokens": 10, "max_answer_tokens": 7})
    said = ["aa</think>", "aaaaaaaaaaaa", "end", "</think>"]
    capable = Asked(lambda prompt, i: said[i])
    task = toy_task(lambda questions, responses: [float(response == "reply 1") for response in responses])
    result, state = one_step(recipe, fake_pair(recipe, capable), task=task, state=State(LengthTarget(0.3, 0.1)))
    shown = result.metrics
    assert shown["signal_tokens"] == (10 + 10 + 3 + 8) / 4
    assert shown["answer_tokens"] == 7
    assert shown["signals_unclosed"] == 0.5
    assert shown["aided_accuracy"] == 0.5
    assert shown["multiplier"] == 0.3
    assert shown["capable_reward"] == pytest.approx(0.5 - 0.3 * 7.75 / 12)
    assert state.controller.value == pytest.approx(0.3 + 0.1 * (7.75 / 12 - 1))
    assert [(row["question"], row["signal"], row["rewards"]) for row in result.samples] == [
        ("q0", "aa", [0.0, 1.0]),
        ("q1", "aa", [0.0, 1.0]),
    ]


def test_the_time_of_a_step_is_told_by_phase(tmp_path, monkeypatch):
    recipe = recipe_in(tmp_path, run={"steps": 1}, control={"kind": "constant", "value": 0.5})
    pair, time = fake_pair(recipe), StandingTime(monkeypatch)
    for one in pair:
        policy = one.speaker.policy
        policy.sample, policy.update = time.taking(1, policy.sample), time.taking(1000, policy.update)
    monkeypatch.setattr(reward, "signal_reward", time.taking(100, reward.signal_reward))
    trained(recipe, pair, toy_task(time.taking(10, lambda questions, responses: [i % 2 for i in range(len(responses))])))
    [metrics] = read_metrics(tmp_path / "trial")
    # signals, then answers are sampled; all answers graded at once; both models updated
    assert [metrics[f"seconds_{phase}"] for phase in ("sample", "score", "shape", "update")] == [2, 10, 100, 2000]
    assert metrics["seconds"] == 2112


# --- who learns from what


def completion(text):
    return Completion((1,), (2,), (0.0,), text, "end")


def test_the_light_models_groups_are_the_signals_or_the_questions():
    answers = [[[completion(f"{q}{s}{a}") for a in "xy"] for s in "st"] for q in "qr"]
    rewards = torch.arange(8.0).reshape(2, 2, 2)
    groups, group_rewards = light_groups(answers, rewards, "signal")
    assert [[c.text for c in group] for group in groups] == [["qsx", "qsy"], ["qtx", "qty"], ["rsx", "rsy"], ["rtx", "rty"]]
    assert group_rewards.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    groups, group_rewards = light_groups(answers, rewards, "question")
    assert [[c.text for c in group] for group in groups] == [["qsx", "qsy", "qtx", "qty"], ["rsx", "rsy", "rtx", "rty"]]
    assert group_rewards.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_each_model_learns_from_its_own_completions_with_its_own_advantages(tmp_path):
    recipe = recipe_in(tmp_path)
    task = toy_task(lambda questions, responses: [float(response == "reply 1") for response in responses])
    capable, light = fake_pair(recipe)
    one_step(recipe, (capable, light), task=task, count=1, state=State(LengthTarget(1.2)))
    [signals], [answers] = capable.speaker.policy.seen, light.speaker.policy.seen
    # aided rewards tie at 0.5; lengths 9, 10 and 11 with λ / B = 0.1 leave the middle one at the baseline
    assert [bytes(datum.tokens).decode() for datum in signals] == ["a</think>", "aa</think>", "aaa</think>"]
    assert [datum.advantages[0] for datum in signals] == pytest.approx([0.1, 0.0, -0.1], abs=1e-6)
    assert all(len(datum.advantages) == len(datum.tokens) for datum in signals)
    assert [bytes(datum.tokens).decode() for datum in answers] == ["reply 0", "reply 1"] * 3
    assert [datum.advantages[0] for datum in answers] == [-0.5, 0.5] * 3


@pytest.mark.parametrize("frozen", ["capable", "light"])
def test_a_frozen_model_stays_as_it_is_and_the_other_learns(tmp_path, frozen):
    recipe = recipe_in(tmp_path, **{frozen: {"train": False}})
    pair = dict(zip(("capable", "light"), tiny_pair(recipe), strict=True))
    before = {role: weights_of(one) for role, one in pair.items()}
    _, metrics, _ = trained(recipe, tuple(pair.values()))
    for role, one in pair.items():
        unchanged = all(torch.equal(before[role][name], weight) for name, weight in weights_of(one).items())
        assert unchanged == (role == frozen)
    assert not any(name.startswith(f"{frozen}_groups") for name in metrics[0])


def test_two_frozen_models_are_an_error(tmp_path):
    recipe = recipe_in(tmp_path, capable={"train": False}, light={"train": False})
    with pytest.raises(ConfigError, match=r"capable\.train and light\.train are both false"):
        trained(recipe, fake_pair(recipe))


@pytest.mark.parametrize("optimizer_steps", [1, 2])
def test_both_models_take_the_same_number_of_optimizer_steps(tmp_path, optimizer_steps):
    recipe = recipe_in(tmp_path, algorithm={"optimizer_steps": optimizer_steps}, control={"value": 0.5})
    pair, _, _ = trained(recipe, fake_pair(recipe))
    assert [one.speaker.policy.updates for one in pair] == [3 * optimizer_steps] * 2


@pytest.mark.parametrize(("schedule", "shares"), [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25])])
@pytest.mark.parametrize("step_function", [None, alone_step])
def test_learning_rates_follow_the_schedule(tmp_path, schedule, shares, step_function):
    recipe = recipe_in(
        tmp_path,
        run={"steps": 4},
        capable={"learning_rate": 0.4},
        light={"learning_rate": 0.8, "train": step_function is None},
        algorithm={"schedule": schedule},
        control={"kind": "constant", "value": 0.5},
    )
    capable, light = fake_pair(recipe, Heard(), Heard())
    task = toy_task(lambda questions, responses: [float(i % 2) for i in range(len(responses))])
    trained(recipe, (capable, light), task, step_function=step_function)
    assert capable.speaker.policy.rates == pytest.approx([0.4 * share for share in shares])
    assert light.speaker.policy.rates == pytest.approx([0.8 * share for share in shares] if step_function is None else [])


# --- every setting runs


@pytest.mark.parametrize("advantage", ADVANTAGES)
@pytest.mark.parametrize(
    ("loss", "aggregation"),
    [("importance_sampling", "token"), ("clipped", "sequence"), ("gspo", "constant"), ("cispo", "token")],
)
def test_every_advantage_runs_with_every_loss(tmp_path, advantage, loss, aggregation):
    recipe = recipe_in(tmp_path, algorithm={"advantage": advantage, "loss": loss, "aggregation": aggregation})
    takes_a_step(recipe)


@pytest.mark.parametrize("loss", ["importance_sampling", "clipped", "gspo", "cispo"])
@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_every_loss_runs_with_every_aggregation_over_two_optimizer_steps(tmp_path, loss, aggregation):
    takes_a_step(recipe_in(tmp_path, algorithm={"loss": loss, "aggregation": aggregation, "optimizer_steps": 2}))


def takes_a_step(recipe):
    pair = tiny_pair(recipe)
    before = [weights_of(one) for one in pair]
    result, _ = one_step(recipe, pair, state=State(LengthTarget(0.5)))
    assert all(math.isfinite(value) for value in result.metrics.values())
    for one, weights in zip(pair, before, strict=True):
        assert not all(torch.equal(weights[name], weight) for name, weight in weights_of(one).items())
    assert result.metrics["capable_skipped_updates"] == result.metrics["light_skipped_updates"] == 0
    return result.metrics


def test_a_limit_on_importance_weights_is_applied_to_what_the_sampler_said(tmp_path):
    metrics = takes_a_step(recipe_in(tmp_path, algorithm={"max_importance_weight": 2.0}))
    assert metrics["capable_truncated_share"] == metrics["light_truncated_share"] == 0
    # sampler and trainer are one here, so weights are 1 but for rounding: a limit below cuts all
    metrics = takes_a_step(recipe_in(tmp_path, algorithm={"max_importance_weight": 0.5}))
    assert metrics["capable_truncated_share"] == metrics["light_truncated_share"] == 1


@pytest.mark.parametrize(("kl_in", "kl_kind"), [("reward", "k1"), ("reward", "k3"), ("loss", "k2"), ("loss", "k3")])
def test_kl_to_the_start_is_nothing_at_first_and_grows(tmp_path, kl_in, kl_kind):
    held = {"kl_coefficient": 0.1}
    recipe = recipe_in(tmp_path, capable=held, light=held, algorithm={"kl_in": kl_in, "kl_kind": kl_kind})
    _, metrics, _ = trained(recipe)
    for role in ("capable", "light"):
        first, *_, last = (record[f"{role}_kl_to_start"] for record in metrics)
        assert first == pytest.approx(0, abs=1e-5)
        assert abs(last) > 1e-3
        assert (f"{role}_kl" in metrics[0]) == (kl_in == "loss")


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_the_kl_term_changes_what_is_learned(tmp_path, kl_in):
    algorithm = {"kl_in": kl_in, "kl_kind": "k3"}
    free, held = (
        trained(recipe_in(tmp_path / str(c), capable={"kl_coefficient": c}, algorithm=algorithm))[0][0] for c in (0.0, 0.5)
    )
    assert not same(free, held)


def test_the_kl_in_the_reward_joins_the_quality_of_the_separate_advantage(tmp_path):
    algorithm = {"advantage": "separate", "kl_in": "reward"}
    free, held = (
        trained(recipe_in(tmp_path / str(c), capable={"kl_coefficient": c}, algorithm=algorithm))[0][0] for c in (0.0, 5.0)
    )
    assert not same(free, held)


# --- what goes wrong


def broken_on(question_id):
    def grade(questions, responses):
        if any(question.id == question_id for question in questions):
            raise ValueError("cannot read this")
        return grade_by_bytes(questions, responses)

    return toy_task(grade)


def test_a_grader_that_fails_ends_the_run_with_the_question(tmp_path):
    recipe = recipe_in(tmp_path)
    with pytest.raises(GraderError, match="'q1': ValueError: cannot read this"):
        one_step(recipe, fake_pair(recipe), task=broken_on("q1"))


@pytest.mark.parametrize("advantage", ["dr_grpo", "reinforce_pp"])
def test_a_question_that_cannot_be_graded_leaves_the_step_and_is_counted(tmp_path, advantage):
    recipe = recipe_in(tmp_path, task={"on_grader_error": "skip"}, algorithm={"advantage": advantage})
    capable, light = fake_pair(recipe, light=Asked(lambda prompt, i: "xy"[i]))
    result, _ = one_step(recipe, (capable, light), task=broken_on("q1"), count=3, state=State(LengthTarget(0.5)))
    assert result.metrics["gradings_skipped"] == 3 * 2 + 2
    assert result.metrics["capable_groups"] == 2
    assert result.metrics["light_groups"] == 2 * 3
    assert [row["question"] for row in result.samples] == ["q0", "q2"]
    learned = {tokenizer().decode(list(datum.prompt)) for datum in capable.speaker.policy.seen[0]}
    assert learned == {f"<|user|>{QUESTIONS[i].text}<|assistant|><think>\n" for i in (0, 2)}


def test_an_unaided_answer_that_cannot_be_graded_matters_only_where_it_is_used(tmp_path):
    def grade(questions, responses):
        if any(response == "alone" and question.id == "q1" for question, response in zip(questions, responses, strict=True)):
            raise ValueError("no")
        return grade_by_bytes(questions, responses)

    for advantage, groups in (("dr_grpo", 2), ("reinforce_pp", 1)):
        recipe = recipe_in(tmp_path, task={"on_grader_error": "skip"}, algorithm={"advantage": advantage})
        light = Asked(lambda prompt, i: "alone" if UNAIDED in tokenizer().decode(list(prompt)) else f"reply {i}")
        result, _ = one_step(recipe, fake_pair(recipe, light=light), task=toy_task(grade))
        assert result.metrics["gradings_skipped"] == 2
        assert result.metrics["capable_groups"] == groups
        assert result.metrics["unaided_accuracy"] == pytest.approx(grade_by_bytes([], ["alone"])[0])


def test_a_step_in_which_nothing_can_be_graded_ends_the_run(tmp_path):
    recipe = recipe_in(tmp_path, task={"on_grader_error": "skip"})
    with pytest.raises(TrainingError, match=r"step 1: no question of the step could be graded \(16 gradings skipped\)"):
        one_step(recipe, fake_pair(recipe), task=toy_task(lambda questions, responses: 1 / 0))


def test_a_step_in_which_nothing_is_right_is_flat_though_its_signals_differ_in_length(tmp_path):
    recipe = recipe_in(tmp_path)
    wrong = toy_task(lambda questions, responses: [0.0] * len(responses))
    result, state = one_step(recipe, fake_pair(recipe), task=wrong, state=State(LengthTarget(0.5), flat_steps=3))
    assert result.metrics["capable_groups_dropped"] == 0
    assert state.flat_steps == 4
    _, state = one_step(recipe, fake_pair(recipe), state=State(LengthTarget(0.5), flat_steps=3))
    assert state.flat_steps == 0


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_steps_without_any_spread_bring_a_warning_that_says_what_to_change(tmp_path, advantage):
    recipe = recipe_in(tmp_path, run={"steps": 20}, algorithm={"advantage": advantage}, control={"kind": "constant"})
    warnings = []
    task = toy_task(lambda questions, responses: [1.0] * len(responses))
    pair, metrics, _ = trained(recipe, fake_pair(recipe), task, warn=warnings.append)
    assert len(warnings) == 2
    assert "no group had any spread in its rewards for 10 steps" in warnings[0]
    assert "Use questions of another difficulty" in warnings[0]
    assert metrics[0]["capable_groups_dropped"] == metrics[0]["capable_groups"] == 2
    assert [one.speaker.policy.updates for one in pair] == [0, 0]


def test_updates_that_are_not_finite_are_counted_and_end_the_run_after_several_in_a_row(tmp_path):
    recipe = recipe_in(tmp_path, run={"steps": 30}, light={"train": False}, control={"value": 0.5})
    capable = NotFinite(finite=(4,))
    capable.reply = lambda prompt, i: "a" * (i + 1) + "</think>"
    with pytest.raises(TrainingError, match=r"5 steps in a row .*not finite.* Lower the learning rate"):
        trained(recipe, fake_pair(recipe, capable), toy_task())
    assert capable.updates == 4 + NOT_FINITE_BEFORE_STOP
    records = read_metrics(tmp_path / "trial")
    assert [record["capable_skipped_updates"] for record in records] == [1, 1, 1, 0, 1, 1, 1, 1, 1]


def test_steps_without_an_update_do_not_save_a_run_whose_updates_are_not_finite(tmp_path):
    recipe = recipe_in(tmp_path, run={"steps": 30}, light={"train": False}, control={"kind": "constant"})
    batches = 0

    def grade(questions, responses):
        """Ties every other step."""
        nonlocal batches
        batches += 1
        return grade_by_bytes(questions, responses) if batches % 2 else [1.0] * len(responses)

    capable, light = NotFinite(), Asked(lambda prompt, i: str(len(prompt)))
    capable.reply = lambda prompt, i: "a" * (i + 1) + "</think>"
    with pytest.raises(TrainingError, match="not finite"):
        trained(recipe, fake_pair(recipe, capable, light), toy_task(grade))
    tried = ["capable_skipped_updates" in record for record in read_metrics(tmp_path / "trial")]
    assert tried == [True, False] * 4 + [True]


def test_a_run_that_ends_with_an_update_that_is_not_finite_warns(tmp_path):
    recipe = recipe_in(tmp_path, light={"train": False}, control={"value": 0.5})
    capable = NotFinite(finite=(1, 2))
    capable.reply = lambda prompt, i: "a" * (i + 1) + "</think>"
    warnings = []
    trained(recipe, fake_pair(recipe, capable), toy_task(), warn=warnings.append)
    assert ["of capable" in warning for warning in warnings] == [True]


def test_a_model_whose_loss_is_not_finite_keeps_its_weights(tmp_path):
    recipe = recipe_in(tmp_path)
    capable, light = tiny_pair(recipe)
    update = capable.speaker.policy.update

    def spoiled(data, *args):
        return update([replace(datum, advantages=(math.nan,) * len(datum.tokens)) for datum in data], *args)

    capable.speaker.policy.update = spoiled
    before = weights_of(capable)
    result, state = one_step(recipe, (capable, light), state=State(LengthTarget(0.5)))
    assert result.metrics["capable_skipped_updates"] == 1
    assert state.not_finite == 1
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(capable).items())


# --- λ


def test_a_harsh_length_target_drives_the_multiplier_up(tmp_path):
    recipe = recipe_in(tmp_path, duet={"length_scale": 1}, control={"kind": "length_target", "rate": 0.02})
    _, metrics, state = trained(recipe)
    multipliers = [record["multiplier"] for record in metrics] + [state.controller.value]
    assert multipliers[0] == 0
    assert multipliers == sorted(multipliers)
    for before, after, record in zip(multipliers, multipliers[1:], metrics, strict=False):
        assert after == pytest.approx(min(1.0, before + 0.02 * (record["signal_tokens"] - 1)))


def test_an_accuracy_floor_is_a_share_of_what_the_capable_model_reaches_alone(tmp_path):
    recipe = recipe_in(tmp_path, control={"kind": "accuracy_floor", "floor": 0.9})
    capable = Asked(lambda prompt, i: "x</think> 1" if i else "y")
    light = Asked(lambda prompt, i: pytest.fail("m is not asked"))
    task = toy_task(lambda questions, responses: [float(response == "1") for response in responses])
    recipe = recipe.model_copy(update={"duet": recipe.duet.model_copy(update={"max_answer_tokens": 20})})
    pair = fake_pair(recipe, capable, light)
    state = start_state(recipe, pair[0].speaker, QUESTIONS, task)
    assert (state.capable_alone, state.floor) == (0.5, 0.45)
    assert state.controller.floor == 0.45
    assert [n for _, n in capable.prompts] == [2] * len(QUESTIONS)
    assert light.prompts == []


def test_the_floor_is_logged_and_measured_once(tmp_path):
    recipe = recipe_in(tmp_path, control={"kind": "accuracy_floor", "floor": 0.9, "tolerance": 0.2})
    _, metrics, state = trained(recipe)
    assert {record["floor"] for record in metrics} == {state.floor}
    assert state.floor == pytest.approx(0.9 * state.capable_alone)
    _, _, again = trained(recipe, tiny_pair(recipe, seed=5), run=Run.open(tmp_path / "trial"))
    assert (again.floor, again.capable_alone) == (state.floor, state.capable_alone)


def test_an_absolute_floor_asks_nobody(tmp_path):
    recipe = recipe_in(tmp_path, control={"kind": "accuracy_floor", "floor": 0.7, "floor_of": "absolute"})
    capable = Asked(lambda prompt, i: pytest.fail("M is not asked"))
    state = start_state(recipe, fake_pair(recipe, capable)[0].speaker, QUESTIONS, toy_task())
    assert (state.floor, state.capable_alone, state.controller.floor) == (0.7, None, 0.7)


def test_a_floor_that_cannot_be_measured_is_an_error(tmp_path):
    recipe = recipe_in(tmp_path, control={"kind": "accuracy_floor"}, task={"on_grader_error": "skip"})
    with pytest.raises(TrainingError, match="M alone could not be graded"):
        start_state(recipe, fake_pair(recipe)[0].speaker, QUESTIONS, toy_task(lambda questions, responses: 1 / 0))


@pytest.mark.parametrize("control", [{"kind": "constant"}, {"kind": "accuracy_floor"}])
def test_a_question_that_is_too_long_is_found_before_the_first_step(tmp_path, control):
    long = Question("long", "?" * 300, "x")
    task = toy_task(questions=[*QUESTIONS, long])
    recipe = recipe_in(tmp_path, run={"steps": 1}, control=control)
    with pytest.raises(DataError, match=r"question long: its prompt of \d+ tokens"):
        trained(recipe, fake_pair(recipe), task)
    assert not (tmp_path / "trial" / "metrics.jsonl").exists()


@pytest.mark.parametrize("advantage_loss", ["clipped", "gspo"])
def test_a_constant_divides_by_the_budget_of_each_model(tmp_path, advantage_loss):
    recipe = recipe_in(tmp_path, algorithm={"aggregation": "constant", "loss": advantage_loss}, control={"value": 0.5})
    pair = fake_pair(recipe, Heard(), Heard())
    trained(recipe, pair, toy_task(lambda questions, responses: [float(i % 2) for i in range(len(responses))]))
    budgets = [recipe.duet.max_signal_tokens, recipe.duet.max_answer_tokens]
    assert [one.speaker.policy.loss.constant_length for one in pair] == budgets
