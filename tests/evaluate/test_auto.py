"""`auto`'s threshold: by hand, by property, and out of an evaluation of a pair."""

import asyncio
import io
import json
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from counterpoint.evaluate.auto import TOLERANCE, Auto, BothWays, lowest_threshold, set_threshold
from counterpoint.evaluate.baselines import Attempt, Call, Settings, light_alone, light_alone_with_confidence, pair
from counterpoint.evaluate.metrics import Estimate
from counterpoint.evaluate.results import Evaluation, Measured
from counterpoint.evaluate.run import SAMPLES, UNAIDED, Speakers, both_ways, evaluate_pair, evaluate_systems
from counterpoint.evaluate.show import print_table
from counterpoint.gateway.config import UpstreamConfig
from counterpoint.gateway.policies import confidence
from counterpoint.gateway.types import Ask, Message, Piece, Sampling
from counterpoint.gateway.upstreams.local import LocalUpstream
from counterpoint.policy.prompting import Speaker
from counterpoint.rl.data import make_data
from counterpoint.rl.types import Question, SamplingParams
from fakes import FakePolicy


def one(confidence, light, pair=1.0, tokens=10):
    return BothWays(confidence, light, pair, tokens)


def rendered(evaluation):
    console = Console(file=io.StringIO(), width=110)
    print_table(evaluation, console)
    return console.file.getvalue()


def share_and_accuracy(tried_Q, threshold):
    stands = [
        [t.confidence is not None and threshold is not None and t.confidence >= threshold for t in group] for group in tried_Q
    ]
    rewards = [
        fmean(t.light if alone else t.pair for t, alone in zip(group, flags, strict=True))
        for group, flags in zip(tried_Q, stands, strict=True)
    ]
    return fmean(fmean(flags) for flags in stands), fmean(rewards)


@pytest.mark.parametrize(
    ("light", "tolerance", "threshold"),
    [
        ([1, 1, 0, 0], 0.0, -0.2),  # by falling confidence: right, right, wrong, wrong
        ([1, 1, 0, 0], 0.25, -0.3),
        ([1, 1, 0, 0], 0.5, -0.4),
        ([0, 1, 1, 1], 0.0, None),  # what it is surest of is wrong
        ([0, 0, 0, 0], 0.005, None),
        ([1, 1, 1, 1], 0.0, -0.4),
    ],
)
def test_the_threshold_is_the_lowest_that_keeps_the_pairs_accuracy_less_the_tolerance(light, tolerance, threshold):
    tried = [[one(-0.1 * (i + 1), reward)] for i, reward in enumerate(light)]
    found = lowest_threshold(tried, tolerance)
    assert found == (None if threshold is None else pytest.approx(threshold))


def test_where_the_pair_is_wrong_a_wrong_answer_of_m_costs_nothing():
    assert lowest_threshold([[one(-0.1, 0, pair=0)], [one(-0.2, 1, pair=0)], [one(-0.3, 0, pair=1)]], 0.0) == -0.3


def test_answers_of_one_confidence_stand_or_fall_together():
    assert lowest_threshold([[one(-0.1, 1)], [one(-0.1, 0)]], 0.0) is None


def test_an_answer_without_tokens_is_never_sure():
    assert lowest_threshold([[one(None, 1)]], 0.0) is None
    assert not one(None, 1).is_sure(-100.0)


def test_it_is_set_on_every_other_question_and_measured_on_the_rest():
    setting = [[one(-0.1, 1), one(-0.2, 1)], [one(-0.3, 1), one(-0.9, 0)]]
    measuring = [[one(-0.25, 0, tokens=7), one(-0.5, 1, tokens=8)], [one(-0.1, 1, pair=0, tokens=9), one(-0.4, 0, tokens=20)]]
    auto = set_threshold([setting[0], measuring[0], setting[1], measuring[1]], tolerance=0.0)
    assert auto.threshold == -0.3
    assert auto.share_light == 0.5
    assert auto.accuracy.value == pytest.approx((0.5 + 1.0) / 2)  # 0 by m, 1 by the pair; 1 by m, 1 by the pair
    assert auto.accuracy_difference.value == pytest.approx(0.75 - (1.0 + 0.5) / 2)
    assert auto.capable_output_tokens == (8 + 20) / 4
    assert (auto.accuracy.low, auto.accuracy.high) == (0.5, 1.0)


def test_where_no_threshold_helps_all_go_to_the_pair():
    auto = set_threshold([[one(-0.1, 0, tokens=4)], [one(-0.2, 0, tokens=6)]])
    assert (auto.threshold, auto.share_light, auto.accuracy.value, auto.capable_output_tokens) == (None, 0.0, 1.0, 6.0)
    assert auto.accuracy_difference == Estimate(0.0, 0.0, 0.0)
    assert auto.tolerance == 0.005


@pytest.mark.parametrize(("right", "helps"), [(4, False), (5, True)])
def test_a_threshold_for_a_few_lucky_answers_is_none(right, helps):
    """Of a hundred questions that it is set on, m is right in some."""
    setting = [[one(-0.1 if i < right else -1.0, float(i < right))] for i in range(100)]
    auto = set_threshold([group for of_setting in setting for group in (of_setting, of_setting)])
    assert auto.share_light == (0.05 if helps else 0.0)
    assert (auto.threshold is not None) == helps


def test_one_question_cannot_be_halved():
    assert set_threshold([[one(-0.1, 1)]]) is None
    assert set_threshold([]) is None


answers = st.builds(
    BothWays,
    confidence=st.none() | st.floats(-5, 0),
    light=st.sampled_from([0.0, 0.5, 1.0]),
    pair=st.sampled_from([0.0, 0.5, 1.0]),
    capable_tokens=st.integers(0, 50),
)


@given(st.lists(st.lists(answers, min_size=1, max_size=4), min_size=1, max_size=8), st.floats(0, 0.3))
def test_it_never_loses_more_than_the_tolerance_where_it_was_set_and_no_lower_threshold_would_do(tried, tolerance):
    threshold = lowest_threshold(tried, tolerance)
    of_pair = share_and_accuracy(tried, None)[1]
    assert share_and_accuracy(tried, threshold)[1] >= of_pair - tolerance - 1e-6
    others = {t.confidence for group in tried for t in group if t.confidence is not None}
    for lower in others:
        if threshold is None or lower < threshold:
            assert share_and_accuracy(tried, lower)[1] < of_pair - tolerance + 1e-6


@given(st.lists(st.lists(answers, min_size=1, max_size=4), min_size=2, max_size=8))
def test_its_figures_are_those_of_the_other_half(tried):
    auto = set_threshold(tried)
    share, accuracy = share_and_accuracy(tried[1::2], auto.threshold)
    assert (auto.share_light, auto.accuracy.value) == (pytest.approx(share), pytest.approx(accuracy))
    assert auto.threshold in (None, lowest_threshold(tried[::2], TOLERANCE))
    of_setting = [share_and_accuracy(tried[::2], threshold)[1] for threshold in (None, auto.threshold)]
    assert of_setting[1] >= of_setting[0] - TOLERANCE - 1e-6


def test_samples_that_were_not_graded_both_ways_are_left_out():
    light, paired = Attempt("", "", light=(Call(1, 1, "end"),), confidence=-0.1), Attempt("", "", (Call(1, 5, "stop"),))
    unaided = Measured([[light] * 2, [light] * 2], [[1.0, None], [None, 1.0]], 1.0)
    trained = Measured([[paired] * 2, [paired] * 2], [[0.0, 1.0], [1.0, None]], 1.0)
    assert both_ways(unaided, trained) == [[BothWays(-0.1, 1.0, 0.0, 5)]]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_confidence_is_the_untempered_mean_log_probability_of_what_m_says_unaided(temperature, light, task):
    settings = Settings(2, SamplingParams(9, temperature), SamplingParams(4, temperature), seed=5)
    sampled = light_alone_with_confidence(light)(task.test, settings)
    [(_, _, said)] = light.policy.calls
    attempts = [attempt for group in sampled.attempts for attempt in group]
    for attempt, completion in zip(attempts, said, strict=True):
        [logprobs] = light.policy.logprobs(make_data([completion], [0.0]))
        assert attempt.confidence == pytest.approx(fmean(logprobs), abs=1e-5)
        if temperature in (0.0, 1.0):
            assert attempt.confidence == pytest.approx(fmean(completion.logprobs), abs=1e-5)
    plain = light_alone(light)(task.test, settings).attempts
    assert [[replace(attempt, confidence=None) for attempt in group] for group in sampled.attempts] == plain


def test_a_gateway_that_runs_m_itself_is_as_sure_as_was_measured():
    """On one scale whatever the temperature, or the threshold would mean something else than what it was set from."""
    upstream = LocalUpstream("light", UpstreamConfig(path="builtin:light"))
    m, question = Speaker(upstream.policy, upstream.renderer), Question("q", "12+34", "46")
    settings = Settings(4, SamplingParams(9), SamplingParams(8, 0.6, 0.95, 20), seed=5)
    [attempts] = light_alone_with_confidence(m)([question], settings).attempts
    sampling = Sampling(0.6, 0.95, seed=settings.seed_of("answer"), n=4)
    ask = Ask("answer", (Message("user", question.text),), 8, sampling, logprobs=True)

    async def heard():
        try:
            return [piece async for piece in upstream.stream(ask) if isinstance(piece, Piece)]
        finally:
            await upstream.close()

    pieces = asyncio.run(heard())
    for i, attempt in enumerate(attempts):
        assert confidence([piece for piece in pieces if piece.index == i]) == pytest.approx(attempt.confidence, abs=1e-5)


def speakers_of(models):
    return Speakers(models["M"], models["m"], models["trained M"], models["trained m"])


def test_the_evaluation_of_a_pair_sets_it_and_keeps_every_answer_it_was_set_from(models, task, recipe, tmp_path):
    evaluation = evaluate_pair(speakers_of(models), task, recipe, directory=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / SAMPLES).read_text().splitlines()]
    unaided, paired = ([row for row in rows if row["system"] == name] for name in (UNAIDED, "trained pair"))
    tried = [
        [
            BothWays(light["confidence"], light["correct"], both["correct"], both["capable_output_tokens"])
            for light, both in zip(unaided, paired, strict=True)
            if light["question"] == question
        ]
        for question in dict.fromkeys(row["question"] for row in unaided)
    ]
    assert evaluation.auto == set_threshold(tried)
    assert len(unaided) == 5 * 3
    assert not any("confidence" in row for row in rows if row["system"] != UNAIDED)


def test_it_changes_no_other_number(models, task, recipe):
    def of_trained(evaluation):
        return replace(evaluation.systems["trained pair"], seconds_per_batch=0, token_share=None, accuracy_difference=None)

    trained = {"trained pair": pair(models["trained M"], models["trained m"])}
    assert of_trained(evaluate_pair(speakers_of(models), task, recipe)) == of_trained(evaluate_systems(trained, task, recipe))


def test_an_m_that_knows_when_it_is_right_answers_by_itself(models, task, recipe_with):
    """m says `1` and is right, M is never asked."""
    sure = Speaker(FakePolicy(lambda prompt, i: "1"), models["trained m"].renderer)
    everything = recipe_with(questions=6)
    auto = evaluate_pair(replace(speakers_of(models), trained_light=sure), task, everything).auto
    assert (auto.threshold, auto.share_light, auto.capable_output_tokens) == (-0.5, 1.0, 0.0)
    assert auto.accuracy == Estimate(1.0, 1.0, 1.0)


def test_json_round_trip_and_files_from_before(models, task, recipe):
    evaluation = evaluate_pair(speakers_of(models), task, recipe)
    assert isinstance(evaluation.auto, Auto)
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    values = json.loads(evaluation.to_json())
    del values["auto"]
    assert Evaluation.from_json(json.dumps(values)) == replace(evaluation, auto=None)


@pytest.mark.parametrize(
    ("threshold", "line"),
    [
        (
            -0.03125,
            "auto: m alone answers 34 % of the questions, those where it is sure, and the pair the rest: accuracy 96.0 ± 1.5 %, "
            "−0.2 ± 0.4 points to the pair's, with 14.2 of M's tokens. Measured on half of the questions; the threshold, "
            "−0.03125 nats a token, was set on the other half to lose at most 0.5 points",
        ),
        (
            None,
            "auto: m alone answers 0 % of the questions: it could answer fewer than 5 % of them with no more than 0.5 points "
            "lost to the pair's accuracy; `counterpoint serve` does not offer auto",
        ),
    ],
)
def test_the_line_below_the_table(threshold, line, models, task, recipe):
    auto = Auto(threshold, 0.34, Estimate(0.96, 0.945, 0.975), Estimate(-0.002, -0.006, 0.002), 14.21, 0.005)
    evaluation = evaluate_systems({"m alone": light_alone(models["m"])}, task, recipe)
    assert " ".join(rendered(replace(evaluation, auto=auto)).split()).endswith(line)
    assert "auto" not in rendered(evaluation)
