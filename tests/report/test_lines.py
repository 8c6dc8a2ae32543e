"""JSONL files: what is no number, and what was appended since the last look."""

import json

import pytest

from counterpoint.report.lines import Fields, LinesOf
from counterpoint.report.read import OF_EVALUATION, OF_METRICS, OF_SAMPLES


def look(lines, file):
    return lines.look(file)[0]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_only_what_was_appended_is_read_again(file, monkeypatch):
    lines = LinesOf(OF_METRICS)
    file.write_text('{"step": 1}\n{"step": 2}\n')
    assert look(lines, file) == [{"step": 1}, {"step": 2}]
    parsed = []
    usable = LinesOf._usable
    monkeypatch.setattr(LinesOf, "_usable", lambda self, line, *rest: parsed.append(line) or usable(self, line, *rest))
    with file.open("a") as stream:
        stream.write('{"step": 3}\n{"step": 4, "x')
    assert look(lines, file) == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert parsed == [b'{"step": 3}', b'{"step": 4, "x']
    with file.open("a") as stream:
        stream.write('": 5}\n{"step"}\n')
    records, problems = lines.look(file)
    assert records[-1] == {"step": 4, "x": 5}
    assert problems == ["metrics.jsonl: damaged and left out: line 5"]


@pytest.mark.parametrize("text", ['{"step": 1}\n', '{"step": 7}\n{"step": 8}\n{"step": 9}\n', "", '{"step": 1}\n{"step": 3}\n'])
def test_a_file_that_was_written_anew_is_read_from_its_start(file, text):
    lines = LinesOf(OF_METRICS)
    file.write_text('{"step": 1}\n{"step": 2}\n')
    lines.look(file)
    file.write_text(text)
    assert look(lines, file) == [json.loads(line) for line in text.splitlines()]


def test_a_step_that_the_page_could_not_count_to_is_damaged(file):
    file.write_text(f'{{"step": {2**53}}}\n{{"step": {2**53 + 1}}}\n')
    assert LinesOf(OF_METRICS).look(file) == ([{"step": 2**53}], ["metrics.jsonl: damaged and left out: line 2"])


def test_what_a_reader_does_with_the_records_does_not_come_back(file):
    lines = LinesOf(OF_METRICS)
    file.write_text('{"step": 1}\n')
    look(lines, file).clear()
    assert look(lines, file) == [{"step": 1}]


def test_numbers_that_are_texts_are_left_out_and_named_by_field_and_line(file):
    rows = [{"step": 1, "reward": 0.5, "loss": None}, {"step": 2, "reward": "0.5", "loss": [1]}, {"step": 3, "reward": True}]
    rows.append({"step": 4, "reward": 10**400, "loss": {"a": 1}})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    records, problems = LinesOf(OF_METRICS).look(file)
    assert [record.get("reward") for record in records] == [0.5, None, None, None]
    assert [record.get("loss") for record in records] == [None] * 4
    assert problems == [
        "metrics.jsonl: reward is no number, and left out: line 2, 3, 4",
        "metrics.jsonl: loss is no number, and left out: line 2, 4",
    ]


def test_rewards_are_a_list_of_numbers(tmp_path):
    file = tmp_path / "samples.jsonl"
    file.write_text('{"step": 1, "question": "q", "rewards": [1, null, "x"]}\n{"step": 2, "question": "q", "rewards": "no"}\n')
    records, problems = LinesOf(OF_SAMPLES).look(file)
    assert [record["rewards"] for record in records] == [[1, None, None], None]
    assert problems == ["samples.jsonl: rewards is no number, and left out: line 1, 2"]


def test_a_reward_that_is_a_text_is_no_reward(tmp_path):
    file = tmp_path / "evaluation_samples.jsonl"
    file.write_text('{"question": "q", "system": "s", "response": "r", "correct": "1.0", "capable_output_tokens": "7"}\n')
    [record], problems = LinesOf(OF_EVALUATION).look(file)
    assert (record["correct"], record["capable_output_tokens"], len(problems)) == (None, None, 2)


def test_fields_that_nobody_asks_for_may_be_anything(file):
    file.write_text('{"step": 1, "note": "text"}\n')
    assert LinesOf(Fields({"step": int})).look(file) == ([{"step": 1, "note": "text"}], [])
