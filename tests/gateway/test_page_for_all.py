"""The page at `/`, in Chromium: usable with a keyboard, on a phone, in the dark, by whoever."""

import re

import pytest

from counterpoint.gateway.types import Message
from gateway.scripted import broken, words
from gateway.staged import PRICES, held, pair

pytest.importorskip("playwright", reason="the page is tested with playwright, which is not installed")
from playwright.sync_api import expect

FOCUSED = """() => {
    const element = document.activeElement;
    return [element.id, getComputedStyle(element).outlineStyle];
}"""


def test_everything_can_be_done_with_the_keyboard(visiting):
    answer, _gates = held("it is 4")
    asked = pair(light={"answer": answer})
    with visiting(asked) as visit:
        keyboard, reached = visit.page.keyboard, []
        keyboard.type("one")  # the box has the focus from the start
        keyboard.press("Shift+Enter")
        keyboard.type("two")
        for choice in ("d", "h", "Space", None):  # Duet, high effort, beside M alone, and the button
            keyboard.press("Tab")
            reached.append(visit.page.evaluate(FOCUSED))
            if choice:
                keyboard.press(choice)
        assert reached == [["policy", "solid"], ["effort", "solid"], ["beside", "solid"], ["send", "solid"]]
        assert (visit.page.input_value("#policy"), visit.page.input_value("#effort")) == ("duet", "high")
        keyboard.press("Enter")
        expect(visit.answer(0)).to_have_text("it is 4")
        assert asked.light.asks[0].messages == (Message("user", "one\ntwo"),)
        assert len(asked.capable.asked("alone")) == 1
        keyboard.press("Enter")  # the same button stops
        expect(visit.state(0)).to_have_text("stopped")
        for _ in reached:
            keyboard.press("Shift+Tab")
        asked.light.scripts["answer"] = words("again")
        keyboard.type("three")
        keyboard.press("Control+Enter")
        expect(visit.answer(2)).to_have_text("again")


@pytest.mark.parametrize("width", [360, 1280])
def test_no_width_needs_scrolling_to_the_side(visiting, width):
    long = "x" * 300
    asked = pair({"signal": words(long), "alone": words(long)}, {"answer": words(long)})
    asked.capable.name = long
    with visiting(asked, settings=PRICES, viewport={"width": width, "height": 640}) as visit:
        fits = "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert visit.page.evaluate(fits)
        visit.page.check("#beside")
        visit.ask(long)
        expect(visit.page.locator(".comparison")).to_be_visible()
        assert visit.page.evaluate(fits)


def test_who_reads_at_the_end_stays_there_and_who_has_scrolled_up_is_left_alone(visiting):
    lines = "line\n" * 60
    answer, gates = held(lines, lines, lines)
    with visiting(pair(light={"answer": answer}), viewport={"width": 800, "height": 500}) as visit:
        below = "() => document.documentElement.scrollHeight - innerHeight - scrollY"
        visit.ask()
        expect(visit.answer()).to_have_text(lines)
        assert visit.page.evaluate(below) < 2
        gates[0].set_result(None)
        expect(visit.answer()).to_have_text(lines * 2)
        assert visit.page.evaluate(below) < 2
        visit.page.evaluate("() => scrollTo(0, 100)")
        gates[1].set_result(None)
        expect(visit.answer()).to_have_text(lines * 3)
        assert visit.page.evaluate("() => scrollY") == 100


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_for_who_does_not_want_it(visiting, motion):
    signal, _ = held("two")
    with visiting(pair({"signal": signal}), reduced_motion=motion) as visit:
        visit.ask()
        expect(visit.thought()).to_have_text("two")
        name = visit.page.evaluate("() => getComputedStyle(document.querySelector('.writing .text'), '::after').animationName")
        assert name == ("none" if motion == "reduce" else "blink")


TEXTS = [
    ".turn h2", ".lane h3", ".state", ".thought .text", ".answer .text", ".thought .who", ".answer .who", ".model", ".note.alarm",
    "dt", "dd", ".comparison h3", ".row span:last-child", "h1", "#new", "#question", "#policy", "label:has(#beside)", "#send",
]  # fmt: skip
COLOURS = """selector => {
    let behind = document.querySelector(selector);
    const colour = getComputedStyle(behind).color;
    while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    return [colour, getComputedStyle(behind).backgroundColor];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(visiting, scheme):
    with visiting(pair({"alone": [broken("capable", "rejected")]}), settings=PRICES, color_scheme=scheme) as visit:
        visit.page.check("#beside")
        visit.ask()
        expect(visit.page.locator(".comparison")).to_be_visible()
        expect(visit.page.locator(".note.alarm")).to_be_visible()
        found = {text: visit.page.evaluate(COLOURS, text) for text in TEXTS}
    contrasts = {text: contrast(*colours) for text, colours in found.items()}
    assert {text: value for text, value in contrasts.items() if value < 4.5} == {}
    background = luminance(found["h1"][1])
    assert background < 0.05 if scheme == "dark" else background > 0.8


def contrast(colour: str, behind: str) -> float:
    """WCAG's ratio of two opaque colours."""
    darker, lighter = sorted([luminance(colour), luminance(behind)])
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    assert colour.startswith("rgb("), f"{colour} is not opaque"
    shares = [int(part) / 255 for part in re.findall(r"\d+", colour)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
