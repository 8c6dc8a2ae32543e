"""What models said, in Chromium: found, filtered, compared, and shown as text whatever it is."""

import json
import shutil
import statistics

import pytest

from report.made import evaluation, made, result, said
from report.runs import lines, metrics_of

pytest.importorskip("playwright", reason="pages are tested with playwright, which is not installed")
from playwright.sync_api import expect

from report.reading import drawn, go_to, line_of, reading, tabs


def listed(page):
    return page.locator(".questions button").evaluate_all("all => all.map((one) => one.dataset.question)")


def by_question(rows, system):
    found = {}
    for row in rows:
        if row["system"] == system:
            found.setdefault(row["question"], []).append(row["correct"])
    return found


def test_questions_are_filtered_by_keyboard_as_they_were_graded(browser, duet, tmp_path):
    rows = lines(duet / "evaluation_samples.jsonl")
    now, then = by_question(rows, "trained pair"), by_question(rows, "untrained pair")
    expected = {
        "all": list(now),
        "right": [question for question in now if all(reward == 1 for reward in now[question])],
        "wrong": [question for question in now if any(reward < 1 for reward in now[question])],
        "changed": [question for question in now if statistics.fmean(now[question]) != statistics.fmean(then[question])],
    }
    assert 0 < len(expected["wrong"]) < len(now)
    with reading(browser, [duet], tmp_path / "report.html", "samples") as page:
        assert listed(page) == expected["all"]
        page.focus("input[value=all]")
        for name in ("right", "wrong", "changed"):
            page.keyboard.press("ArrowRight")
            assert page.is_checked(f"input[value={name}]")
            assert listed(page) == expected[name], name
            expect(page.locator(".filters [role=status]")).to_have_text(f"{len(expected[name])} of {len(now)} questions")
        page.keyboard.press("ArrowRight")
        page.focus("input[type=search]")
        text = next(row["text"] for row in rows if row["question"] == list(now)[2])
        page.keyboard.type(text.upper())
        assert listed(page) == [list(now)[2]]
        page.fill("input[type=search]", "nothing like it")
        assert listed(page) == []
        expect(page.locator(".detail")).to_have_text("No question fits.")


def test_a_question_is_chosen_by_keyboard_and_shows_all_that_was_said(browser, duet, tmp_path):
    rows, probes = lines(duet / "evaluation_samples.jsonl"), lines(duet / "probes.jsonl")
    with reading(browser, [duet], tmp_path / "report.html", "samples") as page:
        questions = listed(page)
        page.focus(".questions button")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        question = questions[1]
        assert page.get_attribute(".questions [aria-current=true]", "data-question") == question
        its = [row for row in rows if row["question"] == question]
        assert page.locator(".detail .ask").inner_text() == its[0]["text"]
        detail = page.locator(".detail").inner_text()
        for row in its:
            assert row["system"] in detail
            assert row["signal"].strip() in detail
            assert row["response"].strip() in detail
        checkpoints = [row for row in probes if row["question"] == question]
        assert [row["step"] for row in checkpoints] == [0, 2, 4]
        cards = page.locator(".columns").first.locator(".card")
        for card, probe in zip(cards.all(), checkpoints, strict=True):
            text = card.inner_text()
            assert card.locator("h4").inner_text() == f"step {probe['step']}"
            assert card.locator(".signal").text_content() == probe["signal"]
            assert [said.text_content() for said in card.locator(".answer").all()] == [probe["aided"], probe["unaided"]]
            for who, reward in (("aided", probe["aided_reward"]), ("unaided", probe["unaided_reward"])):
                assert f"m, {who} {'✓ right' if reward == 1 else '✗ wrong'}" in text


def test_what_the_next_checkpoint_no_longer_says_is_struck_out(browser, tmp_path):
    signals = ["add ones first then tens so 46", "ones first so 46", "46"]
    probes = [
        {"step": i, "question": "q", "text": "12+34", "reference": "46", "signal": signal, "signal_tokens": 5, "aided": "46",
         "aided_reward": 1.0, "unaided": "4", "unaided_reward": 0.0}
        for i, signal in enumerate(signals)
    ]  # fmt: skip
    run = made(tmp_path / "pair", "duet", probes=probes)
    with reading(browser, [run], tmp_path / "report.html", "samples") as page:
        struck = [card.locator("del").all_text_contents() for card in page.locator(".columns").first.locator(".card").all()]
        assert [[part.strip() for part in parts] for parts in struck] == [["add", "then tens"], ["ones first so"], []]


def test_runs_of_one_name_can_each_be_chosen(browser, tmp_path):
    runs = []
    for folder in ("monday", "tuesday"):
        rows = [said(system, "q", f"{system} of {folder}", text=f"asked on {folder}") for system in ("start", "run")]
        runs.append(made(tmp_path / folder / "run", evaluation=evaluation({name: result(0.5) for name in ("start", "run")}),
                         evaluation_samples=rows))  # fmt: skip
    with reading(browser, runs, tmp_path / "report.html", "samples") as page:
        select = page.locator(".filters select")
        assert select.locator("option").all_inner_texts() == ["run (1 of 2)", "run (2 of 2)"]
        for index, folder in ((1, "tuesday"), (0, "monday"), (1, "tuesday")):
            select.select_option(index=index)
            assert page.locator(".detail .ask").inner_text() == f"asked on {folder}"
            assert select.evaluate("one => one.selectedIndex") == index


HOSTILE = {
    "markup": "<b>bold</b> & <!-- gone --> &lt;kept&gt;",
    "script": "<script>window.hit = 1</script></script><script>window.hit = 2</script>",
    "handler": "<img src=x onerror='window.hit = 3'><svg onload=window.hit=4><iframe src='javascript:parent.hit=5'>",
    "ends": "]]></style></textarea></title>--> {{report}} {{script}} ${window.hit = 6} `+alert(1)+`",
    "control": "a\x00b\x07c\x1b[31md\x7fe\x85f\rg",
    "bidi": "safe \u202eevil\u202c \u2067x\u2069 \u200fy",
    "rtl": "مرحبا بالعالم 12+34",
    "emoji": "👩‍👩‍👧 🏳️‍🌈 ✓",
    "template": "%s {0} ${x} {{title}}",
    "link": "javascript:window.hit=7",
}
SHOWN = HOSTILE | {
    "control": "a␀b␇c␛[31md⟨U+007F⟩e⟨U+0085⟩f␍g",
    "bidi": "safe ⟨U+202E⟩evil⟨U+202C⟩ ⟨U+2067⟩x⟨U+2069⟩ ⟨U+200F⟩y",
}


@pytest.fixture
def hostile(tmp_path):
    """A run that failed, in which everything that somebody else can write is hostile."""
    rows = [said(system, name, text, 0.5, text=text, reference=text, signal=text)
            for name, text in HOSTILE.items() for system in ("start", "evil")]  # fmt: skip
    rows.append(said("evil", "halves", "x", text="halves"))
    every = " ".join(HOSTILE.values())
    run = made(
        tmp_path / "evil",
        status={"status": "failed", "error": every},
        run={"kind": "dqo", "command": [every], "versions": {every: every}, "platform": {"machine": every}, "started": every},
        evaluation=evaluation({name: result(0.5, diversity={"different_correct": {"value": 1.0, "low": 1.0, "high": 1.0}})
                               for name in ("start", "evil", every)}, samples=1),
        evaluation_samples=rows,
    )  # fmt: skip
    # half a character, as JSON can spell it and UTF-8 cannot
    halves = json.dumps(said("evil", "halves", "HALF", text="halves")).replace("HALF", r"\ud83d and \\ud83d")
    with (run / "evaluation_samples.jsonl").open("a") as file:
        file.write(halves + "\n")
    return run


def test_nothing_that_a_model_wrote_runs_and_all_of_it_is_text(browser, hostile, tmp_path):
    with reading(browser, [hostile], tmp_path / "report.html") as page:
        for tab in tabs(page):
            go_to(page, tab)
            assert page.evaluate("[typeof window.hit, document.scripts.length]") == ["undefined", 2], tab
            assert page.locator("#panels :is(b, i, img, iframe, script, textarea)").count() == 0
        assert SHOWN["script"] in page.locator(".sentence").last.text_content()
        go_to(page, "samples")
        for name, text in SHOWN.items():
            page.locator(f'.questions [data-question="{name}"]').click()
            assert page.locator(".detail .ask").text_content() == text
            assert page.locator(".detail .card .answer").first.text_content() == text
            assert page.locator(".detail .card .signal").first.text_content() == text
        page.locator('.questions [data-question="halves"]').click()
        assert page.locator(".detail .card .answer").all_text_contents()[-1] == r"� and \ud83d"
        right_to_left = page.locator('.questions [data-question="rtl"] span').last
        assert right_to_left.evaluate("one => getComputedStyle(one).direction") == "rtl"
        assert page.evaluate("typeof window.hit") == "undefined"


def rewritten(file, change):
    rows = [row | change(i, row) for i, row in enumerate(lines(file))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_real_runs_that_were_damaged_are_shown_as_far_as_they_are_whole(browser, duet, dqo, tmp_path):
    """Without its evaluation, with half a last line, and with everything that the models said made hostile."""
    left_out = shutil.ignore_patterns("checkpoints", "models", "report.html")
    pair, policy = (shutil.copytree(run, tmp_path / run.name, ignore=left_out) for run in (duet, dqo[1]))
    (pair / "evaluation.json").unlink()
    metrics = (pair / "metrics.jsonl").read_text()
    (pair / "metrics.jsonl").write_text(metrics[: -len(metrics.splitlines()[-1]) // 2])
    names, texts = list(SHOWN), list(HOSTILE.values())
    every = " ".join(texts)
    at = {question: i for i, question in enumerate(dict.fromkeys(row["question"] for row in lines(pair / "probes.jsonl")))}
    rewritten(pair / "evaluation_samples.jsonl", lambda i, row: dict.fromkeys(("text", "signal", "response"), every))
    texts_of = ("signal", "aided", "unaided")
    rewritten(pair / "probes.jsonl", lambda i, row: {"text": every} | dict.fromkeys(texts_of, texts[at[row["question"]]]))
    rewritten(policy / "samples.jsonl", lambda i, row: {"text": every, "responses": [texts[i % len(texts)]]})
    with reading(browser, [pair, policy], tmp_path / "report.html", "runs") as page:
        missing = page.locator(".runs article").first.locator("dd.alarm").inner_text()
        assert "metrics.jsonl: its last line is unfinished, and left out" in missing
        assert "evaluation.json is missing; `counterpoint eval" in missing
        assert f"{pair.name}, {policy.name} have ended and are not evaluated yet" in page.locator("#headlines").inner_text()
        go_to(page, "training")
        expected = metrics_of(duet, "signal_tokens")
        del expected[max(expected)]
        assert line_of(drawn(page, "written"), f"M's signal · {pair.name}") == pytest.approx(expected, rel=1e-5)
        go_to(page, "samples")
        assert len(listed(page)) == len(at) == 8
        for question, i in at.items():
            page.locator(f'.questions [data-question="{question}"]').click()
            shown = SHOWN[names[i]]
            cards = page.locator(".columns").first.locator(".card")
            assert cards.locator(".answer").all_text_contents() == [shown] * (2 * cards.count())
            assert page.locator(".detail .ask").text_content() == " ".join(SHOWN.values())
        page.select_option(".filters select", policy.name)
        found = []
        for i in range(page.locator(".questions button").count()):
            page.locator(".questions button").nth(i).click()
            found += page.locator(".detail .answer").all_text_contents()
        assert found == list(SHOWN.values())[: len(found)]
        assert len(found) > 2
        assert page.locator("#panels :is(b, i, img, iframe, script, textarea)").count() == 0
        assert page.evaluate("typeof window.hit") == "undefined"


def test_the_text_beside_a_point_is_text(browser, hostile, tmp_path):
    with reading(browser, [hostile], tmp_path / "report.html", "answers") as page:
        for i, (name, text) in enumerate(SHOWN.items()):
            page.select_option("#chart-plane .chooser select", index=i)
            rows = drawn(page, "plane")
            assert {row["response"] for row in rows} == {HOSTILE[name]}
            page.locator("#chart-plane .mark-symbol path").first.hover(force=True)
            tooltip = page.locator("#vg-tooltip-element.visible")
            expect(tooltip).to_be_visible()
            cells = dict(zip(tooltip.locator("td.key").all_text_contents(), tooltip.locator("td.value").all_text_contents(),
                             strict=True))  # fmt: skip
            assert cells["response"] == text
            assert tooltip.locator("b, img, script, iframe, a").count() == 0
            page.mouse.move(1, 1)
        assert page.evaluate("typeof window.hit") == "undefined"


def test_a_text_without_end_is_cut_and_says_so(browser, tmp_path):
    endless = "over and over " * 75_000
    rows = [said("start", "q1", "short"), said("long", "q1", endless), said("start", "q2", "fine"), said("long", "q2", "good")]
    run = made(tmp_path / "long", evaluation_samples=rows,
               evaluation=evaluation({"start": result(1.0), "long": result(1.0)}, samples=1))  # fmt: skip
    with reading(browser, [run], tmp_path / "report.html", "samples") as page:
        text = page.locator(".detail .card .answer").first.text_content()
        assert text.startswith("over and over over")
        assert text.endswith(f"… [{len(endless) - 20_000:,} more characters]")
        assert listed(page) == ["q1", "q2"]
        go_to(page, "answers")
        assert max(len(row["response"]) for row in drawn(page, "plane")) < 500
