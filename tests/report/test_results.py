"""Charts of evaluations: principal components, pass@k, responses in a plane."""

import numpy as np
import pytest
import torch

from counterpoint.evaluate.metrics import bootstrap_interval, pass_at_k, pass_at_k_Q
from counterpoint.report.document import document_of
from counterpoint.report.read import read_run
from counterpoint.report.results import principal_components
from report.made import estimate, evaluation, made, result, said
from report.runs import lines


def charts_of(*directories):
    _, charts = document_of([read_run(directory) for directory in directories])
    return {chart.id: chart for chart in charts}


@pytest.mark.parametrize(("count", "dimensions"), [(2, 5), (3, 2), (16, 40), (40, 7)])
def test_principal_components_are_those_of_numpy(count, dimensions):
    vectors = np.random.default_rng(count).normal(size=(count, dimensions))
    found = principal_components(torch.tensor(vectors)).numpy()
    centred = vectors - vectors.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    expected = centred @ axes[:, np.argsort(values)[::-1][:2]]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-9)
    assert (found[np.abs(found).argmax(axis=0), [0, 1]] >= 0).all()


@pytest.mark.parametrize("vectors", [[[1.0, 2.0]], [[1.0], [3.0]], [[1.0, 1.0]] * 4])
def test_too_few_or_equal_vectors_have_a_place_too(vectors):
    found = principal_components(torch.tensor(vectors))
    assert found.shape == (len(vectors), 2)
    assert found.isfinite().all()


def test_the_curve_of_pass_at_k_is_evaluations_own(dqo):
    rows = lines(dqo[0] / "evaluation_samples.jsonl")
    chart = charts_of(*dqo)["pass_at_k"]
    for system in ("start", *(directory.name for directory in dqo)):
        rewards = {}
        for row in rows:
            if row["system"] == system:
                rewards.setdefault(row["question"], []).append(row["correct"])
        expected = [pass_at_k_Q(list(rewards.values()), k).mean() for k in (1, 2, 3, 4)]
        shown = [value for name, value in zip(chart.columns["series"], chart.columns["value"], strict=True) if name == system]
        assert shown == pytest.approx(expected, rel=1e-5)


def test_the_curve_of_right_and_wrong_answers_is_the_estimate_without_bias(tmp_path):
    right = {"q0": 1, "q1": 3, "q2": 0}
    rows = [said("start", question, "x", float(i < count)) for question, count in right.items() for i in range(4)]
    run = made(tmp_path / "run", evaluation=evaluation({"start": result(0.3)}, samples=4), evaluation_samples=rows)
    chart = charts_of(run)["pass_at_k"]
    expected = [np.mean([pass_at_k(count, 4, k) for count in right.values()]) for k in (1, 2, 3, 4)]
    assert chart.columns["value"] == pytest.approx(expected, rel=1e-5)


def test_accuracy_against_tokens_has_intervals_on_both_axes(tmp_path):
    tokens = {"q0": 10, "q1": 20, "q2": 60}
    rows = [said("trained pair", question, "x", capable_output_tokens=count) for question, count in tokens.items()]
    systems = {"trained pair": result(0.5, capable_output_tokens=30.0), "M alone": result(0.9, capable_output_tokens=80.0)}
    run = made(tmp_path / "run", "duet", evaluation=evaluation(systems, samples=1), evaluation_samples=rows)
    columns = charts_of(run)["by_tokens"].columns
    shown = {name: ends for name, *ends in zip(*(columns[c] for c in ("series", "x_low", "x", "x_high")), strict=True)}
    low, high = bootstrap_interval([10, 20, 60])
    assert shown["trained pair"] == pytest.approx([low, 30, high], rel=1e-5)
    assert low < 30 < high
    assert shown["M alone"] == [80, 80, 80]  # its responses are not there
    # nor is there an interval of responses that are not those of the evaluation
    made(run, "duet", evaluation=evaluation(systems, samples=1), evaluation_samples=rows[:2])
    assert charts_of(run)["by_tokens"].columns["x_low"] == [30, 80]


def test_a_question_in_the_plane_is_called_by_what_it_asks(tmp_path):
    texts = {"q0": "What is\n 3 + 4?", "q1": "Same?", "q2": "Same?", "q3": "x" * 1000}
    rows = [said("run", question, "a") | {"text": text} for question, text in texts.items()]
    run = made(tmp_path / "run", evaluation=evaluation({"start": result(0.5), "run": result(0.5)}), evaluation_samples=rows)
    asked = charts_of(run)["plane"].columns["question"]
    assert asked[:3] == ["What is 3 + 4?", "Same? (q1)", "Same? (q2)"]
    assert asked[3] == f"{'x' * 160}… [840 more characters]"


def test_responses_that_are_the_same_are_one_point_in_one_place(tmp_path):
    texts = {"start": ["a b", "a b", "c d"], "run": ["a b", "e f", "a b"]}
    rows = [said(system, "q", text, float(text == "a b")) for system, its in texts.items() for text in its]
    run = made(tmp_path / "run", evaluation=evaluation({name: result(0.5) for name in texts}), evaluation_samples=rows)
    columns = charts_of(run)["plane"].columns
    shown = {
        (series, response): (times, right, (x, y))
        for series, response, times, right, x, y in zip(
            *(columns[name] for name in ("series", "response", "times", "right", "x", "y")), strict=True
        )
    }
    assert {key: value[:2] for key, value in shown.items()} == {
        ("start", "a b"): (2, True), ("start", "c d"): (1, False), ("run", "a b"): (2, True), ("run", "e f"): (1, False),
    }  # fmt: skip
    assert shown["start", "a b"][2] == shown["run", "a b"][2]
    assert len({value[2] for value in shown.values()}) == 3


def test_policies_that_were_evaluated_apart_share_a_plane_and_seeds_are_shown_once(tmp_path):
    runs = []
    for name, seed, overrides in (("a-0", 0, []), ("a-1", 1, []), ("b", 0, ["diversity.shaper=none"])):
        rows = [said(system, "q", f"{system} says") for system in ("start", name)]
        runs.append(made(tmp_path / name, seed=seed, overrides=overrides, evaluation_samples=rows,
                         evaluation=evaluation({"start": result(0.5), name: result(0.5)})))  # fmt: skip
    chart = charts_of(*runs)["plane"]
    assert list(zip(chart.columns["series"], chart.columns["response"], strict=True)) == [
        ("start", "start says"), ("a", "a-0 says"), ("b", "b says"),
    ]  # fmt: skip
    assert "the first seed of each" in chart.notes


def test_a_run_may_be_called_like_a_colour(tmp_path):
    run = made(tmp_path / "series-1", evaluation=evaluation({"start": result(0.5), "series-1": result(0.7)}),
               evaluation_samples=[said("start", "q", "a"), said("series-1", "q", "b")])  # fmt: skip
    from counterpoint.report.charts import complete
    from counterpoint.report.palette import LIGHT

    spec = complete(charts_of(run)["plane"], LIGHT, legend=True)
    assert spec["encoding"]["stroke"]["scale"] == {"domain": ["start", "series-1"], "range": list(LIGHT["series"][:2])}


def test_lengths_are_of_all_pairs_and_seeds(tmp_path):
    runs = []
    for name, seed, budget, length in (("a-0", 0, 8, 3), ("a-1", 1, 8, 5), ("b", 0, 9, 7)):
        lengths = {"untrained pair": 9, "trained pair": length}
        rows = [said(system, f"q{i}", "x", capable_output_tokens=tokens) for system, tokens in lengths.items() for i in range(2)]
        measured = evaluation({system: result(0.5) for system in lengths}) | {"seed": seed}
        runs.append(made(tmp_path / name, "duet", seed=seed, overrides=[f"duet.max_signal_tokens={budget}"],
                         evaluation=measured, evaluation_samples=rows))  # fmt: skip
    chart = charts_of(*runs)["lengths"]
    shares = {}
    for name, tokens, share in zip(*(chart.columns[column] for column in ("series", "tokens", "value")), strict=True):
        if share:
            shares.setdefault(name, {})[tokens] = share
    assert shares == {"untrained pair": {9: 1.0}, "trained pair · a": {3: 0.5, 5: 0.5}, "trained pair · b": {7: 1.0}}
    assert chart.notes == ["signals: untrained pair 4, trained pair · a 4, trained pair · b 2", "one bin a token"]


def test_what_is_of_one_evaluation_is_not_called_a_median(tmp_path):
    runs = []
    for name, seed, overrides in (("a-0", 0, []), ("a-1", 1, []), ("b", 0, ["diversity.shaper=none"])):
        systems = {system: result(0.5) | {"diversity": {"vendi_score": estimate(2.0)}} for system in ("start", name)}
        runs.append(made(tmp_path / name, seed=seed, overrides=overrides, evaluation=evaluation(systems) | {"seed": seed}))
    assert charts_of(*runs)["by_diversity"].notes == [
        "start, a: median and range of 2 evaluations", "b: one evaluation", "the interval of one is 95\u00a0% over questions",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reward", "title"), [(0.0, "at least one of k samples is right"), (0.02, "the mean of the best reward in k samples")]
)
def test_pass_at_k_of_rewards_between_right_and_wrong_is_called_what_it_is(tmp_path, reward, title):
    rows = [said("run", f"q{i % 3}", "x", reward if i < 4 else 1.0) for i in range(9)]
    run = made(tmp_path / "run", evaluation=evaluation({"run": result(0.5)}, samples=3), evaluation_samples=rows)
    document, _ = document_of([read_run(run)])
    assert [chart["title"] for chart in document["charts"] if chart["id"] == "pass_at_k"] == [f"pass@k: {title}"]
