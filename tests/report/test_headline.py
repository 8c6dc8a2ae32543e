"""The answer first: what a report says of pairs, policies, seeds, and of runs without a result."""

import json
import shlex

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
    assert said.how[0].startswith("arithmetic, 3 questions that were not trained on × 2 samples each")
    assert said.how[-1] == "intervals are 95\u00a0%, by bootstrap over questions"


def test_a_pair_that_spends_more_says_so_and_noise_is_called_noise(tmp_path):
    [said] = headlines_of(pair_at(tmp_path / "pair", 0.9, 130.0, difference=0.005))
    assert "answers with 30.0\u00a0% more of M's tokens" in said.sentence
    assert said.sentence.endswith("+0.5 points against M alone, within the noise.")


def test_seeds_of_a_pair_are_a_median_with_their_range(tmp_path):
    runs = [pair_at(tmp_path / f"pair-{i}", 0.8 + 0.05 * i, 40.0 + 10 * i, seed=i) for i in range(3)]
    [said] = headlines_of(*runs)
    assert said.sentence.startswith(
        "The pair answers with 50.0\u00a0% fewer of M's tokens than M alone, and is right 85.0\u00a0%"
    )
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


def test_how_it_was_measured_is_said_once_and_what_is_not_alike_beside_each(tmp_path):
    seeds = [pair_at(tmp_path / f"seeds-{seed}", 0.8, 40.0, seed=seed) for seed in range(2)]
    others = [pair_at(tmp_path / name, 0.6, 20.0, overrides=[f"duet.length_scale={i}"]) for i, name in ((9, "one"), (8, "two"))]
    asked = "arithmetic, 3 questions that were not trained on × 2 samples each, every system asked the same way"
    sampled, over_questions = "temperature 0.6, top-p 0.95, top-k off", "intervals are 95 %, by bootstrap over questions"
    assert [each.how for each in headlines_of(*others)] == [[asked, sampled, over_questions], ["measured as above"]]
    over_seeds = "figures are medians over 2 evaluations, ranges from the lowest to the highest"
    assert [each.how for each in headlines_of(*seeds, *others)] == [
        [asked, sampled, over_seeds],
        ["questions and sampling as above", over_questions],
        ["questions and sampling as above", over_questions],
    ]
    # and what was measured otherwise is said in full
    made(others[1], "duet", overrides=["duet.length_scale=8"],
         evaluation=json.loads((others[1] / "evaluation.json").read_text()) | {"temperature": 1.0})  # fmt: skip
    assert headlines_of(*others)[1].how == [
        asked, "temperature 1, top-p 0.95, top-k off", over_questions,
        "measured otherwise than what stands above, and not taken together with it",
    ]  # fmt: skip


def test_runs_of_one_name_from_two_folders_are_two(tmp_path):
    one = pair_at(tmp_path / "1" / "run", 0.8, 40.0)
    other = pair_at(tmp_path / "2" / "run", 0.6, 20.0, overrides=["duet.length_scale=9"])
    first, second = headlines_of(one, other)
    assert "right 80.0\u00a0%" in first.sentence
    assert "right 60.0\u00a0%" in second.sentence


def test_a_pair_without_m_alone_says_what_it_has(tmp_path):
    run = made(tmp_path / "pair", "duet", evaluation=evaluation({"trained pair": result(0.5, capable_output_tokens=7.0)}))
    [said] = headlines_of(run)
    assert (
        said.sentence
        == "The pair is right 50.0\u00a0% of the time, with 7.0 tokens of M an answer; M alone was not measured beside it."
    )


def test_of_seeds_some_without_m_alone_it_is_said_which_figures_are_of_how_many(tmp_path):
    one = pair_at(tmp_path / "pair-0", 0.88, 40.0, difference=0.005)
    bare = {"trained pair": result(0.5, capable_output_tokens=7.0)}
    [said] = headlines_of(one, made(tmp_path / "pair-1", "duet", 1, evaluation=evaluation(bare)))
    assert "M alone was measured in 1 of 2 evaluations: what is said against it is of these" in said.how
    assert said.sentence.endswith("+0.5 points against M alone, within the noise.")


def policy(accuracy, different, at_2):
    return result(accuracy, diversity={"different_correct": estimate(different, 0.1)}, pass_at={"2": estimate(at_2)})


def test_policies_say_how_many_ways_they_are_right_beside_grpo(tmp_path):
    systems = {"start": policy(0.3, 1.0, 0.4), "ways": policy(0.7, 2.5, 0.9), "plain": policy(0.75, 1.5, 0.8)}
    runs = [
        made(tmp_path / "ways", evaluation=evaluation(systems)),
        made(tmp_path / "plain", overrides=["diversity.shaper=none"]),
    ]
    [said] = headlines_of(*runs)
    assert (
        said.sentence
        == "ways has 2.5 different right answers in 2 at a mean reward of 70.0\u00a0%; plain has 1.5 at 75.0\u00a0%."
    )
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
            "run was stopped after step 3 of 400. In step 3 the mean reward was 25.0\u00a0%. "
            "It goes on with: counterpoint resume {}",
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


def alone(directory):
    """A folder with an evaluation and nothing of a run."""
    for name in ("config.toml", "run.json", "metrics.jsonl", "status.json", "summary.json"):
        (directory / name).unlink()
    return directory


def test_the_folder_of_an_evaluation_of_policies_says_what_it_holds(tmp_path):
    systems = {"start": policy(0.3, 1.0, 0.4), "ways": policy(0.7, 2.5, 0.9), "plain": policy(0.75, 1.5, 0.8)}
    rows = [said(system, f"q{i}", f"{system} {k}") for system in systems for i in range(3) for k in range(4)]
    folder = alone(made(tmp_path / "out", evaluation=evaluation(systems, samples=4), evaluation_samples=rows))
    ways, plain = headlines_of(folder)
    assert ways.sentence == (
        "ways has 2.5 different right answers in 4 at a mean reward of 70.0\u00a0%; start has 1.0 at 30.0\u00a0%."
    )
    assert plain.sentence.startswith("plain has 1.5 different right answers in 4 at a mean reward of 75.0\u00a0%")
    assert ways.how[0].startswith("arithmetic, 3 questions that were not trained on × 4 samples each")
    _, charts = document_of([read_run(folder)])
    curves = {chart.id: set(chart.columns["series"]) for chart in charts}
    assert curves["pass_at_k"] == curves["by_diversity"] == curves["plane"] == set(systems)


def test_an_evaluation_of_untrained_models_says_what_it_holds(tmp_path):
    systems = {
        name: result(accuracy, capable_output_tokens=tokens)
        for name, accuracy, tokens in (("M alone", 0.9, 50.0), ("m alone", 0.2, 0.0), ("untrained pair", 0.6, 30.0))
    }
    rows = [said("untrained pair", f"q{i}", "x", capable_output_tokens=30) for i in range(3)]  # fmt: skip
    folder = alone(made(tmp_path / "untrained", evaluation=evaluation(systems, samples=1), evaluation_samples=rows))
    [found] = headlines_of(folder)
    assert found.sentence == (
        "M alone is right 90.0\u00a0% of the time, with 50.0 tokens of M an answer; m alone is right 20.0\u00a0% of the time, "
        "with 0.0 tokens of M an answer; untrained pair is right 60.0\u00a0% of the time, with 30.0 tokens of M an answer."
    )
    assert [figure.value for figure in found.figures] == ["90.0\u00a0%", "20.0\u00a0%", "60.0\u00a0%"]
    assert found.how
    _, charts = document_of([read_run(folder)])
    assert {chart.id for chart in charts} >= {"by_tokens", "lengths"}


def test_of_several_recipes_of_dqo_each_is_said_and_of_many_which_are_not(tmp_path):
    names = [f"r{letter}" for letter in "abcdef"]
    systems = {"start": policy(0.3, 1.0, 0.4)} | {name: policy(0.5 + i / 100, 2.0 + i, 0.9) for i, name in enumerate(names)}
    runs = [made(tmp_path / name, overrides=[f"diversity.alpha=0.{i + 1}"]) for i, name in enumerate(names)]
    made(runs[0], overrides=["diversity.alpha=0.1"], evaluation=evaluation(systems))
    *each, rest = headlines_of(*runs)
    assert [headline.sentence.split(" has ")[0] for headline in each] == names[:4]
    assert "re" not in [headline.sentence.split()[0] for headline in each]
    assert rest.sentence == "2 more were measured, and are in the charts: re, rf."


def test_an_interval_stands_in_brackets_behind_its_figure(tmp_path):
    systems = {"start": policy(0.3, 1.0, 0.4), "ways": policy(0.7, 2.5, 0.9)}
    systems["start"]["accuracy"] = estimate(0.908, 0.01)
    [found] = headlines_of(made(tmp_path / "ways", evaluation=evaluation(systems)))
    assert found.figures[1].detail == "start: 90.8\u00a0% (89.8 to 91.8)"


def test_a_run_that_does_not_say_whether_it_has_ended_is_not_said_to_have(tmp_path):
    run = made(tmp_path / "run", metrics=[{"step": 1, "reward": 0.25}])
    (run / "status.json").unlink()
    [found] = headlines_of(run)
    assert found.sentence == (
        "run has written down step 1 of 400, and does not say whether it has ended. In step 1 the mean reward was 25.0\u00a0%."
    )
    [missing] = [line for line in read_run(run).missing if line.startswith("status.json")]
    assert missing == "status.json is missing: nothing says whether the run has ended"


def test_a_run_that_is_not_evaluated_is_said_beside_one_that_is(tmp_path):
    one = made(tmp_path / "one", evaluation=evaluation({"start": result(0.2), "one": result(0.5)}))
    other = made(tmp_path / "other", overrides=["run.steps=9"])
    found = [headline.sentence for headline in headlines_of(one, other)]
    assert found[0].startswith("one has ")
    assert found[1:] == [
        "other has ended and is not evaluated yet. In step 1 the mean reward was 50.0\u00a0%. "
        f"Do it with: counterpoint eval {other}"
    ]


def test_a_damaged_evaluation_is_not_called_none(tmp_path):
    run = made(tmp_path / "run")
    (run / "evaluation.json").write_text("{")
    [found] = headlines_of(run)
    assert found.sentence == f"run: no evaluation that can be read. Do it with: counterpoint eval {run}"


def test_commands_can_be_pasted(tmp_path):
    run = made(tmp_path / "my run; rm 'x'")
    [found] = headlines_of(run)
    assert shlex.split(found.sentence.partition("Do it with: ")[2]) == ["counterpoint", "eval", str(run)]
    stopped = made(tmp_path / "a b", status={"status": "stopped"})
    [found] = headlines_of(stopped)
    assert shlex.split(found.sentence.partition("It goes on with: ")[2]) == ["counterpoint", "resume", str(stopped)]


def test_an_endless_error_is_cut(tmp_path):
    [found] = headlines_of(made(tmp_path / "run", status={"status": "failed", "error": "x" * 10**6}))
    assert len(found.sentence) < 3_000
    assert found.sentence.endswith("more characters]")
