"""The page at `/`, in Chromium: what a person sees and can do."""

import re
from contextlib import contextmanager
from typing import Any

import pytest

from counterpoint.gateway.keys import add_key
from counterpoint.gateway.ledger import Ledger
from counterpoint.gateway.policies import Pair
from counterpoint.gateway.types import Message, Piece
from gateway.scripted import broken, words
from gateway.serving import serving
from gateway.staged import Gate, Staged

pytest.importorskip("playwright", reason="the page is tested with playwright, which is not installed")
from playwright.sync_api import expect

from gateway import browsing

SIGNAL, ANSWER = "two and two", "it is 4"
THOUGHT = "<think>\nfirst I take two and then two more which makes four\n</think>\n\nit is 4"
PRICES = {
    "capable": {"url": "http://127.0.0.1:9/v1", "input_price": 1.0, "output_price": 10.0},
    "light": {"url": "http://127.0.0.1:9/v1", "input_price": 0.1, "output_price": 1.0},
    "routing": {"capable_alone_tokens": 12.0},
}
MARKUP = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script><b>"


@pytest.fixture(scope="module")
def browser():
    if browsing.CHROMIUM is None:
        pytest.skip("the page is tested in Chromium, which is not installed")
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture
def visiting(browser):
    """Opens the page of a gateway over two models."""

    @contextmanager
    def visiting(pair: Pair, ledger: Ledger | None = None, settings: dict[str, Any] | None = None, **context: Any):
        with serving(pair, ledger, **(settings or {})) as served, browsing.visiting(browser, served.url, **context) as visit:
            yield visit

    return visiting


def pair(capable: dict[str, Any] | None = None, light: dict[str, Any] | None = None, **rules: Any) -> Pair:
    """Two models that answer in words, with other scripts for some stages."""
    m_capable = {"signal": words(SIGNAL), "alone": words(THOUGHT), "answer": words("from M"), **(capable or {})}
    return Pair(Staged("capable", **m_capable), Staged("light", **{"answer": words(ANSWER), **(light or {})}), **rules)


def held(*texts: str) -> tuple[list[Any], list[Gate]]:
    """A script that waits before each text but the first, and before its end."""
    gates = [Gate() for _ in texts]
    script: list[Any] = []
    for text, gate in zip(texts, gates, strict=True):
        script += [Piece(text=text, tokens=1), gate]
    return [*script, Piece(finish="stop")], gates


def test_the_signal_is_seen_to_grow_and_after_it_the_answer(visiting):
    signal, of_signal = held("two", " and", " two")
    answer, of_answer = held("it is", " 4")
    with visiting(pair({"signal": signal}, {"answer": answer})) as visit:
        visit.ask()
        for seen, gate in zip(["two", "two and", "two and two"], of_signal, strict=True):
            expect(visit.thought()).to_have_text(seen)
            assert not visit.answer().is_visible()
            assert visit.state().inner_text() == "writing the signal"
            gate.set_result(None)
        for seen, gate in zip(["it is", "it is 4"], of_answer, strict=True):
            expect(visit.answer()).to_have_text(seen)
            assert visit.answer().get_attribute("aria-busy") == "true"
            assert visit.figures().keys() == {"Elapsed", "Signal after", "Answer after"}
            gate.set_result(None)
        expect(visit.state()).to_have_text("finished")
        assert (visit.thought().inner_text(), visit.answer().inner_text()) == ("two and two", "it is 4")
        assert visit.answer().get_attribute("aria-live") == "polite"
        assert visit.answer().get_attribute("aria-busy") == "false"


def test_time_goes_on_while_nothing_comes(visiting):
    gate = Gate()
    with visiting(pair({"signal": [gate, *words(SIGNAL)]})) as visit:
        visit.ask()
        elapsed = visit.page.locator("[data-figure=seconds] dd")
        expect(elapsed).to_be_visible()
        before = elapsed.inner_text()
        expect(elapsed).not_to_have_text(before)
        assert visit.figures().keys() == {"Elapsed"}
        gate.set_result(None)
        expect(visit.state()).to_have_text("finished")
        waited, until_signal, until_answer = (float(value.removesuffix(" s")) for value in list(visit.figures().values())[:3])
        assert float(before.removesuffix(" s")) <= until_signal <= until_answer <= waited


def test_the_counters_are_those_of_the_usage(visiting):
    with visiting(pair(), settings=PRICES) as visit:
        visit.ask()
        expect(visit.state()).to_have_text("finished")
        figures = visit.figures()
        # 5 prompt tokens each; M wrote 3, m 3: (5 × 1 + 3 × 10 + 5 × 0.1 + 3 × 1) / 10⁶
        assert (figures["M's tokens"], figures["m's tokens"], figures["Cost"]) == ("3", "3", "0.0000385")
        comparison = visit.page.locator(".comparison")
        assert comparison.locator("h3").inner_text() == "75 % fewer tokens of M, 69 % lower cost"
        assert comparison.locator(".row").all_inner_texts()[1].split("\n")[-1] == "12 of M · 0.000125"
        assert visit.page.locator(".who").all_inner_texts() == ["Signal · capable model M", "Answer · light model m"]
        assert visit.page.locator(".model").all_inner_texts() == [" · capable-model", " · light-model"]


def test_without_prices_or_an_evaluation_no_cost_and_no_comparison_is_shown(visiting):
    with visiting(pair()) as visit:
        visit.ask()
        expect(visit.state()).to_have_text("finished")
        assert "Cost" not in visit.figures()
        assert not visit.page.locator(".comparison").is_visible()


def test_beside_m_alone_both_are_asked_at_once_and_compared_by_what_they_spent(visiting):
    signal, of_signal = held("two")
    thinking, of_alone = held("<think>\nlong", " thoughts\n</think>\n\n4")
    asked = pair({"signal": signal, "alone": thinking})
    with visiting(asked) as visit:
        visit.page.check("#beside")
        visit.ask()
        expect(visit.thought(0)).to_have_text("two")
        expect(visit.thought(1)).to_have_text("long")  # neither waits for the other
        for gate in (*of_alone, *of_signal):
            gate.set_result(None)
        expect(visit.state(0)).to_have_text("finished")
        expect(visit.answer(1)).to_have_text("4")
        expect(visit.page.locator(".comparison h3")).to_have_text("50 % fewer tokens of M")
        rows = [text.split("\n") for text in visit.page.locator(".row").all_inner_texts()]
        assert [(row[0], row[-1]) for row in rows] == [("M with m", "1 of M, 3 of m"), ("M alone", "2 of M")]
        assert (visit.figures(0)["M's tokens"], visit.figures(1)["M's tokens"], visit.figures(1)["m's tokens"]) == ("1", "2", "0")
        left, right = (visit.page.locator(".lane").nth(i).bounding_box() for i in (0, 1))
        assert left["x"] + left["width"] <= right["x"]
        assert left["y"] == right["y"]


def test_more_tokens_than_m_alone_are_said_to_be_more(visiting):
    with visiting(pair({"signal": words("a b c d e f"), "alone": words("it is 4")})) as visit:
        visit.page.check("#beside")
        visit.ask()
        expect(visit.page.locator(".comparison h3")).to_have_text("100 % more tokens of M")


def test_nothing_that_a_model_or_a_person_wrote_becomes_markup(visiting):
    asked = pair({"signal": [Piece(text=MARKUP, tokens=1)]}, {"answer": [Piece(text=MARKUP, tokens=1)]})
    asked.capable.name = asked.light.name = MARKUP
    with visiting(asked) as visit:
        visit.ask(MARKUP)
        expect(visit.state()).to_have_text("finished")
        assert (visit.thought().inner_text(), visit.answer().inner_text()) == (MARKUP, MARKUP)
        assert visit.page.locator(".turn h2").inner_text() == MARKUP
        assert visit.page.locator(".model").first.inner_text() == f" · {MARKUP}"
        assert visit.page.locator("#turns :is(img, script, b)").count() == 0
        assert visit.page.title() == "Counterpoint"


def test_the_browser_holds_the_page_to_its_own_script_and_this_server(visiting):
    with visiting(pair()) as visit:
        policy = visit.page.request.get(visit.page.url).headers["content-security-policy"]
        assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert "unsafe" not in policy
        assert visit.complaints == []
        visit.page.evaluate("""() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken'";
            document.body.append(script);
        }""")
        assert visit.page.title() == "Counterpoint"
        assert "Content Security Policy" in visit.complaints.pop()


LOST = "The connection was lost before the answer was complete."


@pytest.mark.parametrize(
    ("capable", "light", "said"),
    [
        ({"signal": [broken("capable")]}, {}, "capable broke"),
        ({}, {"answer": [Piece(text="it", tokens=1), broken("light")]}, "light broke"),
        ({}, {"answer": [Piece(text="it", tokens=1), RuntimeError("a bug")]}, LOST),
    ],
    ids=["before it began", "in the middle", "the connection cut"],
)
def test_an_error_is_told_in_words_and_the_question_is_kept(visiting, capable, light, said):
    with visiting(pair(capable, light, fallback=False)) as visit:
        visit.ask("what is 2+2?")
        expect(visit.note()).to_have_text(said)
        expect(visit.state()).to_have_text("failed")
        assert visit.note().get_attribute("role") == "alert"
        assert visit.page.input_value("#question") == "what is 2+2?"
        assert visit.page.inner_text("#send") == "Send"


def test_a_server_that_is_gone_or_hidden_behind_something_else_is_told_in_words(visiting):
    with visiting(pair()) as visit:
        visit.page.context.set_offline(True)
        visit.ask()
        expect(visit.note()).to_have_text("The server cannot be reached. Is it still running?")
        visit.page.context.set_offline(False)
        visit.page.route("**/completions", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
        visit.page.press("#question", "Enter")
        expect(visit.note()).to_have_text("The server answered with status 502.")
        assert visit.page.locator(".turn").count() == 1  # what failed without a word makes place for the next try
        visit.page.unroute("**/completions")
        visit.page.press("#question", "Enter")
        expect(visit.answer()).to_have_text(ANSWER)
        assert visit.page.input_value("#question") == ""


def test_a_busy_server_says_when_to_try_again(visiting):
    with visiting(pair({"signal": [Gate()]}), settings={"server": {"concurrent": 1, "queue": 0}}) as visit:
        visit.page.check("#beside")
        visit.ask()
        expect(visit.page.locator(".note.alarm")).to_contain_text("the server is busy")
        expect(visit.page.locator(".note.alarm")).to_contain_text("Try again in 2 s.")


def test_a_model_that_stood_in_is_named_and_so_is_why(visiting):
    with visiting(pair({"signal": [broken("capable", "timeout")]})) as visit:
        visit.ask()
        expect(visit.note()).to_have_text("The light model m stood in: the capable model M took too long.")
        assert not visit.thought().is_visible()
    with visiting(pair(light={"answer": [broken("light", "connect")]})) as visit:
        visit.ask()
        expect(visit.note()).to_have_text("The capable model M stood in: the light model m could not be reached.")
        assert visit.page.locator(".answer .who").inner_text() == "Answer · capable model M"


def test_an_answer_that_is_cut_off_or_empty_is_said_to_be(visiting):
    with visiting(pair(light={"answer": [Piece(finish="length")]})) as visit:
        visit.ask()
        expect(visit.note()).to_have_text("The answer is empty. The answer reached its token budget and ends there.")


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stopping_stops_the_models_and_keeps_what_was_said(visiting, how):
    answer, _ = held("it is", " 4")
    asked = pair(light={"answer": answer})
    with visiting(asked) as visit:
        visit.ask()
        expect(visit.answer()).to_have_text("it is")
        assert not asked.light.closed.is_set()
        if how == "button":
            visit.page.get_by_role("button", name="Stop").click()
        else:
            visit.page.keyboard.press("Escape")
        assert asked.light.closed.wait(5)
        expect(visit.state()).to_have_text("stopped")
        assert visit.answer().inner_text() == "it is"
        assert not visit.note().is_visible()
        expect(visit.page.locator("#send")).to_have_text("Send")


def test_a_question_that_was_stopped_before_its_answer_is_back_in_the_box(visiting):
    asked = pair({"signal": [Gate()]})
    with visiting(asked) as visit:
        visit.ask("what?")
        expect(visit.state()).to_have_text("waiting")
        visit.page.keyboard.press("Escape")
        assert asked.capable.closed.wait(5)
        expect(visit.page.locator("#question")).to_have_value("what?")
        assert asked.light.asks == []


def test_a_conversation_is_sent_along_without_signals_until_a_new_one_begins(visiting):
    asked = pair()
    with visiting(asked) as visit:
        visit.ask("2+2?")
        expect(visit.state(0)).to_have_text("finished")
        visit.ask("and 3+3?")
        expect(visit.state(1)).to_have_text("finished")
        told = (Message("user", "2+2?"), Message("assistant", ANSWER), Message("user", "and 3+3?"))
        assert asked.capable.asks[1].messages == asked.light.asks[1].messages == told
        visit.page.get_by_role("button", name="New conversation").click()
        assert visit.page.locator(".turn").count() == 0
        visit.ask("4+4?")
        expect(visit.state()).to_have_text("finished")
        assert asked.light.asks[2].messages == (Message("user", "4+4?"),)


def test_a_new_conversation_stops_what_runs_and_hears_no_more_of_it(visiting):
    asked = pair({"signal": [Gate()]})
    with visiting(asked) as visit:
        visit.ask("old?")
        expect(visit.state()).to_have_text("waiting")
        visit.page.click("#new")
        assert asked.capable.closed.wait(5)
        asked.capable.scripts["signal"] = words(SIGNAL)
        visit.ask("new?")
        expect(visit.answer()).to_have_text(ANSWER)
        assert asked.light.asks[0].messages == (Message("user", "new?"),)
        assert visit.page.input_value("#question") == ""


def test_policy_and_effort_are_chosen(visiting):
    asked = pair(auto_threshold=-1.0)
    with visiting(asked, settings={"budget": {"low": 7}}) as visit:
        values = visit.page.locator("#policy option").evaluate_all("options => options.map(option => option.value)")
        assert values == ["counterpoint", "duet", "capable", "light", "auto"]
        visit.page.select_option("#effort", "low")
        visit.ask()
        expect(visit.state(0)).to_have_text("finished")
        assert asked.capable.asks[0].max_tokens == 7
        visit.page.select_option("#policy", "light")
        visit.ask()
        expect(visit.state(1)).to_have_text("finished")
        assert len(asked.capable.asks) == 1
        visit.page.select_option("#policy", "capable")
        assert visit.page.is_disabled("#beside")  # M alone is what is asked
        visit.ask()
        expect(visit.answer(2)).to_have_text("it is 4")
        assert visit.page.locator(".lane").nth(2).locator(".who").all_inner_texts() == [
            "Thinking · capable model M",
            "Answer · capable model M",
        ]


def test_a_key_is_asked_for_where_one_is_needed_and_kept_in_this_tab_only(visiting, tmp_path):
    database = f"sqlite:///{tmp_path / 'keys.db'}"
    key = add_key(database, "someone")
    with visiting(pair(), Ledger(database)) as visit:
        field = visit.page.get_by_label("API key")
        assert not field.is_visible()
        visit.ask("2+2?")
        expect(visit.note()).to_contain_text("no valid API key")
        expect(field).to_be_focused()
        visit.page.keyboard.type("wrong")
        visit.page.keyboard.press("Enter")
        expect(visit.note()).to_contain_text("no valid API key")
        expect(field).to_be_visible()
        field.fill(key)
        field.press("Enter")
        expect(visit.answer()).to_have_text(ANSWER)
        assert not field.is_visible()
        assert visit.page.locator(".turn").count() == 1
        visit.page.reload()
        visit.ask()
        expect(visit.answer()).to_have_text(ANSWER)
        kept = visit.page.evaluate("() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
        assert kept == [[key], [], ""]


def test_everything_can_be_done_with_the_keyboard(visiting):
    answer, gates = held("it is 4")
    asked = pair(light={"answer": answer})
    with visiting(asked) as visit:
        keyboard = visit.page.keyboard
        focused = "() => [document.activeElement.id || document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]"
        reached = []
        keyboard.type("one")  # the box has the focus from the start
        keyboard.press("Shift+Enter")
        keyboard.type("two")
        for key in ("d", " ", " "):  # Duet in the list; the effort's list opens and closes; the check box
            keyboard.press("Tab")
            reached.append(visit.page.evaluate(focused))
            keyboard.press("Space" if key == " " else key)
            if reached[-1][0] == "effort":
                keyboard.press("Escape")
        keyboard.press("Tab")
        reached.append(visit.page.evaluate(focused))
        assert reached == [["policy", "solid"], ["effort", "solid"], ["beside", "solid"], ["send", "solid"]]
        assert visit.page.input_value("#policy") == "duet"
        keyboard.press("Enter")
        expect(visit.answer(0)).to_have_text("it is 4")
        assert asked.light.asks[0].messages == (Message("user", "one\ntwo"),)
        assert len(asked.capable.asked("alone")) == 1
        keyboard.press("Enter")  # the same button stops
        expect(visit.state(0)).to_have_text("stopped")
        for _ in range(3):  # back over the choices to the box
            keyboard.press("Shift+Tab")
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
