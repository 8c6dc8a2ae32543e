"""Reports of real runs in Chromium: the charts hold what the runs wrote down."""

import pytest

from report.runs import STEPS, lines, metrics_of, systems_of

pytest.importorskip("playwright", reason="pages are tested with playwright, which is not installed")
from report.reading import charts_on, drawn, go_to, line_of, reading, tabs

SIX_DIGITS = 1e-5
OF_DUET = {
    ("accuracy", "aided"): "aided_accuracy", ("accuracy", "unaided"): "unaided_accuracy",
    ("written", "M's signal"): "signal_tokens", ("written", "m's answer"): "answer_tokens",
    ("multiplier", "λ"): "multiplier", ("entropy", "M"): "capable_entropy", ("grad_norm", "M"): "capable_grad_norm",
    ("seconds", "whole step"): "seconds", ("seconds", "sample"): "seconds_sample", ("seconds", "score"): "seconds_score",
    ("seconds", "shape"): "seconds_shape", ("seconds", "update"): "seconds_update", ("unfinished", "signals"): "signals_unclosed",
    ("loss", "M"): "capable_loss",
}  # fmt: skip
OF_DQO = {
    "reward": "reward", "log_det": "log_det", "entropy": "entropy", "grad_norm": "grad_norm", "alpha": "alpha", "loss": "loss",
    "written": "response_tokens", "unfinished": "responses_unfinished", "seconds": "seconds",
}  # fmt: skip


def near(values):
    return {key: pytest.approx(value, rel=SIX_DIGITS) for key, value in values.items()}


def test_the_charts_of_duet_hold_its_metrics(browser, duet, tmp_path):
    with reading(browser, [duet], tmp_path / "report.html") as page:
        assert tabs(page) == ["result", "training", "samples", "runs"]
        go_to(page, "training")
        for (chart, series), name in OF_DUET.items():
            expected = metrics_of(duet, name)
            assert len(expected) > 1 or name.startswith("capable_")  # M has none where all its signals were alike
            assert line_of(drawn(page, chart), series) == near(expected), name
        for series, who in (("M", "capable"), ("m", "light")):
            dropped = {line["step"]: line[f"{who}_groups_dropped"] / line[f"{who}_groups"]
                       for line in lines(duet / "metrics.jsonl")}  # fmt: skip
            assert line_of(drawn(page, "dropped"), series) == near(dropped)
        shown = {(chart, row["series"]) for chart in charts_on(page) for row in drawn(page, chart)}
        assert shown == {*OF_DUET, ("dropped", "M"), ("dropped", "m")}  # and nothing that was not compared
        svgs = page.locator("#panel-training .chart svg").all()
        assert len(svgs) == len(charts_on(page)) > 8
        assert min(svg.bounding_box()["width"] for svg in svgs) > 200


def test_the_result_of_duet_is_its_evaluation_with_every_baseline(browser, duet, tmp_path):
    systems = systems_of(duet)
    assert len(systems) > 6
    with reading(browser, [duet], tmp_path / "report.html") as page:
        rows = {row["series"]: row for row in drawn(page, "by_tokens")}
        assert list(rows) == list(systems)
        for name, system in systems.items():
            accuracy = system["accuracy"]
            expected = {"x": system["capable_output_tokens"], "y": accuracy["value"]}
            expected |= {"y_low": accuracy["low"], "y_high": accuracy["high"]}
            assert {key: rows[name][key] for key in expected} == near(expected)
        said = [row for row in lines(duet / "evaluation_samples.jsonl") if row["system"] == "trained pair"]
        bins = [row for row in drawn(page, "lengths") if row["series"] == "trained pair"]
        width = bins[1]["tokens"] - bins[0]["tokens"]
        inside = {row["tokens"]: sum(0 <= s["capable_output_tokens"] - row["tokens"] < width for s in said) for row in bins}
        assert {row["tokens"]: row["value"] for row in bins} == near({at: count / len(said) for at, count in inside.items()})
        sentence = page.locator(".sentence").inner_text()
        assert f"right {100 * systems['trained pair']['accuracy']['value']:.1f}\u00a0% of the time" in sentence
        assert page.locator(".headline dd strong").count() == 3


def test_dqo_beside_grpo(browser, dqo, tmp_path):
    systems = systems_of(dqo[0])
    names = [directory.name for directory in dqo]
    with reading(browser, dqo, tmp_path / "report.html") as page:
        assert tabs(page) == ["result", "training", "answers", "samples", "runs"]
        rows = {row["series"]: row for row in drawn(page, "by_diversity")}
        assert set(rows) == set(systems) == {"start", *names}
        for name, system in systems.items():
            found = system["diversity"]["different_correct"]
            expected = {"x": found["value"], "x_low": found["low"], "x_high": found["high"], "y": system["accuracy"]["value"]}
            assert {key: rows[name][key] for key in expected} == near(expected)
            at = line_of(drawn(page, "pass_at_k"), name, "k")
            assert set(at) == {1, 2, 3, 4}
            assert {1: at[1], 4: at[4]} == near({int(k): each["value"] for k, each in system["pass_at"].items()})
        go_to(page, "training")
        for chart, field in OF_DQO.items():
            for directory in dqo:
                expected = metrics_of(directory, field)
                assert line_of(drawn(page, chart), directory.name) == near(expected), (chart, directory)
                assert expected or directory == dqo[1]
        assert {*charts_on(page)} == {*OF_DQO, "dropped"}
        go_to(page, "runs")
        table = page.locator("#differences").inner_text()
        assert "diversity.shaper" in table
        assert "policy.model" not in table


def test_the_plane_shows_the_responses_of_the_chosen_question(browser, dqo, tmp_path):
    said = lines(dqo[0] / "evaluation_samples.jsonl")
    questions = list(dict.fromkeys(row["question"] for row in said))
    with reading(browser, dqo, tmp_path / "report.html", "answers") as page:
        for question in (questions[0], questions[3]):
            asked = [row for row in said if row["question"] == question]
            label = " ".join(asked[0]["text"].split())
            page.select_option("#chart-plane .chooser select", label)
            rows = drawn(page, "plane")
            assert {row["question"] for row in rows} == {label}
            shown = [(row["series"], row["response"], row["right"], row["times"]) for row in rows]
            expected = {(row["system"], row["response"], row["correct"] == 1) for row in asked}
            assert {one[:3] for one in shown} == expected
            assert sum(one[3] for one in shown) == len(asked)


@pytest.mark.parametrize("seeds", ["duet_seeds", "dqo_seeds"])
def test_five_seeds_are_drawn_as_their_median_and_range(browser, seeds, request, tmp_path):
    directories = request.getfixturevalue(seeds)
    five, name, chart = directories[:5], *(("seconds", "seconds") if seeds == "duet_seeds" else ("reward", "reward"))
    values = [metrics_of(directory, name) for directory in five]
    with reading(browser, directories, tmp_path / "report.html", "training") as page:
        shown = "whole step" if seeds == "duet_seeds" else "quickstart-dqo"
        rows = {row["step"]: row for row in drawn(page, chart) if row["series"] == shown}
        for step in (1, 2):
            at = sorted(run[step] for run in values)
            expected = {"low": at[0], "value": at[2], "high": at[-1]}
            assert {key: rows[step][key] for key in expected} == near(expected)
        assert "median and range of 5 seeds" in page.locator(f"#chart-{chart} figcaption").inner_text()
        go_to(page, "result")
        pair = "trained pair" if seeds == "duet_seeds" else "quickstart-dqo"
        accuracies = sorted(systems_of(directory)[pair]["accuracy"]["value"] for directory in five)
        quality = "by_tokens" if seeds == "duet_seeds" else "by_diversity"
        [row] = [row for row in drawn(page, quality) if row["series"] == pair]
        expected = {"y": accuracies[2], "y_low": accuracies[0], "y_high": accuracies[4]}
        assert {key: row[key] for key in expected} == near(expected)
        assert "medians over 5 evaluations" in page.locator(".how").inner_text()


def test_a_run_in_progress_says_how_far_it_is(browser, running, tmp_path):
    with reading(browser, [running], tmp_path / "report.html") as page:
        assert tabs(page) == ["training", "samples", "runs"]
        assert page.locator("#state").inner_text() == f"going: step 2 of {STEPS}"
        assert f"going is at step 2 of {STEPS}" in page.locator(".sentence").inner_text()
        assert line_of(drawn(page, "reward"), "reward") == near(metrics_of(running, "reward"))
        go_to(page, "runs")
        assert "evaluation.json is missing until the run has ended" in page.locator("dd.alarm").inner_text()


def test_a_run_that_failed_says_where_and_why_as_text(browser, failed, tmp_path):
    with reading(browser, [failed], tmp_path / "report.html") as page:
        sentence = page.locator(".sentence").inner_text()
        assert f"broken failed after step 2 of {STEPS}" in sentence
        assert "no <b>more</b>" in sentence
        assert page.locator("#state").inner_text() == "broken failed at step 3"
        assert set(line_of(drawn(page, "reward"), "reward")) == {1, 2}
