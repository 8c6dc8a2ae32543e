"""What stands together: evaluations that were measured alike, under the runs that they are of, each counted once."""

import shutil

import pytest

from counterpoint.config_files import load_recipe
from counterpoint.evaluate.run import LIMITS
from counterpoint.report.document import document_of
from counterpoint.report.groups import distinct, grouped
from counterpoint.report.headline import headlines
from counterpoint.report.measured import evaluations_of_run, tables_of
from counterpoint.report.read import read_run
from report.made import estimate, evaluation, made, result, said


def tables(*directories):
    runs = [read_run(directory) for directory in directories]
    return tables_of(grouped([run for run in runs if run.kind != "evaluation"]), runs)


def entries(table):
    """Name -> the accuracies of its seeds."""
    return {entry.name: [part.result.accuracy.value for part in entry.parts] for entry in table.entries}


def run_at(directory, id, seed=0, overrides=(), **more):
    return made(directory, seed=seed, overrides=overrides, run={"kind": "dqo", "seed": seed, "id": id, "command": ["x"]}, **more)


def by(run, step=1):
    return {"run": run, "step": step}


def folder_of(directory, measured, rows=None):
    """The folder of an evaluation alone."""
    made(directory, evaluation=measured, evaluation_samples=rows)
    for name in ("config.toml", "run.json", "metrics.jsonl", "status.json", "summary.json"):
        (directory / name).unlink()
    return directory


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"temperature": 1.0}, "temperature 1 instead of 0.6"),
        ({"samples": 8}, "samples 8 instead of 2"),
        ({"task": "gsm8k"}, "task gsm8k instead of arithmetic"),
        ({"max_answer_tokens": 64}, "max answer tokens 64 instead of 8"),
        ({"asked": {"name": "arithmetic", "options": {"digits": 9}}}, "task.options.digits 9 instead of none"),
        ({"asked": {"name": "arithmetic"}, "models": {"policy": "m"}, "embedder": "bge"}, "embedder bge instead of none"),
        ({"models": {"policy": "another"}}, "models.policy another instead of builtin:policy"),
    ],
)
def test_seeds_that_were_measured_differently_are_not_one_median(tmp_path, other, words):
    one = made(tmp_path / "run-0", evaluation=evaluation({"start": result(0.2), "run-0": result(0.4)}))
    two = made(tmp_path / "run-1", seed=1, evaluation=evaluation({"start": result(0.2), "run-1": result(0.8)}) | other)
    first, second = tables(one, two)
    assert (entries(first)["run"], entries(second)["run"]) == ([0.4], [0.8])
    assert (first.differs, words in second.differs) == ("", True)
    document, _ = document_of([read_run(one), read_run(two)])
    above, below = document["headlines"]
    assert below["sentence"].endswith(f", measured with {second.differs}.")
    assert "measured otherwise than what stands above, and not taken together with it" in below["how"]
    assert ["40.0" in above["sentence"], "80.0" in below["sentence"], "measured" in above["sentence"]] == [True, True, False]


def test_charts_of_what_was_measured_differently_are_apart_and_say_so(tmp_path):
    def pair(accuracy):
        return {"M alone": result(0.9, capable_output_tokens=9.0), "trained pair": result(accuracy, capable_output_tokens=3.0)}

    one = made(tmp_path / "pair-0", "duet", evaluation=evaluation(pair(0.5)))
    two = made(tmp_path / "pair-1", "duet", seed=1, evaluation=evaluation(pair(0.7)) | {"temperature": 1.0})
    _, charts = document_of([read_run(one), read_run(two)])
    found = {chart.id: chart for chart in charts if chart.section == "result"}
    assert {id: dict(zip(chart.columns["series"], chart.columns["y"], strict=True)) for id, chart in found.items()} == {
        "by_tokens": {"M alone": 0.9, "trained pair": 0.5}, "by_tokens-2": {"M alone": 0.9, "trained pair": 0.7},
    }  # fmt: skip
    assert found["by_tokens"].title == "Accuracy against M's tokens"
    assert found["by_tokens-2"].title == "Accuracy against M's tokens: measured with temperature 1 instead of 0.6"
    assert [chart.notes[-1] for chart in found.values()] == ["arithmetic, 3 questions × 2 samples"] * 2


def test_seeds_that_were_measured_alike_are_one_median_whatever_their_seed(tmp_path):
    runs = [
        made(tmp_path / f"run-{seed}", seed=seed,
             evaluation=evaluation({"start": result(0.2), f"run-{seed}": result(0.5 + seed / 8)}) | {"seed": seed})
        for seed in range(3)
    ]  # fmt: skip
    [table] = tables(*runs)
    assert entries(table) == {"start": [0.2] * 3, "run": [0.5, 0.625, 0.75]}


def test_an_older_evaluation_and_a_new_one_of_the_same_settings_stand_together(tmp_path):
    systems = [{"start": result(0.2), f"run-{seed}": result(0.4)} for seed in range(2)]
    old = made(tmp_path / "run-0", evaluation=evaluation(systems[0]))
    task = load_recipe("quickstart-dqo").task
    recorded = {"asked": task.model_dump(exclude=set(LIMITS), exclude_none=True), "models": {"policy": "builtin:policy"}}
    new = made(tmp_path / "run-1", seed=1, evaluation=evaluation(systems[1]) | recorded)
    [table] = tables(old, new)
    assert entries(table)["run"] == [0.4, 0.4]


def test_what_an_evaluation_measured_is_known_by_the_id_of_the_run(tmp_path):
    plain = ["diversity.shaper=none"]
    mine = run_at(tmp_path / "1" / "grpo", "a" * 12, overrides=plain)
    theirs = run_at(tmp_path / "2" / "grpo", "b" * 12, overrides=[*plain, "run.steps=9"])
    measured = evaluation({"start": result(0.2), "grpo": result(0.7)}) | {"trained": {"grpo": by("b" * 12)}}
    run = run_at(tmp_path / "dqo", "c" * 12, evaluation=measured)
    runs = [read_run(directory) for directory in (mine, theirs, run)]
    groups = grouped(runs)
    [table] = tables_of(groups, runs)
    [part] = [part for part in table.parts if part.system == "grpo"]
    assert groups[part.name] == [runs[1]]
    assert [evaluations_of_run(each, runs) for each in runs] == [[], [runs[2]], []]
    # without that run it is of none, whatever the names are
    [table] = tables(mine, run)
    assert entries(table) == {"start": [0.2], "grpo (not given)": [0.7]}


def test_an_older_evaluation_that_names_two_runs_is_said_to_be_ambiguous(tmp_path):
    one = made(tmp_path / "1" / "grpo", overrides=["diversity.shaper=none"])
    two = made(tmp_path / "2" / "grpo", overrides=["diversity.shaper=none", "run.steps=9"])
    run = made(tmp_path / "dqo", evaluation=evaluation({"start": result(0.2), "dqo": result(0.6), "grpo": result(0.7)}))
    [table] = tables(one, two, run)
    assert entries(table) == {"start": [0.2], "dqo": [0.6], "grpo (ambiguous)": [0.7]}
    [note] = table.notes
    assert "does not say which of 2 runs of the name grpo it measured" in note
    runs = [read_run(each) for each in (one, two, run)]
    assert note in headlines(grouped(runs), runs)[0].how
    assert [evaluations_of_run(each, runs) for each in runs[:2]] == [[], []]


def test_an_older_folder_that_does_not_say_how_it_was_asked_stands_apart(tmp_path):
    run = made(tmp_path / "run", evaluation=evaluation({"start": result(0.2), "run": result(0.4)}))
    folder = folder_of(tmp_path / "folder", evaluation({"start": result(0.2), "run": result(0.4)}))
    assert tables(run, folder)[1].differs == "models and task options that are not said"


def test_a_run_that_is_given_twice_is_one_seed_and_it_is_said(tmp_path, monkeypatch):
    run = made(tmp_path / "run", evaluation=evaluation({"start": result(0.2), "run": result(0.4)}))
    monkeypatch.chdir(tmp_path)
    document, _ = document_of([read_run(run), read_run("run")])
    assert [each["name"] for each in document["runs"]] == ["run"]
    assert document["notes"] == ["run was given more than once, and is counted once"]
    assert document["notes"][0] in document["headlines"][0]["how"]
    assert "medians" not in str(document["headlines"])


def test_a_copy_of_a_run_is_no_seed_of_it(tmp_path):
    run = run_at(tmp_path / "run", "a" * 12)
    shutil.copytree(run, tmp_path / "copy")
    found, [note] = distinct([read_run(run), read_run(tmp_path / "copy")])
    assert [each.directory for each in found] == [run]
    assert note == f"{tmp_path / 'copy'} is a copy of the run in {run}, which alone is counted"


def test_a_run_that_was_measured_twice_alike_is_counted_once(tmp_path):
    measured = evaluation({"start": result(0.2), "run": result(0.4)})
    measured |= {"trained": {"run": by("a" * 12)}, "asked": {"name": "arithmetic"}, "models": {"policy": "p"}}
    run = run_at(tmp_path / "run", "a" * 12, evaluation=measured)
    again = folder_of(tmp_path / "again", measured)
    [table] = tables(run, again)
    assert entries(table) == {"start": [0.2], "run": [0.4]}
    assert table.notes == [f"run was measured twice, in {run} and {again}, and is counted once"]


def test_the_pair_of_a_folder_is_that_of_its_run(tmp_path):
    systems = {"M alone": result(0.9), "trained pair": result(0.5, accuracy_difference=estimate(-0.4), token_share=0.5)}
    run = made(tmp_path / "pair", "duet", run={"kind": "duet", "id": "p" * 12})
    folder = folder_of(tmp_path / "out", evaluation(systems) | {"trained": {"trained pair": by("p" * 12)}},
                       [said("trained pair", "q", "x")])  # fmt: skip
    [table] = tables(run, folder)
    assert {part.system: part.group for part in table.parts}["trained pair"] == "pair"
    runs = [read_run(run), read_run(folder)]
    assert not any("not evaluated" in each.sentence for each in headlines(grouped(runs[:1]), runs))


def test_baselines_that_training_has_changed_are_each_groups_own(tmp_path):
    def systems(accuracy):
        return {"M alone": result(0.9), "M trained alone": result(accuracy), "trained pair": result(accuracy)}

    one = made(tmp_path / "one", "duet", evaluation=evaluation(systems(0.5)))
    other = made(tmp_path / "other", "duet", overrides=["duet.length_scale=9"], evaluation=evaluation(systems(0.7)))
    [table] = tables(one, other)
    assert entries(table) == {
        "M alone": [0.9], "M trained alone · one": [0.5], "trained pair · one": [0.5],
        "M trained alone · other": [0.7], "trained pair · other": [0.7],
    }  # fmt: skip


def test_what_is_measured_twice_in_many_evaluations_is_said_briefly(tmp_path):
    measured = evaluation({name: result(0.4) for name in ("start", "a", "b", "c")})
    measured |= {"trained": {name: by(name * 12) for name in "abc"}, "asked": {"name": "arithmetic"}, "models": {"policy": "p"}}
    folders = [folder_of(tmp_path / f"{i}", measured) for i in range(8)]
    [table] = tables(*folders)
    assert table.notes[0] == f"a, b, c were measured twice, in {folders[0]} and {folders[1]}, and are counted once"
    assert table.notes[5:] == ["so it is with 2 more pairs of evaluations"]
