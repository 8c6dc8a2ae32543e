"""The answer first: what a report says of pairs, policies, seeds, and of runs without a result."""

import pytest

from counterpoint.report.document import document_of
from counterpoint.report.groups import grouped
from counterpoint.report.headline import headlines
from counterpoint.report.measured import share_of_tokens
from counterpoint.report.read import read_run
from report.made import estimate, evaluation, made, result, said


def headlines_of(*directories):
    runs = [read_run(directory) for directory in directories]
    return headlines(grouped([run for run in runs if run.kind != "evaluation"]), runs)


def pair_at(directory, accuracy, tokens, seed=0, difference=-0.02, **more):
    """A run of DUET; M alone is right 90\u00a0% of the time with 100 tokens."""
    systems = {
        "M alone": result(0.9, capable_output_tokens=100.0, token_share=1.0),
        "trained pair": result(
            accuracy, capable_output_tokens=tokens, token_share=tokens / 100, accuracy_difference=estimate(difference, 0.01)
        ),
    }
    rows = [said(name, f"q{i}", "x", capable_output_tokens=each)
            for name, its in (("trained pair", (tokens - 10, tokens + 10)), ("M alone", (80, 120)))
            for i, each in enumerate(its)]  # fmt: skip
    return made(directory, "duet", seed, evaluation=evaluation(systems), evaluation_samples=rows, **more)


def test_a_pair_says_what_it_saves_and_keeps(tmp_path):
    run = pair_at(tmp_path / "pair", 0.88, 40.0)
    [said] = headlines_of(run)
    assert said.sentence == (
        "The pair answers with 60.0\u00a0% fewer of M's tokens than M alone, and is right 88.0\u00a0% of the time: "
        "−2.0 points against M alone."
    )
    saved, accuracy, against = said.figures
    share = share_of_tokens(read_run(run).evaluation_samples)
    assert (saved.label, saved.value) == ("M's tokens saved", "60.0\u00a0%")
    assert saved.detail == f"{100 - 100 * share.high:.1f} to {100 - 100 * share.low:.1f}; 40.0 an answer, 100.0 by M alone"
    assert (accuracy.value, against.value, against.detail) == ("88.0\u00a0%", "−2.0 points", "−3.0 to −1.0")
    assert said.how[0].startswith("arithmetic, 3 questions × 2 samples each, questions that were not trained on")
    assert said.how[-1] == "intervals are 95\u00a0%, by bootstrap over questions"


def test_a_pair_that_spends_more_says_so_and_noise_is_called_noise(tmp_path):
    [said] = headlines_of(pair_at(tmp_path / "pair", 0.9, 130.0, difference=0.005))
    assert "answers with 30.0\u00a0% more of M's tokens" in said.sentence
    assert said.sentence.endswith("+0.5 points against M alone, within the noise.")


def test_seeds_of_a_pair_are_a_median_with_their_range(tmp_path):
    runs = [pair_at(tmp_path / f"pair-{i}", 0.8 + 0.05 * i, 40.0 + 10 * i, seed=i) for i in range(3)]
    [said] = headlines_of(*runs)
    assert said.sentence.startswith("The pair answers with 50.0\u00a0% fewer of M's tokens than M alone, and is right 85.0\u00a0%")
    assert said.figures[0].detail.startswith("40.0 to 60.0; ")
    assert said.figures[1].detail == "80.0 to 90.0"
    assert "medians over 3 evaluations" in said.how[-1]


def test_pairs_of_different_recipes_are_not_taken_for_seeds(tmp_path):
    one = pair_at(tmp_path / "one", 0.8, 40.0)
    other = pair_at(tmp_path / "other", 0.6, 20.0, overrides=["duet.length_scale=9"])
    first, second = headlines_of(one, other)
    assert first.sentence.startswith("The pair of one answers with 60.0\u00a0% fewer")
    assert second.sentence.startswith("The pair of other answers with 80.0\u00a0% fewer")
    document, _ = document_of([read_run(one), read_run(other)])
    [chart] = [chart for chart in document["charts"] if chart["id"] == "by_tokens"]
    points = dict(zip(chart["columns"]["series"], chart["columns"]["y"], strict=True))
    assert points == {"M alone": 0.9, "trained pair · one": 0.8, "trained pair · other": 0.6}


def test_runs_of_one_name_from_two_folders_are_two(tmp_path):
    one = pair_at(tmp_path / "1" / "run", 0.8, 40.0)
    other = pair_at(tmp_path / "2" / "run", 0.6, 20.0, overrides=["duet.length_scale=9"])
    first, second = headlines_of(one, other)
    assert "right 80.0\u00a0%" in first.sentence
    assert "right 60.0\u00a0%" in second.sentence


def test_a_pair_without_m_alone_says_what_it_has(tmp_path):
    run = made(tmp_path / "pair", "duet", evaluation=evaluation({"trained pair": result(0.5, capable_output_tokens=7.0)}))
    [said] = headlines_of(run)
    assert said.sentence == "The pair is right 50.0\u00a0% of the time, with 7.0 tokens of M an answer; M alone was not measured beside it."


def policy(accuracy, different, at_2):
    return result(accuracy, diversity={"different_correct": estimate(different, 0.1)}, pass_at={"2": estimate(at_2)})


def test_policies_say_how_many_ways_they_are_right_beside_grpo(tmp_path):
    systems = {"start": policy(0.3, 1.0, 0.4), "ways": policy(0.7, 2.5, 0.9), "plain": policy(0.75, 1.5, 0.8)}
    runs = [
        made(tmp_path / "ways", evaluation=evaluation(systems)),
        made(tmp_path / "plain", overrides=["diversity.shaper=none"]),
    ]
    [said] = headlines_of(*runs)
    assert said.sentence == "ways has 2.5 different right answers in 2 at a mean reward of 70.0\u00a0%; plain has 1.5 at 75.0\u00a0%."
    assert [(figure.label, figure.value) for figure in said.figures] == [
        ("Different right answers in 2", "2.5"), ("Mean reward", "70.0\u00a0%"), ("pass@2", "90.0\u00a0%"),
    ]  # fmt: skip
    assert said.figures[0].detail == "2.4 to 2.6; plain: 1.5 (1.4 to 1.6)"
    # without GRPO it is compared with its start
    [alone] = headlines_of(runs[0])
    assert alone.sentence.endswith("; start has 1.0 at 30.0\u00a0%.")
    # the order in which they are given is not what makes one the subject
    [turned] = headlines_of(*reversed(runs))
    assert turned.sentence == said.sentence


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ({"status": "running"}, "run is at step 3 of 400. In step 3 the mean reward was 25.0\u00a0%."),
        ({"status": "failed", "error": "it <broke>"}, "run failed after step 3 of 400: it <broke>"),
        ({"status": "failed"}, "run failed after step 3 of 400: the reason was not written down"),
        (
            {"status": "stopped"},
            "run was stopped after step 3 of 400. In step 3 the mean reward was 25.0\u00a0%. It goes on with: counterpoint resume {}",
        ),
        (
            {"status": "finished"},
            "run has ended and is not evaluated yet. In step 3 the mean reward was 25.0\u00a0%. Do it with: counterpoint eval {}",
        ),
    ],
)
def test_a_run_without_a_result_says_how_it_stands(tmp_path, status, sentence):
    run = made(tmp_path / "run", status=status, metrics=[{"step": step, "reward": 0.25} for step in (1, 2, 3)])
    assert [said.sentence for said in headlines_of(run)] == [sentence.format(run)]


def test_nothing_to_say_is_said(tmp_path):
    run = made(tmp_path / "run", "warmup", metrics=None)
    document, charts = document_of([read_run(run)])
    assert document["headlines"][0]["sentence"] == "Nothing has been measured yet."
    assert charts == []


def test_the_policies_of_a_gateway_are_shown_by_their_tokens(tmp_path):
    folder = made(tmp_path / "gateway", evaluation=evaluation({"capable": result(0.9), "duet": result(0.8)}))
    for name in ("config.toml", "run.json", "metrics.jsonl"):
        (folder / name).unlink()
    _, charts = document_of([read_run(folder)])
    assert {chart.id: chart.columns["series"] for chart in charts} == {"by_tokens": ["capable", "duet"]}


def test_where_m_alone_was_mostly_silent_the_share_has_no_interval(tmp_path):
    rows = [said(name, f"q{i}", "x", capable_output_tokens=each)
            for name, its in (("trained pair", (1, 1, 1)), ("M alone", (0, 0, 300)))
            for i, each in enumerate(its)]  # fmt: skip
    run = pair_at(tmp_path / "pair", 0.88, 40.0)
    assert share_of_tokens(rows) is None
    made(run, "duet", evaluation=None, evaluation_samples=rows)
    [found] = headlines_of(run)
    assert (found.figures[0].value, found.figures[0].detail) == ("60.0\u00a0%", "40.0 an answer, 100.0 by M alone")


def test_many_runs_that_are_not_evaluated_are_one_sentence(tmp_path):
    runs = [made(tmp_path / f"run-{seed}", seed=seed) for seed in range(5)]
    [said] = headlines_of(*runs)
    assert said.sentence == (
        f"run-0, run-1, run-2 and 2 more have ended and are not evaluated yet. Do it with: counterpoint eval {runs[0]}"
    )
    failed = made(tmp_path / "broken", status={"status": "failed", "error": "why"})
    assert [each.sentence for each in headlines_of(*runs, failed)] == ["broken failed after step 1 of 400: why", said.sentence]
