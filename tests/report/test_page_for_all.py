"""A report for whoever reads it: by keyboard, by ear, on a phone, in the dark, on paper."""

import csv
import io
from importlib.resources import files

import pytest

pytest.importorskip("playwright", reason="pages are tested with playwright, which is not installed")
from playwright.sync_api import expect

from report.made import made
from report.reading import charts_on, drawn, go_to, line_of, reading, tabs
from report.runs import STEPS, lines, metrics_of, systems_of

FITS = "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"


def test_tabs_go_by_arrow_keys_and_the_address_says_which(browser, dqo, tmp_path):
    with reading(browser, dqo, tmp_path / "report.html") as page:
        names = tabs(page)
        page.focus("#tab-result")
        seen = []
        for key in ("ArrowRight", "ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home"):
            page.keyboard.press(key)
            seen.append(page.evaluate("document.activeElement.dataset.tab"))
            assert page.eval_on_selector_all("[role=tabpanel]:not([hidden])", "all => all.map((one) => one.id)") == [
                f"panel-{seen[-1]}"
            ]
            assert page.get_attribute(f"#tab-{seen[-1]}", "aria-selected") == "true"
        assert seen == [names[1], names[2], names[-1], names[0], names[-1], names[0]]
        assert page.eval_on_selector_all("[role=tab]", "all => all.map((tab) => tab.tabIndex)") == [0] + [-1] * (len(names) - 1)
        page.keyboard.press("ArrowRight")
        assert page.url.endswith(f"#{names[1]}")


def test_a_chart_is_read_off_with_arrow_keys(browser, duet, tmp_path):
    tokens = metrics_of(duet, "signal_tokens")
    with reading(browser, [duet], tmp_path / "report.html", "training") as page:
        chart = page.locator("#chart-written .chart")
        assert chart.get_attribute("role") == "slider"
        chart.focus()
        read = []
        for key in ("ArrowRight", "ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home"):
            page.keyboard.press(key)
            read.append(int(chart.get_attribute("aria-valuenow")))
            said = chart.get_attribute("aria-valuetext")
            assert said.startswith(f"step {read[-1]}: M's signal: {float(f'{tokens[read[-1]]:.4g}'):g}, m's answer: ")
            expect(chart.locator(".readout")).to_contain_text(f"step {read[-1]}")
        assert read == [1, 2, STEPS, STEPS, STEPS - 1, 1]
        assert (chart.get_attribute("aria-valuemin"), chart.get_attribute("aria-valuemax")) == ("1", str(STEPS))
        page.keyboard.press("Escape")
        expect(chart.locator(".readout")).to_be_hidden()


def test_the_pointer_reads_off_the_step_it_is_over(browser, duet, tmp_path):
    with reading(browser, [duet], tmp_path / "report.html", "training") as page:
        chart = page.locator("#chart-written .chart")
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 60)
        expect(chart.locator(".readout strong")).to_have_text(f"step {STEPS}")
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        expect(chart.locator(".readout strong")).to_have_text("step 1")
        page.mouse.move(2, 2)
        expect(chart.locator(".readout")).to_be_hidden()


def test_a_series_can_be_hidden_and_comes_back(browser, dqo, tmp_path):
    with reading(browser, dqo, tmp_path / "report.html", "training") as page:
        names = [directory.name for directory in dqo]
        button = page.locator("#chart-reward .legend button", has_text=names[0]).first
        button.focus()
        page.keyboard.press("Enter")
        assert button.get_attribute("aria-pressed") == "false"
        page.wait_for_function("name => !views.reward.view.data('rows').some((row) => row.series === name)", arg=names[0])
        assert line_of(drawn(page, "reward"), names[1])
        page.locator("#chart-reward .chart").focus()
        page.keyboard.press("End")
        assert f"{names[1]}: " in page.get_attribute("#chart-reward .chart", "aria-valuetext")
        assert f"{names[0]}: " not in page.get_attribute("#chart-reward .chart", "aria-valuetext")
        button.click()
        page.wait_for_function("name => views.reward.view.data('rows').some((row) => row.series === name)", arg=names[0])


def test_series_differ_by_more_than_their_colour(browser, dqo, duet, tmp_path):
    for runs, tab in ((dqo, "training"), ([duet], "result"), (dqo, "answers")):
        with reading(browser, runs, tmp_path / "report.html", tab) as page:
            for series, is_line in page.evaluate("report.charts.map((chart) => [chart.series, chart.lines])"):
                assert len({str(one["dash" if is_line else "shape"]) for one in series}) == min(len(series), 7)
            icons = page.eval_on_selector_all(
                "[role=tabpanel]:not([hidden]) figure:first-of-type .legend svg",
                "all => all.map((svg) => svg.innerHTML.replace(/var\\(--series-\\d\\)/, ''))",
            )
            assert len(set(icons)) == len(icons) > 1


def test_csv_holds_the_columns_of_a_chart(browser, dqo, tmp_path):
    with reading(browser, dqo, tmp_path / "report.html", "training") as page:
        with page.expect_download() as download:
            page.click("#chart-reward .actions button")
        assert download.value.suggested_filename == "reward.csv"
        table = list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8"))))
        columns = page.evaluate("report.charts.find((chart) => chart.id === 'reward').columns")
        assert list(table[0]) == list(columns)
        assert [row["series"] for row in table] == columns["series"]
        for name in ("step", "value", "low", "high"):
            assert [float(row[name]) for row in table] == columns[name]
        page.locator("#chart-reward summary").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#chart-reward tbody tr")).to_have_count(len(table))


def test_a_text_that_a_spreadsheet_would_run_is_disarmed(browser, dqo, tmp_path):
    with reading(browser, dqo, tmp_path / "report.html") as page:
        texts = ["=1+1", "+1", "-1", "@x", 'say "hi", twice', "a\nb", "plain"]
        written = page.evaluate("texts => csv({ columns: { response: texts, value: texts.map((_, i) => -i) } })", texts)
        rows = list(csv.reader(io.StringIO(written, newline="")))
        assert [row[0] for row in rows[1:]] == ["'=1+1", "'+1", "'-1", "'@x", 'say "hi", twice', "a\nb", "plain"]
        assert [row[1] for row in rows[2:]] == [str(-i) for i in range(1, 7)]  # numbers below nothing stay numbers


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        ("duet", "light"), ("duet", "dark"), ("dqo", "light"), ("dqo", "dark"), ("duet_seeds", "light"),
        ("running failed", "dark"),
    ],
)  # fmt: skip
def test_axe_finds_no_serious_fault(browser, names, scheme, request, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = [request.getfixturevalue(name) for name in names.split()]
    runs = [run for one in found for run in (one if isinstance(one, list) else [one])]
    with reading(browser, runs, tmp_path / "report.html", color_scheme=scheme) as page:
        for tab in tabs(page):
            go_to(page, tab)
            if tab == "training":
                page.click("#chart-written summary")
            results = axe.run(page).response
            faults = {
                each["id"]: [node["html"][:200] for node in each["nodes"]]
                for each in results["violations"]
                if each["impact"] in ("serious", "critical")
            }
            assert faults == {}, tab


@pytest.mark.parametrize("runs", ["duet", "dqo", "duet_seeds"])
def test_a_phone_does_not_scroll_to_the_side(browser, runs, request, tmp_path):
    found = request.getfixturevalue(runs)
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with reading(browser, found if isinstance(found, list) else [found], tmp_path / "r.html", **phone) as page:
        page.wait_for_selector("html[data-whole]")  # until then the charts of hidden tabs are drawn behind the shown one
        for tab in tabs(page):
            go_to(page, tab)
            assert page.evaluate(FITS), tab
            for chart in charts_on(page):
                inner = page.locator(f"#chart-{chart} .chart svg").bounding_box()
                assert inner["x"] >= 0
                assert inner["x"] + inner["width"] <= 360


def test_a_chart_that_was_hidden_while_the_window_changed_has_a_width(browser, duet, tmp_path):
    with reading(browser, [duet], tmp_path / "report.html", "training", viewport={"width": 1200, "height": 800}) as page:
        go_to(page, "runs")
        page.set_viewport_size({"width": 500, "height": 800})
        page.wait_for_timeout(100)
        go_to(page, "training")
        page.wait_for_function("() => { const w = views.written.view.width(); return w > 250 && w < 500; }")


def test_paper_shows_the_charts_of_every_tab_and_the_screen_is_as_before(browser, dqo, tmp_path):
    with reading(browser, dqo, tmp_path / "report.html") as page:
        page.wait_for_selector("html[data-whole]")
        page.evaluate("""() => window.addEventListener("beforeprint", () => {
            window.printed = [...document.querySelectorAll("figure")].map((figure) => {
                const drawn = figure.querySelector(".chart svg .mark-line path, .chart svg .mark-symbol path");
                return [figure.id.slice(6), drawn && figure.querySelector(".chart svg").width.baseVal.value];
            });
        })""")
        document = page.pdf()
        assert document.startswith(b"%PDF")
        charts = page.evaluate("report.charts.map((chart) => chart.id)")
        printed = dict(page.evaluate("printed"))
        assert set(printed) == set(charts)
        assert min(printed.values()) > 300
        assert charts_on(page) == ["by_diversity", "pass_at_k"]
        assert page.locator("[role=tabpanel]:not([hidden])").count() == 1
        go_to(page, "training")
        assert page.locator("#panel-training figure").count() == len(charts_on(page)) == len(charts) - 3
        assert len(drawn(page, "reward")) == 2 * STEPS
        page.emulate_media(media="print")
        assert page.locator("#tabs").is_hidden()
        assert page.locator("#chart-by_diversity").is_visible()
        assert page.locator("#chart-reward").is_visible()


def test_paper_shows_what_is_folded_on_the_screen(browser, tmp_path):
    runs = [made(tmp_path / f"recipe-{i}", overrides=[f"policy.learning_rate={i + 1}e-5"]) for i in range(5)]
    with reading(browser, runs, tmp_path / "report.html", "runs") as page:
        page.locator(".runs > details > summary").nth(2).click()
        folded = "all => all.map((one) => !one.open)"
        before = page.locator(".runs details").evaluate_all(folded)
        assert before == [True, True, True, True, False, True, True, True, True, True]
        page.evaluate("""() => window.addEventListener("beforeprint", () => {
            const all = [...document.querySelectorAll(".runs dl, .runs pre")];
            window.printed = all.map((one) => [one.tagName, one.checkVisibility()]);
        })""")
        page.pdf()
        assert page.evaluate("printed") == [["DL", True], ["PRE", True]] * 5
        assert page.locator(".runs details").evaluate_all(folded) == before
        page.set_viewport_size({"width": 700, "height": 1000})
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        recipe = page.locator(".runs pre").first
        assert recipe.evaluate("one => one.scrollHeight <= one.clientHeight && one.scrollWidth <= one.clientWidth")


def test_without_scripts_the_answer_is_there(browser, duet, tmp_path):
    from counterpoint.report.command import report

    report([duet], tmp_path / "report.html", False, None)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    accuracy = systems_of(duet)["trained pair"]["accuracy"]["value"]
    assert f"right {100 * accuracy:.1f}\u00a0%" in page.locator(".sentence").inner_text()
    assert "need JavaScript" in page.locator("noscript p").inner_text()
    context.close()


def test_everything_needed_to_run_it_again_is_on_the_page(browser, duet, tmp_path):
    with reading(browser, [duet], tmp_path / "report.html", "runs") as page:
        facts = page.locator(".runs dl").inner_text()
        for word in ("finished", f"{STEPS} of {STEPS}", "command", "seed", "torch", "processors"):
            assert word in facts
        page.click(".runs summary")
        assert page.locator(".runs pre").inner_text().strip() == (duet / "config.toml").read_text().strip()
        assert len(lines(duet / "metrics.jsonl")) == STEPS


def test_many_runs_are_folded_and_what_differs_is_a_row_a_run(browser, tmp_path):
    runs = [made(tmp_path / f"recipe-{i}", overrides=[f"policy.learning_rate={i + 1}e-5", f"dqo.samples={4 + i % 2}"])
            for i in range(33)]  # fmt: skip
    runs.append(made(tmp_path / "broken", overrides=["dqo.samples=8"], status={"status": "failed", "error": "no more"}))
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with reading(browser, runs, tmp_path / "report.html", "runs", **phone) as page:
        cards = page.locator(".runs > details")
        assert cards.count() == 34
        assert cards.evaluate_all("all => all.filter((one) => one.open).map((one) => one.querySelector('h3').innerText)") == [
            "broken"
        ]
        assert page.evaluate("document.documentElement.scrollHeight") < 5 * 740
        assert page.evaluate(FITS)
        cards.first.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert "finished" in cards.first.locator("dl").inner_text()
        table = page.locator("#differences")
        assert [cell.inner_text() for cell in table.locator("thead th").all()] == ["run", "dqo.samples", "policy.learning_rate"]
        assert table.locator("tbody tr").count() == 34
        last = table.locator("tbody tr").last
        assert last.locator("th").inner_text() == "broken"
        assert last.locator("td").all_inner_texts()[0] == "8"


def test_on_a_phone_what_differs_is_broken_between_words_alone(browser, tmp_path):
    controls = ("constant", "linear", "quality_floor")
    runs = [made(tmp_path / f"DQO-{name}", overrides=[f"diversity.control={name}", f"dqo.samples={4 + i}"])
            for i, name in enumerate(controls)]  # fmt: skip
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with reading(browser, runs, tmp_path / "report.html", "runs", **phone) as page:
        words = page.locator("#differences").evaluate("""table => {
            const found = [], texts = document.createTreeWalker(table, NodeFilter.SHOW_TEXT), range = document.createRange();
            while (texts.nextNode()) {
              range.selectNodeContents(texts.currentNode);
              found.push([texts.currentNode.data, range.getClientRects().length]);
            }
            return found;
        }""")
        assert {"quality_", "floor", "constant", "control"} <= {word for word, _ in words}
        assert {lines for _, lines in words} == {1}
        assert page.evaluate(FITS)
        assert page.locator("div:has(> #differences)").evaluate("one => one.scrollHeight <= one.clientHeight")


def test_a_group_has_one_colour_and_one_mark_in_every_chart(browser, dqo, tmp_path):
    floor = made(tmp_path / "with-a-floor", metrics=[{"step": step, "reward": 0.5, "floor": 0.4} for step in (1, 2)])
    with reading(browser, [*dqo, floor], tmp_path / "report.html") as page:
        charts = page.evaluate("report.charts.map((chart) => [chart.id, chart.series])")
        looks = {}
        for one in (one for _, series in charts for one in series):
            name = one["name"].removeprefix("reward · ")
            looks.setdefault(name, set()).add((one["colour"], one["shape"], str(one["dash"])))
        assert {colour for colour, *_ in looks["start"]} == {0}
        of_runs = [looks[directory.name] for directory in (*dqo, floor)]
        assert [len(found) for found in of_runs] == [1, 1, 1]
        assert all(len({look[i] for [look] in of_runs}) == 3 for i in range(3))
        assert "reward · with-a-floor" in str(dict(charts)["reward"])


def test_the_pages_parts_can_be_read():
    folder = files("counterpoint.report")
    parts = [part for part in folder.iterdir() if part.name.endswith((".js", ".css"))]
    assert len(parts) == 5
    for part in parts:
        assert max(map(len, part.read_text("utf-8").splitlines())) <= 130, part.name
