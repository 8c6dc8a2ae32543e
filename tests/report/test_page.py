"""A report as a file: packed, fitted into its limit, filled in once."""

import base64
import gzip
import json
import math
import random

import pytest

from counterpoint.report.document import document_of
from counterpoint.report.page import LIMIT, fill, finite, fitted, pack, page
from counterpoint.report.read import read_run
from counterpoint.report.text import cut, visible
from report.made import evaluation, made, result, said


def unpacked(packed):
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_what_is_packed_comes_out_as_it_went_in_with_null_for_what_is_no_number():
    document = {"texts": ["</script>", "é😀"], "numbers": [1.5, math.nan, -math.inf, 3], "samples": []}
    assert unpacked(pack(document)) == document | {"numbers": [1.5, None, None, 3]}
    assert set(pack(document)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
    assert finite({"a": (math.nan, True, None)}) == {"a": [None, True, None]}


def noise(length):
    return "".join(random.Random(length).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))


def sample_set(count):
    return {"run": "r", "questions": [{"id": str(i), "text": noise(1000 + i)} for i in range(count)], "left_out": 0}


def test_questions_that_have_no_room_are_left_out_and_counted():
    document = {"samples": [sample_set(60), sample_set(5)]}
    packed = fitted(document, 20_000)
    assert len(packed) <= 20_000
    first, second = unpacked(packed)["samples"]
    assert 10 < len(first["questions"]) < 60
    assert first["left_out"] == 60 - len(first["questions"])
    assert first["questions"] == document["samples"][0]["questions"][: len(first["questions"])]
    assert (len(second["questions"]), second["left_out"]) == (5, 0)
    assert unpacked(fitted(document, 10**6)) == document


def test_a_report_of_a_run_that_said_too_much_stays_under_the_limit_and_says_what_is_missing(tmp_path):
    rows = [said(system, f"q{i}", noise(15_000 + i)) for i in range(400) for system in ("start", "run")]
    run = made(tmp_path / "run", evaluation=evaluation({"start": result(0.5), "run": result(0.5)}), evaluation_samples=rows)
    html = page(*document_of([read_run(run)]))
    assert LIMIT * 0.7 < len(html.encode()) <= LIMIT
    packed = html.partition('id="report" data-live="false">')[2].partition("</script>")[0]
    [found] = unpacked(packed)["samples"]
    assert found["left_out"] == 400 - len(found["questions"]) > 0


def test_what_is_filled_in_is_never_looked_at_again():
    assert fill("a {{x}} b {{y}} c", {"x": "{{y}}", "y": "}}{{x}}"}) == "a {{y}} b }}{{x}} c"
    with pytest.raises(KeyError):
        fill("{{z}}", {})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x00\x1b\r", "␀␛␍"),
        ("\x7f\x9f\u202e\u2066\u200f\ufeff\u2028", "⟨U+007F⟩⟨U+009F⟩⟨U+202E⟩⟨U+2066⟩⟨U+200F⟩⟨U+FEFF⟩⟨U+2028⟩"),
        ("👩‍👧 مرحبا", "👩‍👧 مرحبا"),
    ],
)
def test_characters_that_are_not_seen_are_made_visible(text, shown):
    assert visible(text) == shown


def test_a_cut_text_says_how_much_is_missing():
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefg" * 1000, 3) == "abc… [6,997 more characters]"
