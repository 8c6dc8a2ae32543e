"""Charts over training: what each line is, where it is broken, and when the reader chooses a measure."""

import json
import re

import pytest

from counterpoint.report.document import document_of
from counterpoint.report.page import draw_figures
from counterpoint.report.read import read_run
from counterpoint.report.training import MOST_LINES, over_steps
from report.made import made

RECIPES = ([], ["diversity.shaper=none"], ["policy.learning_rate=1e-3"])


def charts_of(*directories):
    document, _ = document_of([read_run(directory) for directory in directories])
    return {chart["id"]: chart for chart in document["charts"]}


def steps_of(values, field="reward"):
    return [{"step": i, **({} if value == "absent" else {field: value})} for i, value in enumerate(values, 1)]


def test_a_line_is_broken_where_there_was_no_number_and_not_where_nothing_was_measured(tmp_path):
    run = made(tmp_path / "run", metrics=steps_of([0.1, "absent", 0.2, None, 0.3, float("nan"), 0.4, 0.5]))
    columns = charts_of(run)["reward"]["columns"]
    assert columns["step"] == [1, 3, 5, 7, 8]
    assert columns["piece"] == [0, 0, 1, 2, 2]


def test_a_whole_line_has_no_pieces(tmp_path):
    run = made(tmp_path / "run", metrics=steps_of([None, 0.1, "absent", 0.2]))
    assert list(charts_of(run)["reward"]["columns"]) == ["series", "step", "value", "low", "high"]


def test_a_share_without_a_whole_breaks_its_line(tmp_path):
    rows = [{"step": i, "reward": 0.5, "groups_dropped": 1.0, "groups": groups} for i, groups in enumerate((2.0, 0.0, 4.0), 1)]
    columns = charts_of(made(tmp_path / "run", metrics=rows))["dropped"]["columns"]
    assert (columns["step"], columns["value"], columns["piece"]) == ([1, 3], [0.5, 0.25], [0, 1])


def test_of_a_thinned_line_a_gap_stays_if_it_can_be_seen(tmp_path):
    values = [None if 2000 < i <= 2100 or i == 500 else 0.5 for i in range(1, 3001)]
    columns = charts_of(made(tmp_path / "run", metrics=steps_of(values)))["reward"]["columns"]
    first = [step for step, piece in zip(columns["step"], columns["piece"], strict=True) if piece == 0]
    assert set(columns["piece"]) == {0, 1}
    assert first[0] == 1
    assert 500 < first[-1] <= 2000


def test_of_a_run_that_goes_on_only_new_lines_are_gone_through(tmp_path):
    run, looks, seen = made(tmp_path / "run", metrics=steps_of([0.1, 0.2, None])), {}, []

    def measure(line):
        seen.append(line["step"])
        return line["reward"]

    def look(appended):
        with (run / "metrics.jsonl").open("a") as file:
            file.write(appended)
        seen.clear()
        return over_steps(read_run(run, looks), measure), seen

    rows = [json.dumps(row) for row in steps_of([0.1, 0.2, 0.3, 0.4, 0.5])]
    assert look("") == ({1: 0.1, 2: 0.2}, [1, 2, 3])
    assert look(rows[3] + "\n") == ({1: 0.1, 2: 0.2, 4: 0.4}, [4])
    # of a line without its end nothing is kept: what comes behind may damage it
    assert look(rows[4]) == ({1: 0.1, 2: 0.2, 4: 0.4, 5: 0.5}, [1, 2, 3, 4, 5])
    assert look("}\n") == ({1: 0.1, 2: 0.2, 4: 0.4}, [1, 2, 3, 4])
    (run / "metrics.jsonl").write_text(rows[2] + "\n")
    assert look("") == ({3: 0.3}, [3])


def seeds(folder, name, count, overrides=()):
    rows = steps_of([0.1, ord(name) / 1000])
    return [made(folder / f"{name}-{seed}", seed=seed, overrides=overrides, metrics=rows) for seed in range(count)]


@pytest.mark.parametrize(
    ("counts", "notes"),
    [
        ([1], []),
        ([1, 1, 1], []),
        ([3], ["median and range of 3 seeds"]),
        ([3, 3], ["median and range of 3 seeds"]),
        ([3, 1, 2], ["a: median and range of 3 seeds", "c: median and range of 2 seeds", "b-0: one seed"]),
    ],
)
def test_it_says_of_how_many_seeds_each_line_is(tmp_path, counts, notes):
    recipes = zip("abc", counts, RECIPES, strict=False)
    runs = [run for name, count, recipe in recipes for run in seeds(tmp_path, name, count, recipe)]
    assert charts_of(*runs)["reward"]["notes"] == notes


def test_of_more_lines_than_can_be_told_apart_the_reader_chooses_a_measure(tmp_path):
    phases = {"seconds": 2.0, "seconds_sample": 1.0, "seconds_score": 0.1, "seconds_update": 0.9}
    rows = [{"step": 1, "reward": 0.5, "floor": 0.4, **phases}]
    runs = [made(tmp_path / name, overrides=recipe, metrics=rows) for name, recipe in zip("abc", RECIPES, strict=True)]
    charts = charts_of(*runs)
    seconds, reward = charts["seconds"], charts["reward"]
    assert 3 * len(phases) > MOST_LINES >= 3 * 2
    assert seconds["choose"] == "measure"
    assert [series["name"] for series in seconds["series"]] == ["a", "b", "c"]
    assert list(dict.fromkeys(seconds["columns"]["measure"])) == ["whole step", "sample", "score", "update"]
    assert seconds["columns"]["value"] == [2.0, 1.0, 0.1, 0.9] * 3
    assert (reward["choose"], len(reward["series"])) == ("", 6)
    assert charts_of(runs[0])["seconds"]["choose"] == ""


def test_lines_that_lie_on_each_other_are_named(tmp_path):
    rows = [{"step": step, "reward": step / 4, "floor": 0.5, "loss": 1.0} for step in range(1, 4)]
    runs = [made(tmp_path / f"r{i}", overrides=overrides, metrics=rows) for i, overrides in enumerate(RECIPES[:2])]
    runs.append(made(tmp_path / "other", overrides=RECIPES[2], metrics=[row | {"loss": 2.0} for row in rows]))
    charts = charts_of(*runs)
    assert charts["loss"]["notes"] == ["the same, and drawn over each other: r0, r1"]
    same = ["reward · r0, reward · r1, reward · other", "floor · r0, floor · r1, floor · other"]
    assert charts["reward"]["notes"] == [f"the same, and drawn over each other: {names}" for names in same]


def test_half_of_a_line_at_the_edge_is_not_cut_off(tmp_path):
    rows = [{"step": step, "loss": 1.0, "responses_unfinished": step % 2 / 2} for step in range(1, 5)]
    _, charts = document_of([read_run(made(tmp_path / "run", metrics=rows))])
    draw_figures([chart for chart in charts if chart.id == "unfinished"], tmp_path)
    svg = (tmp_path / "unfinished.svg").read_text("utf-8")
    [line] = re.findall(r'aria-roledescription="line mark" d="M([^"]+)"', svg)
    [height] = re.findall(r'<clipPath id="clip\d+"><rect x="0" y="0" width="[\d.]+" height="([\d.]+)"', svg)
    heights = {float(point.partition(",")[2]) for point in line.split("L")}
    assert heights == {1, float(height) - 1}


def test_a_band_has_no_width_where_the_seeds_agree(tmp_path):
    def seed(i, values):
        rows = [{"step": step, "loss": value} for step, value in enumerate(values, 1)]
        return made(tmp_path / f"run-{i}", seed=i, metrics=rows)

    runs = [read_run(seed(0, (0, 0, 0, 1, 0))), read_run(seed(1, (1, 0, 0, 0, 0)))]
    _, charts = document_of(runs)
    draw_figures([chart for chart in charts if chart.id == "loss"], tmp_path)
    svg = (tmp_path / "loss.svg").read_text("utf-8")
    [area] = re.findall(r'aria-roledescription="area mark" d="M([^"]+)Z"', svg)
    edges = {}
    for across, up in (map(float, point.split(",")) for point in area.split("L")):
        edges.setdefault(across, set()).add(up)
    assert [len(edges[across]) for across in sorted(edges)] == [2, 1, 1, 2, 1]
