"""A run of 100,000 steps and 5,000 samples: built soon, small, honest about what it leaves out, and quick to use."""

import json
import random
import time

import pytest

from counterpoint.report.watch import Watched
from report.made import evaluation, made, result, said

pytest.importorskip("playwright", reason="pages are tested with playwright, which is not installed")
from report.reading import drawn, go_to, reading

STEPS, QUESTIONS = 100_000, 2_500
FIELDS = (
    "capable_groups_dropped", "capable_groups", "capable_loss", "capable_grad_norm", "capable_skipped_updates", "capable_ratio",
    "capable_clipped_share", "capable_old_kl", "capable_entropy", "capable_logprob", "light_groups_dropped", "light_groups",
    "light_loss", "light_grad_norm", "light_entropy", "seconds_sample", "seconds_score", "seconds_shape", "seconds_update",
    "aided_accuracy", "capable_reward", "answer_tokens", "signals_unclosed", "signals_cut", "multiplier", "gradings_skipped",
    "unaided_accuracy", "floor", "seconds",
)  # fmt: skip
"""What DUET writes down at every step, but for the field that is followed."""
SPIKES = {12_345: 999.5, 77_777: -3.25}


SCROLL = """async (what) => {
    const scrolled = document.querySelector(what), times = [];
    for (let i = 0, last = performance.now(); i < 60; i++) {
      scrolled.scrollTop += 200;
      await new Promise(requestAnimationFrame);
      times.push(performance.now() - last);
      last = performance.now();
    }
    return times.sort((a, b) => a - b);
}"""
"""Scrolls an element by 200 pixels a frame; how long the frames took, in order of length."""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A run that wrote as much."""
    generator = random.Random(0)
    systems = ("untrained pair", "trained pair")
    rows = [said(system, f"q{i}", f"{generator.random()} so {generator.random()}", float(generator.random() < 0.7),
                 signal=" ".join(f"{generator.random():.6f}" for _ in range(12)), text=f"question number {i}")
            for i in range(QUESTIONS) for system in systems]  # fmt: skip
    run = made(tmp_path_factory.mktemp("scale") / "large", "duet", overrides=[f"run.steps={STEPS}"],
               evaluation=evaluation({name: result(0.7) for name in systems}, samples=1), evaluation_samples=rows)  # fmt: skip
    ends = [json.dumps({name: generator.random() for name in FIELDS})[1:] for _ in range(100)]
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, STEPS + 1):
            tokens = SPIKES.get(step, 40 + 20 * ((step * 7919) % 1000) / 1000)
            file.write(f'{{"step": {step}, "time": 1.5, "signal_tokens": {tokens}, {ends[step % 100]}\n')
    return run


def test_a_large_run_is_built_soon_stays_small_and_is_quick_to_use(browser, large, tmp_path):
    began = time.perf_counter()
    with reading(browser, [large], tmp_path / "report.html") as page:
        started = page.evaluate("performance.timeOrigin") / 1000
        built = started - (time.time() - (time.perf_counter() - began))
        size = (tmp_path / "report.html").stat().st_size
        opened = page.evaluate("performance.now()")
        print(f"built and navigated in {built:.1f} s, {size / 1e6:.2f} MB, opened in {opened / 1000:.2f} s at most")
        assert built < 20
        assert size < 5_000_000
        assert opened < 5_000

        go_to(page, "training")
        shown = {row["step"]: row["value"] for row in drawn(page, "written") if row["series"] == "M's signal"}
        assert 500 < len(shown) <= 1000
        assert {1, STEPS} < set(shown)
        assert {step: shown[step] for step in SPIKES} == SPIKES
        caption = page.locator("#chart-written figcaption").inner_text()
        assert "100,000 steps thinned to 1,000 points a line; the extremes of every stretch are kept" in caption

        frames = page.evaluate(SCROLL, "html")
        print(f"scrolling the charts: median frame {frames[30]:.0f} ms, slowest {frames[-1]:.0f} ms")
        assert page.evaluate("document.scrollingElement.scrollTop") > 1000
        assert frames[-5] < 100

        go_to(page, "samples")
        assert page.locator(".filters [role=status]").inner_text() == f"{QUESTIONS:,} of {QUESTIONS:,} questions"
        items = page.locator(".questions li")
        assert items.count() == 200
        frames = page.evaluate(SCROLL, ".questions")
        print(f"scrolling the questions: median frame {frames[30]:.0f} ms, slowest {frames[-1]:.0f} ms")
        assert 200 < items.count() < 1000
        assert frames[30] < 100
        search = page.evaluate("""() => {
            const box = document.querySelector("input[type=search]"), began = performance.now();
            box.value = "number 2499";
            box.dispatchEvent(new Event("input"));
            return performance.now() - began;
        }""")
        assert items.count() == 1
        assert search < 1000


def test_a_look_at_a_large_run_that_goes_on_costs_little(large):
    """It took 2.7 s and more while every look went through all lines for every measure."""
    watched, looks = Watched([large]), []
    watched.packed()
    [*_, last] = (large / "metrics.jsonl").open()
    for _ in range(3):
        with (large / "metrics.jsonl").open("a") as file:
            file.write(last)
        began = time.process_time()
        watched.packed()
        looks.append(time.process_time() - began)
    print(f"a look at what was appended: {min(looks):.2f} s of the processor")
    assert min(looks) < 1.5


def test_a_run_of_a_thousand_steps_opens_in_under_a_second(browser, tmp_path):
    """From the start of loading until everything on the screen is drawn."""
    generator = random.Random(0)
    metrics = [{"step": step, **{name: generator.random() for name in FIELDS}} for step in range(1, 1001)]
    systems = ("untrained pair", "trained pair")
    rows = [said(system, f"q{i}", f"so {i}", text=f"question {i}") for i in range(400) for system in systems for _ in range(2)]
    run = made(tmp_path / "run", "duet", metrics=metrics, evaluation_samples=rows,
               evaluation=evaluation({name: result(0.7) for name in systems}))  # fmt: skip
    opened = []
    for _ in range(5):
        with reading(browser, [run], tmp_path / "report.html", "training") as page:
            opened.append(page.evaluate("performance.getEntriesByName('ready')[0].startTime"))
            figures = page.locator("#panel-training figure")
            assert page.locator("#panel-training .chart svg").count() == figures.count() > 8
    print(f"opened in {sorted(opened)[2]:.0f} ms, median of 5: {sorted(map(round, opened))}")
    assert sorted(opened)[2] < 1000
