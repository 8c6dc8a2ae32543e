"""Charts in Chromium as they are read off: by mouse, finger and arrow keys; and what marks they have."""

import itertools

import pytest

from report.made import evaluation, made, result, said

pytest.importorskip("playwright", reason="pages are tested with playwright, which is not installed")
from playwright.sync_api import expect

from report.reading import reading

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


def rewards(values):
    return [{"step": i, "reward": value} for i, value in enumerate(values, 1)]


def tap(page, chart, across):
    """A finger at a share of a chart's width."""
    place = page.locator(f"#chart-{chart} .chart")
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    page.touchscreen.tap(box["x"] + across * box["width"], box["y"] + box["height"] / 2)
    return place.locator(".readout")


def test_a_finger_reads_a_line_off_and_puts_the_words_away(browser, tmp_path):
    run = made(tmp_path / "run", metrics=rewards([0.25, 0.5, 0.75]))
    with reading(browser, [run], tmp_path / "report.html", "training", **PHONE) as page:
        readout = tap(page, "reward", 0.95)
        expect(readout).to_be_visible()
        expect(readout).to_contain_text("step 3")
        expect(readout).to_contain_text("reward: 0.75")
        inside = readout.bounding_box()
        assert inside["x"] >= 0
        assert inside["x"] + inside["width"] <= 360
        tap(page, "reward", 0.2)
        expect(readout).to_contain_text("step 1")
        page.touchscreen.tap(180, 5)
        expect(readout).to_be_hidden()


@pytest.fixture
def policies(tmp_path):
    """A run of two policies, measured at two points, with three responses to a question."""
    systems = {
        name: result(accuracy) | {"diversity": {"different_correct": {"value": count, "low": count, "high": count}}}
        for name, accuracy, count in (("start", 0.25, 1.0), ("run", 0.75, 4.0))
    }
    rows = [said("start", "q", "a b"), said("run", "q", "c d", 0.0), said("run", "q", "e f g")]
    return made(tmp_path / "run", evaluation=evaluation(systems), evaluation_samples=rows)


def test_a_finger_reads_a_point_off_and_puts_the_words_away(browser, policies, tmp_path):
    with reading(browser, [policies], tmp_path / "report.html", **PHONE) as page:
        point = page.locator("#chart-by_diversity .mark-symbol path").nth(1)
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        readout = page.locator("#chart-by_diversity .readout")
        expect(readout).to_be_visible()
        assert readout.inner_text().split("\n") == [
            "run", "different right answers in 2 samples: 4", "different right answers in 2 samples, from: 4",
            "different right answers in 2 samples, to: 4",
            "mean reward: 0.75", "mean reward, from: 0.75", "mean reward, to: 0.75",
        ]  # fmt: skip
        expect(page.locator("#vg-tooltip-element")).to_be_hidden()
        page.touchscreen.tap(180, 5)
        expect(readout).to_be_hidden()


def test_points_are_read_off_with_arrow_keys(browser, policies, tmp_path):
    with reading(browser, [policies], tmp_path / "report.html", "answers") as page:
        chart = page.locator("#chart-plane .chart")
        chart.focus()
        heard = []
        for key in ("ArrowRight", "ArrowRight", "End", "ArrowRight"):
            page.keyboard.press(key)
            heard.append(chart.get_attribute("aria-valuetext"))
        assert len(set(heard)) == 3
        assert heard[2] == heard[3]
        assert any(words.startswith("run: response: c d, reward: 0") for words in heard)
        expect(chart.locator(".readout")).to_be_visible()
        page.keyboard.press("Escape")
        expect(chart.locator(".readout")).to_be_hidden()


def test_a_point_that_stands_alone_has_a_mark_and_a_gap_has_no_line(browser, tmp_path):
    values = {"one": [0.5], "gaps": [0.1, 0.2, None, 0.3, None, 0.4, 0.5], "two": [0.1, 0.2]}
    runs = [made(tmp_path / name, metrics=rewards(its)) for name, its in values.items()]
    for run, lines, points in zip(runs, (0, 2, 1), (1, 1, 0), strict=True):
        with reading(browser, [run], tmp_path / "report.html", "training") as page:
            paths = page.locator("#chart-reward .mark-line path").evaluate_all("all => all.map((one) => one.getAttribute('d'))")
            assert sum("L" in path for path in paths) == lines
            marks = page.locator("#chart-reward .mark-symbol path").all()
            assert len(marks) == points
            assert all(mark.bounding_box()["width"] > 4 for mark in marks)
            value = next(value for value in values[run.name] if value is not None)
            place, height = page.evaluate("value => [views.reward.view.scale('y')(value), views.reward.view.height()]", value)
            assert not points or 4 < place < height - 4  # no mark is cut
            labels = page.locator("#chart-reward .role-axis-label text").all_text_contents()
            assert "1" in labels
            assert "1.5" not in labels


@pytest.mark.parametrize("width", [360, 1280])
def test_labels_of_an_axis_neither_touch_nor_are_cut(browser, tmp_path, width):
    run = made(tmp_path / "run", metrics=rewards([0.5] * 1000))
    with reading(browser, [run], tmp_path / "report.html", "training", viewport={"width": width, "height": 800}) as page:
        svg = page.locator("#chart-reward .chart svg").bounding_box()
        texts = page.locator("#chart-reward .role-axis-label").first.locator("text").all()
        boxes = sorted((text.bounding_box() for text in texts if text.get_attribute("opacity") != "0"), key=lambda box: box["x"])
        assert len(boxes) > 2
        assert boxes[-1]["x"] + boxes[-1]["width"] <= svg["x"] + svg["width"]
        assert all(one["x"] + one["width"] < other["x"] for one, other in itertools.pairwise(boxes))


def test_long_lines_are_told_apart_by_marks_and_short_ones_by_dashes(browser, tmp_path):
    recipes = (("a", []), ("b", ["diversity.shaper=none"]))
    for steps, dashes, marks in ((150, 1, 0), (400, 0, 16)):
        runs = [made(tmp_path / f"{name}-{steps}", overrides=recipe, metrics=rewards([0.5] * steps)) for name, recipe in recipes]
        with reading(browser, runs, tmp_path / "report.html", "training") as page:
            chart = page.locator("#chart-reward")
            assert chart.locator(".chart .mark-line path[stroke-dasharray*='6']").count() == dashes
            shapes = chart.locator(".chart .mark-symbol path").evaluate_all("all => all.map((one) => one.getAttribute('d'))")
            assert len(shapes) == marks
            assert len(set(shapes)) == (2 if marks else 0)
            icons = chart.locator(".legend svg").evaluate_all("all => all.map((one) => one.innerHTML)")
            assert [("path" in icon, "6 3" in icon) for icon in icons] == [(marks > 0, False), (marks > 0, dashes > 0)]


def test_a_long_line_of_its_own_has_its_groups_mark_where_there_are_several(browser, tmp_path):
    row = {"reward": 0.5, "log_det": 1.0}
    shaped = made(tmp_path / "b", metrics=[row | {"step": step} for step in range(1, 401)])
    plain = made(tmp_path / "a", overrides=["diversity.shaper=none"], metrics=rewards([0.5] * 400))
    for runs, marks in (([shaped], 0), ([plain, shaped], 8)):
        with reading(browser, runs, tmp_path / "report.html", "training") as page:
            chart = page.locator("#chart-log_det")
            assert chart.locator(".chart .mark-symbol path").count() == marks
            if marks:
                clip = chart.locator(".chart .mark-line path").first.bounding_box()
                boxes = [mark.bounding_box() for mark in chart.locator(".chart .mark-symbol path").all()]
                assert clip["x"] < min(box["x"] for box in boxes)
                assert max(box["x"] + box["width"] for box in boxes) < clip["x"] + clip["width"]  # none is cut at the end
                assert chart.locator(".legend svg").inner_html() == page.locator("#chart-reward .legend svg").last.inner_html()


def test_a_read_out_of_many_long_runs_follows_the_pointer(browser, tmp_path):
    """It took 0.5 s and more a move while every move went through all rows."""
    steps = 1500
    runs = [made(tmp_path / f"recipe-{i}", overrides=[f"policy.learning_rate={i + 1}e-5"],
                 metrics=rewards([((7919 * s + i) % 1000) / 1000 for s in range(steps)])) for i in range(20)]  # fmt: skip
    with reading(browser, runs, tmp_path / "report.html", "training") as page:
        times = page.evaluate("""async () => {
            const place = document.querySelector("#chart-reward .chart"), box = place.getBoundingClientRect(), times = [];
            for (let i = 0; i < 11; i++) {
              const began = performance.now(), clientX = box.left + 80 + i * 30, clientY = box.top + 60;
              place.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY, pointerType: "mouse" }));
              await new Promise(requestAnimationFrame);
              await new Promise((wake) => setTimeout(wake));
              times.push(performance.now() - began);
            }
            return times.sort((a, b) => a - b);
        }""")
        print(f"a move of the pointer: median {times[5]:.0f} ms, slowest {times[-1]:.0f} ms")
        assert times[5] < 200
        words = page.locator("#chart-reward .readout div").all_inner_texts()
        assert len(words) > 15  # thinned lines have other steps each: what is beside is told, with its step
        assert len({line.partition(":")[0] for line in words}) == len(words)


def test_many_series_are_hidden_and_shown_at_once(browser, tmp_path):
    runs = [made(tmp_path / f"recipe-{i}", overrides=[f"policy.learning_rate={i + 1}e-5"]) for i in range(7)]
    with reading(browser, runs, tmp_path / "report.html", "training") as page:
        legend = page.locator("#chart-reward .legend")
        for press, left in (("none", 0), ("recipe-3", 1), ("all", 7)):
            legend.get_by_role("button", name=press, exact=True).click()
            page.wait_for_function("left => views.reward.view.data('rows').length === left", arg=left)
            assert legend.locator("[aria-pressed=true]").count() == left


def test_the_reader_chooses_the_measure_and_reads_off_what_is_shown(browser, tmp_path):
    row = {"step": 1, "reward": 0.5, "seconds": 2.0, "seconds_sample": 1.0, "seconds_score": 0.25, "seconds_update": 0.75}
    runs = [made(tmp_path / name, overrides=recipe, metrics=[row, row | {"step": 2}])
            for name, recipe in (("a", []), ("b", ["diversity.shaper=none"]))]  # fmt: skip
    with reading(browser, runs, tmp_path / "report.html", "training") as page:
        chart = page.locator("#chart-seconds .chart")
        for measure, value in (("whole step", "2"), ("score", "0.25")):
            page.select_option("#chart-seconds .chooser select", measure)
            chart.focus()
            page.keyboard.press("End")
            assert chart.get_attribute("aria-valuetext") == f"step 2: a: {value}, b: {value}"
