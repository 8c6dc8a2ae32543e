"""The page at `/`, in Chromium: what is asked, what is seen of it."""

import pytest

from counterpoint.gateway.access.keys import add_key
from counterpoint.gateway.access.ledger import Ledger
from counterpoint.gateway.types import Message, Piece
from gateway.scripted import broken, words
from gateway.staged import ANSWER, PRICES, SIGNAL, Gate, held, pair

pytest.importorskip("playwright", reason="the page is tested with playwright, which is not installed")
from playwright.sync_api import expect

LOST = "The connection was lost before the answer was complete."
MARKUP = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script><b>"


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


@pytest.mark.parametrize(
    ("capable", "light", "said"),
    [
        ({"signal": [broken("capable")]}, {}, "capable broke"),
        ({}, {"answer": [Piece(text="it", tokens=1), broken("light")]}, "light broke"),
        ({}, {"answer": [Piece(text="it", tokens=1), RuntimeError("a bug")]}, "the gateway failed; its log says how"),
    ],
    ids=["before it began", "in the middle", "a bug of the gateway"],
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


def test_a_stream_that_ends_without_its_end_is_not_taken_for_whole(visiting):
    begun = 'data: {"choices": [{"delta": {"content": "it"}}]}\n\n'
    with visiting(pair()) as visit:
        visit.page.route("**/completions", lambda route: route.fulfill(body=begun, content_type="text/event-stream"))
        visit.ask()
        expect(visit.note()).to_have_text(LOST)
        assert visit.answer().inner_text() == "it"


def test_a_busy_server_says_when_to_try_again(visiting):
    with visiting(pair({"signal": [Gate()]}), settings={"server": {"concurrent": 1, "queue": 0}}) as visit:
        visit.page.check("#beside")
        visit.ask()
        expect(visit.page.locator(".note.alarm")).to_contain_text("the server is busy")
        expect(visit.page.locator(".note.alarm")).to_contain_text("Try again in 2 s.")


def test_a_model_that_stood_in_is_named_and_so_is_why(visiting):
    with visiting(pair({"signal": [broken("capable", "timeout")]}), settings=PRICES) as visit:
        visit.ask()
        expect(visit.note()).to_have_text("The light model m stood in: the capable model M took too long.")
        assert not visit.thought().is_visible()
        expect(visit.page.locator("#send")).to_have_text("Send")
        assert not visit.page.locator(".comparison").is_visible()  # M's failure saved nothing
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
        expect(visit.note()).to_have_text("This server asks for an API key.")
        expect(field).to_be_focused()
        visit.page.keyboard.type("wrong")
        visit.page.keyboard.press("Enter")
        expect(visit.note()).to_have_text("This API key is not valid.")
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
