"""The live display: what it shows, and that a model's text stays text."""

import io
import re

import pytest
from rich.console import Console

from counterpoint import display as display_module
from counterpoint.display import Display, duration, printable

METRICS = {
    "aided_accuracy": 0.875,
    "floor": 0.9,
    "signal_tokens": 20.0,
    "multiplier": 0.05,
    "capable_reward": 0.8,
    "seconds": 2.0,
}
ESCAPE_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still until it is moved: clock[0] += seconds."""
    now = [100.0]
    monkeypatch.setattr(display_module.time, "monotonic", lambda: now[0])
    return now


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=60, color_system=None, highlight=False)


def pipe():
    return Console(file=io.StringIO(), force_terminal=False, width=60, highlight=False)


def written(console):
    return console.file.getvalue()


def rendered(display):
    page = Console(file=io.StringIO(), width=100, color_system=None)
    page.print(display.render())
    return written(page)


def test_shows_what_it_is_given(clock):
    display = Display("DUET", 100, console=terminal())
    display.update(10, {**METRICS, "unaided_accuracy": 0.25}, "2 + 2 = 4")
    clock[0] += 30
    display.update(20, {"signal_tokens": 8.0, "aided_accuracy": 0.9}, "4")
    page = rendered(display)
    for part in (
        "20/100",
        "4 min" if False else "240 s" if False else "4 min left",
        "90.0 %",
        "25.0 %",
        "8.0 (at first 20.0)",
        "λ",
    ):
        assert part in page
    assert "said before" in page
    assert "2 + 2 = 4" in page
    assert "now" in page


def test_leaves_out_what_it_is_not_given(clock):
    display = Display("warm-up", 10, console=terminal())
    display.update(1, {"loss": 3.0})
    page = rendered(display)
    for part in ("accuracy", "λ", "signal", "3.0"):
        assert part not in page


@pytest.mark.parametrize("text", ["[bold red]x[/bold red]", "[/]", "[link=http://a]b[/link]", ":smile:"])
def test_markup_is_shown_as_it_is(text):
    display = Display("DUET", 10, console=terminal())
    with display:
        display.update(1, {}, text)
    assert text in ESCAPE_SEQUENCES.sub("", written(display.console))


@pytest.mark.parametrize(
    ("character", "code"),
    [("\x1b", "\\x1b"), ("\x07", "\\x07"), ("\x9b", "\\x9b"), ("\r", "\\x0d"), ("\u202e", "\\u202e"), ("\ud800", "\\ud800")],
)
def test_control_characters_do_not_reach_the_terminal(character, code):
    display = Display("DUET", 10, console=terminal())
    display.update(1, {}, f"a{character}[2Jb")
    page = rendered(display)
    assert character not in page
    assert f"a{code}[2Jb" in page


def test_warnings_are_plain_text_too():
    display = Display("DUET", 10, console=pipe())
    display.warn("flat [bold]rewards\x1b[2J")
    assert written(display.console) == "warning: flat [bold]rewards\\x1b[2J\n"


def test_ordinary_text_is_left_alone():
    text = "ü λ 数学 🎼 می\u200cخواهم\n\tindented"
    assert printable(text) == text


def test_long_signals_are_cut():
    display = Display("DUET", 10, console=terminal())
    display.update(1, {}, "x" * 5000)
    page = rendered(display)
    assert "(4400 more characters)" in page
    display.update(2, {}, "line\n" * 50)
    assert rendered(display).count("line") == 8
    display.update(3, {}, "")
    assert "(empty)" in rendered(display)


@pytest.mark.parametrize(("console", "quiet"), [(pipe(), False), (terminal(), True)])
def test_plain_lines_now_and_then(clock, console, quiet):
    with Display("DUET", 100, quiet=quiet, console=console) as display:
        for step in range(1, 41):
            display.update(step, METRICS, "said")
            clock[0] += 1
    lines = written(console).splitlines()
    assert [re.findall(r"step (\d+)/100", line)[0] for line in lines] == ["1", "6", "11", "16", "21", "26", "31", "36", "40"]
    assert "\x1b" not in written(console)
    assert "aided accuracy 87.5 %" in lines[0]
    assert "said" not in written(console)


def test_the_last_step_is_always_shown(clock):
    console = pipe()
    with Display("DUET", 3, console=console) as display:
        for step in (1, 2, 3):
            display.update(step, {})
    assert [line.split("  ")[1] for line in written(console).splitlines()] == ["step 1/3", "step 3/3"]


def test_time_left_counts_from_where_a_run_was_resumed(clock):
    display = Display("DUET", 100, start_step=50, console=pipe())
    assert "left" not in display.line()
    display.update(51, {"seconds": 10.0})
    assert "8 min left" in display.line()
    clock[0] += 2
    display.update(52, {"seconds": 10.0})
    assert "2 min left" in display.line()
    display.update(100, {})
    assert "done" in display.line()


def test_a_live_display_in_a_terminal(clock):
    console = terminal()
    with Display("DUET", 2, console=console) as display:
        display.update(1, METRICS, "before")
        display.warn("careful")
        display.update(2, METRICS, "after")
    page = ESCAPE_SEQUENCES.sub("", written(console))
    assert "warning: careful" in page
    assert "after" in page
    assert "2/2" in page


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (7500, "2 h 05 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
