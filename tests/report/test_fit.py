"""A report that is too large: lines of fewer points with their extremes, then fewer questions, and each is said."""

import json
import random

from counterpoint.report.document import document_of
from counterpoint.report.fit import coarser, fit
from counterpoint.report.page import LIMIT, page
from counterpoint.report.read import read_run
from report.made import made


def size(document):
    return len(json.dumps(document))


def chart_of(count, series=("a", "b")):
    generator = random.Random(0)
    values = [generator.random() for _ in series for _ in range(count)]
    values[count // 2] = 99.0
    columns = {"series": [name for name in series for _ in range(count)], "step": list(range(count)) * len(series)}
    columns |= {"value": values, "low": values, "high": values}
    notes = ["median", "3,000 steps thinned to 1,000 points a line; the extremes of every stretch are kept"]
    return {"id": "reward", "section": "training", "x": "step", "columns": columns, "notes": notes, "choose": ""}


def document_with(charts, questions=0):
    sets = [{"questions": [{"id": i, "text": "x" * 500} for i in range(questions)], "left_out": 0}]
    return {"charts": charts, "samples": sets if questions else [], "headlines": [{"how": []}]}


def test_lines_get_fewer_points_and_keep_their_extremes_and_say_so():
    whole = document_with([chart_of(1000)])
    found = fit(whole, 30_000, size)
    assert size(found) <= 30_000
    [chart] = found["charts"]
    assert 99.0 in chart["columns"]["value"]
    counts = {name: chart["columns"]["series"].count(name) for name in ("a", "b")}
    assert 50 < counts["a"] == counts["b"] < 1000
    assert chart["columns"]["step"][0] == 0
    assert chart["columns"]["step"][-1] == 999
    assert chart["notes"][0] == "median"
    [note] = chart["notes"][1:]
    assert note.startswith("thinned to ")
    assert note.endswith("the extremes of every stretch are kept")
    assert fit(whole, 10**7, size) == whole


def test_samples_do_not_give_way_to_lines_alone():
    found = fit(document_with([chart_of(1000)], questions=200), 60_000, size)
    assert size(found) <= 60_000
    assert 0 < len(found["samples"][0]["questions"]) < 200
    assert 30 < len(found["charts"][0]["columns"]["step"]) < 2000


def test_a_plane_shows_fewer_questions_and_other_charts_stay():
    plane = {"id": "plane", "section": "answers", "choose": "question", "notes": [],
             "columns": {"question": [i // 3 for i in range(72)], "x": list(range(72))}}  # fmt: skip
    assert coarser(plane, 500)["columns"] == {"question": [i // 3 for i in range(36)], "x": list(range(36))}
    other = {"id": "by_tokens", "section": "result", "choose": "", "columns": {"x": list(range(5000))}, "notes": []}
    assert coarser(other, 12) is other


def test_in_the_end_charts_are_left_out_and_it_is_said():
    found = fit(document_with([chart_of(1000, [str(i) for i in range(50)]) for _ in range(10)]), 200_000, size)
    assert size(found) <= 200_000
    assert 0 < len(found["charts"]) < 10
    assert found["headlines"][0]["how"] == [f"{10 - len(found['charts'])} charts had no room here; --json has their numbers"]


def test_twenty_recipes_of_three_thousand_steps_stay_under_the_limit(tmp_path):
    generator = random.Random(0)
    names = ("reward", "log_det", "alpha", "entropy", "kl_to_start", "old_kl", "grad_norm", "loss", "response_tokens", "seconds",
             "seconds_sample", "seconds_score", "seconds_shape", "seconds_update")  # fmt: skip
    runs = []
    for i in range(20):
        metrics = [{"step": step, **{name: generator.random() for name in names}} for step in range(1, 3001)]
        metrics[1234]["reward"] = 50.0 + i
        runs.append(read_run(made(tmp_path / f"recipe-{i}", overrides=[f"diversity.alpha=0.{i + 1}"], metrics=metrics)))
    html = page(*document_of(runs))
    assert LIMIT * 0.6 < len(html.encode()) <= LIMIT
