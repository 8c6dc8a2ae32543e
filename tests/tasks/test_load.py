import json

import pytest

from counterpoint.errors import ConfigError, DataError
from counterpoint.tasks.base import text_key
from counterpoint.tasks.graders import grade_all
from counterpoint.tasks.load import describe_tasks, load_task
from counterpoint.tasks.rows import Place
from counterpoint.tasks.sources import SOURCES, competition_math, gpqa, gsm8k, mawps, svamp

HERE = Place("rows.jsonl", "line", 7)


def write_lines(path, *rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def texts(questions):
    return {text_key(question.text) for question in questions}


def pairs(count):
    return [{"question": f"What is {index} + 1?", "answer": index + 1} for index in range(count)]


# Built in and procedural


@pytest.mark.parametrize("seed", [0, 1])
def test_arithmetic_never_has_a_question_in_both_splits(seed):
    task = load_task("arithmetic", seed=seed, train_limit=400, test_limit=100)
    assert (len(task.train), len(task.test)) == (400, 100)
    assert not texts(task.train) & texts(task.test)


def test_arithmetic_is_graded_by_its_number():
    task = load_task("arithmetic", train_limit=2, test_limit=2)
    question = task.test[0]
    assert task.grade([question] * 2, [question.answer, str(int(question.answer) + 1)]) == [1.0, 0.0]


def test_arithmetic_with_an_unknown_option_is_an_error():
    with pytest.raises(ConfigError, match=r"'arithmetic' cannot take the options.*colour"):
        load_task("arithmetic", options={"colour": "red"})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}),
        ("letter_counting", {}),
        ("tower_of_hanoi", {}),
    ],
)
def test_reasoning_gym_never_has_a_question_in_both_splits(name, options):
    task = load_task(f"reasoning_gym:{name}", train_limit=80, test_limit=20, options=options)
    assert task.train
    assert task.test
    assert not texts(task.train) & texts(task.test)
    assert len(texts(task.test)) == len(task.test), "no repetitions within a split"


def test_reasoning_gym_grades_with_the_verifier_of_the_task():
    task = load_task("reasoning_gym:countdown", train_limit=2, test_limit=2)
    question = task.test[0]
    written_otherwise = f"<answer>{question.metadata['entry']['metadata']['expression']}</answer>"
    wrong, untagged = "<answer>1 + 1</answer>", question.answer
    responses = [written_otherwise, wrong, untagged]
    in_full, for_trying, unread = grade_all(task.grade, [question] * 3, responses)
    assert in_full == 1.0
    assert for_trying is not None
    assert for_trying < 0.1
    assert unread == 0.0


def test_a_reasoning_gym_seed_moves_train_and_keeps_test():
    one, two = (load_task("reasoning_gym:chain_sum", seed=seed, train_limit=20, test_limit=20) for seed in (1, 2))
    assert not texts(one.train) & texts(two.train)
    assert one.test == two.test


def test_an_unknown_reasoning_gym_task_names_near_ones():
    with pytest.raises(DataError, match=r"no task 'chain_sums'. It has chain_sum"):
        load_task("reasoning_gym:chain_sums")


@pytest.mark.parametrize("options", [{"min_terms": -3}, {"colour": "red"}])
def test_a_wrong_reasoning_gym_configuration_is_an_error(options):
    with pytest.raises(ConfigError, match="chain_sum cannot take the options"):
        load_task("reasoning_gym:chain_sum", options=options)


def test_the_reasoning_gym_seed_is_not_an_option():
    with pytest.raises(ConfigError, match="leave seed out"):
        load_task("reasoning_gym:chain_sum", options={"seed": 1})


# Published sets, from a local folder


def test_gsm8k_splits_never_overlap(shared_data):
    task = load_task("gsm8k", path=shared_data)
    assert len(task.test) == 1319
    assert len(task.train) + task.dropped == 7473
    assert not texts(task.train) & texts(task.test)


def test_gsm8k_traces_are_clean_and_answers_grade_as_right(shared_data):
    task = load_task("gsm8k", path=shared_data, train_limit=200, test_limit=0)
    assert all(question.trace and "<<" not in question.trace and "####" not in question.trace for question in task.train)
    responses = [f"{question.trace}\nThe answer is {question.answer}." for question in task.train]
    assert grade_all(task.grade, task.train, responses) == [1.0] * len(task.train)


@pytest.mark.parametrize(("name", "count"), [("aime24", 30), ("svamp", 1000), ("mawps", 2065)])
def test_a_set_with_test_rows_only_cannot_be_trained_on(shared_data, name, count):
    task = load_task(name, path=shared_data)
    assert len(task.test) == count
    with pytest.raises(DataError, match=f"{name!r} is for testing only"):
        task.training_questions()


def test_a_test_only_set_is_divided_when_asked_to(shared_data):
    task = load_task("svamp", path=shared_data, options={"test_share": 0.3})
    assert 200 < len(task.test) < 400
    assert len(task.train) > 600
    assert not texts(task.train) & texts(task.test)


@pytest.mark.parametrize("name", ["aime24", "svamp", "mawps"])
def test_reference_answers_grade_as_right(shared_data, name):
    task = load_task(name, path=shared_data, test_limit=30)
    responses = [f"So it is $\\boxed{{{question.answer}}}$." for question in task.test]
    assert grade_all(task.grade, task.test, responses) == [1.0] * len(task.test)


def test_a_single_file_is_a_path_too(shared_data):
    task = load_task("aime24", path=shared_data / "aime24_test.jsonl", test_limit=5)
    assert len(task.test) == 5
    assert task.instruction == "Put the final answer in \\boxed{}."


def test_a_split_that_the_set_already_has_cannot_be_asked_for(shared_data):
    with pytest.raises(ConfigError, match="leave test_share out"):
        load_task("gsm8k", path=shared_data, options={"test_share": 0.5})


def test_a_training_question_of_the_whole_test_split_is_dropped_whatever_the_limit(tmp_path):
    rows = [{"question": f"q{index}", "answer": "#### 1"} for index in range(20)]
    write_lines(tmp_path / "gsm8k_train.jsonl", *rows, {"question": "new", "answer": "#### 2"})
    write_lines(tmp_path / "gsm8k_test.jsonl", *rows)
    task = load_task("gsm8k", path=tmp_path, test_limit=2)
    assert texts(task.train) == {"new"}
    assert task.dropped == 20


# Rows


def test_gsm8k_row_becomes_question_answer_and_trace():
    row = {"question": "How many?", "answer": "2*3 = <<2*3=6>>6 pens.\n6*200 = <<6*200=1200>>1,200.\n#### 1,200"}
    question = gsm8k(row, HERE, "id")
    assert (question.answer, question.trace) == ("1200", "2*3 = 6 pens.\n6*200 = 1,200.")


def test_a_gsm8k_answer_without_the_mark_is_an_error():
    with pytest.raises(DataError, match=r"rows.jsonl, line 7: field 'answer' has no final answer after ####"):
        gsm8k({"question": "How many?", "answer": "six"}, HERE, "id")


def test_a_math_answer_is_taken_from_the_last_box_and_the_box_from_the_trace():
    question = competition_math({"problem": "x?", "solution": r"So $x = \boxed{\frac{1}{2}}$."}, HERE, "id")
    assert (question.answer, question.trace) == (r"\frac{1}{2}", r"So $x = \frac{1}{2}$.")


def test_a_math_row_without_any_answer_is_an_error():
    with pytest.raises(DataError, match="line 7: neither field 'answer' nor"):
        competition_math({"problem": "x?", "solution": "clear"}, HERE, "id")


def test_a_svamp_story_and_its_question_are_joined():
    row = {"Body": "Tom has 9 apples", "Question": "How many?", "Answer": "9.0"}
    assert (svamp(row, HERE, "id").text, svamp(row, HERE, "id").answer) == ("Tom has 9 apples. How many?", "9")


@pytest.mark.parametrize("row", [{"input": "How many?", "target": 2.5}, {"question": "How many?", "result": "2.5"}])
def test_mawps_is_read_in_both_its_forms(row):
    assert (mawps(row, HERE, "id").text, mawps(row, HERE, "id").answer) == ("How many?", "2.5")


def test_gpqa_choices_are_shuffled_by_question_and_always_alike():
    def row(index):
        wrong = {f"Incorrect Answer {number}": f"wrong {number}" for number in (1, 2, 3)}
        return {"Record ID": f"r{index}", "Question": "Which?", "Correct Answer": "right", **wrong}

    made = [gpqa(row(index), HERE, "id") for index in range(40)]
    assert {question.answer for question in made} == set("ABCD")
    assert all(f"({question.answer}) right" in question.text for question in made)
    assert made == [gpqa(row(index), HERE, "id") for index in range(40)]


# A user's own data


def test_own_rows_are_read_numbered_and_divided(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", *pairs(300))
    task = load_task(f"jsonl:{path}")
    assert 10 < len(task.test) < 60
    assert len(task.train) + len(task.test) == 300
    assert task.train[0].id.endswith("/1")
    assert grade_all(task.grade, task.test[:1], [f"\\boxed{{{task.test[0].answer}}}"]) == [1.0]


def test_own_fields_ids_traces_and_instruction(tmp_path):
    path = write_lines(tmp_path / "test.jsonl", {"ask": "2+2?", "label": 4, "key": "k1", "work": "two and two", "n": 5})
    options = {
        "question_field": "ask",
        "answer_field": "label",
        "id_field": "key",
        "trace_field": "work",
        "instruction": "Say it.",
    }
    task = load_task(f"jsonl:{path}", options=options)
    [question] = task.test
    assert (question.id, question.text, question.answer, question.trace) == ("k1", "2+2?", "4", "two and two")
    assert question.metadata["n"] == 5
    assert task.instruction == "Say it."


def test_own_folder_with_a_train_and_a_test_file(tmp_path):
    write_lines(tmp_path / "train.jsonl", *pairs(4))
    write_lines(tmp_path / "test.jsonl", *pairs(6)[4:])
    task = load_task(f"jsonl:{tmp_path}")
    assert (len(task.train), len(task.test)) == (4, 2)


def test_own_json_and_parquet_files(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "train.json").write_text(json.dumps(pairs(3)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(pairs(5)[3:]), tmp_path / "test.parquet")
    task = load_task(f"jsonl:{tmp_path}")
    assert (len(task.train), len(task.test)) == (3, 2)


def test_questions_without_references_need_a_grader_that_needs_none(tmp_path):
    path = write_lines(tmp_path / "test.jsonl", {"question": "Tell a story."})
    with pytest.raises(ConfigError, match="has no reference answers, so name a grader"):
        load_task(f"jsonl:{path}", options={"answer_field": ""})
    task = load_task(f"jsonl:{path}", options={"answer_field": ""}, grader=lambda questions, responses: [0.5])
    assert grade_all(task.grade, task.test, ["Once."]) == [0.5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"question": "2+2?"}, "test.jsonl, line 2: field 'answer' is missing; the row has question"),
        ({"question": "2+2?", "answer": None}, "line 2: field 'answer' is empty"),
        ({"question": "  ", "answer": "4"}, "line 2: field 'question' is empty"),
        ('{"question": "2+2?", "answer"}', "line 2: not JSON: .* at column 30"),
        ("[1, 2]", "line 2: a row must be a JSON object, but this is a list"),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_field(tmp_path, line, message):
    path = write_lines(tmp_path / "test.jsonl", {"question": "1+1?", "answer": "2"}, line)
    with pytest.raises(DataError, match=message):
        load_task(f"jsonl:{path}")


def test_a_line_separator_within_a_string_does_not_end_the_line(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"question": "2+2\u2028?", "answer": "4"}\n', encoding="utf-8")
    assert len(load_task(f"jsonl:{path}").test) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.csv", "a,b", "ends in '.csv'"),
        ("mine.json", "{}", "holds a JSON dict; it must hold a list"),
        ("mine.json", "[1", "mine.json, line 1: not JSON"),
        ("mine.json", "[1]", "mine.json, row 1: a row must be a JSON object"),
        ("mine.parquet", "no", "is no parquet file"),
        ("mine.jsonl", "\udcff", "is not UTF-8 text"),
        ("mine.jsonl", "", "has no questions"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        load_task(f"jsonl:{path}")


def test_a_missing_path_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist. Give a .jsonl.* file, or a folder with gsm8k_test"):
        load_task("gsm8k", path=tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no gsm8k_train or gsm8k_test file"):
        load_task("gsm8k", path=tmp_path)


def test_an_unknown_task_or_option_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no task 'gsm9k'. Choose arithmetic, .*gsm8k"):
        load_task("gsm9k")
    with pytest.raises(ConfigError, match=r"has no option 'answr_field'. It has question_field, answer_field"):
        load_task("jsonl:x", options={"answr_field": "a"})
    with pytest.raises(ConfigError, match="takes no path"):
        load_task("arithmetic", path=tmp_path)
    with pytest.raises(ConfigError, match="test_limit is -1"):
        load_task("arithmetic", test_limit=-1)


# The hub


def test_hub_name_may_be_a_local_data_set_with_splits_of_any_name(tmp_path):
    write_lines(tmp_path / "train.jsonl", *pairs(3))
    write_lines(tmp_path / "validation.jsonl", *pairs(5)[3:])
    task = load_task(f"hf:{tmp_path}", options={"test_split": "validation"})
    assert (len(task.train), len(task.test)) == (3, 2)
    with pytest.raises(DataError, match="has no split 'dev'; it has train, validation"):
        load_task(f"hf:{tmp_path}", options={"test_split": "dev"})


def test_an_unreachable_hub_says_how_to_do_without(monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        DataError, match=r"'openai/gsm8k', config 'main', split 'train'.*no route.*local copy as path.*gsm8k_test"
    ):
        load_task("gsm8k")
    with pytest.raises(DataError, match=r"Idavidrein/gpqa.*gated: accept its terms"):
        load_task("gpqa_diamond")
    with pytest.raises(DataError, match=r"'me/mine' cannot be loaded.*jsonl:PATH"):
        load_task("hf:me/mine")


def grade_as_zero(questions, responses):
    return [0.0 for _ in responses]


def test_stories_ask_for_their_words_and_need_a_reward_model_by_name(tmp_path):
    file = tmp_path / "common_gen_test.jsonl"
    file.write_text('{"concepts": ["walk", "river"], "target": "She walks by the river."}\n')
    task = load_task("common_gen", path=file, grader=grade_as_zero)
    assert task.test[0].text == "Write a short story that uses these words: walk, river."
    with pytest.raises(ConfigError, match=r"'reward_model' cannot take the options.*model"):
        load_task("common_gen", path=file)
    file.write_text('{"concepts": "walk"}\n')
    with pytest.raises(DataError, match="'concepts' is no list of words"):
        load_task("common_gen", path=file, grader=grade_as_zero)


def test_stories_with_several_references_are_asked_for_once(tmp_path):
    """The published rows: a concept set is repeated once for each of its references."""
    concepts = [["walk", "river"], ["walk", "river"], ["lamp", "read"], ["walk", "river"]]
    for split, first in (("train", "dog"), ("test", "cat")):
        rows = [json.dumps({"concepts": [first, *words], "target": f"{first} {i}"}) for i, words in enumerate(concepts)]
        (tmp_path / f"common_gen_{split}.jsonl").write_text("\n".join(rows))
    task = load_task("common_gen", path=tmp_path, grader=grade_as_zero)
    for split, first in ((task.train, "dog"), (task.test, "cat")):
        assert [question.answer for question in split] == [f"{first} 0", f"{first} 2"]
        assert [question.id[-2:] for question in split] == ["/1", "/3"], "an id leads to its row"
    assert len(load_task("common_gen", path=tmp_path, grader=grade_as_zero, test_limit=2).test) == 2


@pytest.mark.parametrize("name", SOURCES)
def test_published_sets_ask_the_hub_for_their_splits(monkeypatch, name):
    import datasets

    row = {"question": "How many?", "answer": "work #### 3", "problem": "How many?", "result": "3"}
    row |= {"Body": "A story.", "Question": "How many?", "Answer": "3", "Correct Answer": "3"}
    row |= {f"Incorrect Answer {number}": f"{number}0" for number in (1, 2, 3)}
    asked = []

    def from_the_hub(hub_id, config, split):
        asked.append((hub_id, config, split))
        texts = {key: f"{value} {len(asked)}" for key, value in row.items()}
        return datasets.Dataset.from_list([texts | {"concepts": ["walk", str(len(asked))]}])

    monkeypatch.setattr(datasets, "load_dataset", from_the_hub)
    # stories have no grader of their own: the recipe names a reward model
    task = load_task(name, grader=grade_as_zero if SOURCES[name].grader == "reward_model" else None)
    assert len(asked) == len(SOURCES[name].hub)
    assert len(task.test) == 1
    assert bool(task.train) == ("train" in SOURCES[name].hub)


# What can be asked for


def test_every_task_is_described_with_an_example():
    rows = {row.name: row for row in describe_tasks()}
    assert {"arithmetic", "palindromes", "reasoning_gym:NAME", *SOURCES, "jsonl:PATH", "hf:NAME"} == set(rows)
    assert all(row.what and row.source and row.splits and row.example for row in rows.values())
    assert "chain_sum: " in rows["reasoning_gym:NAME"].example


def test_examples_are_not_rows_of_the_data(shared_data):
    for name in ("gsm8k", "svamp", "mawps", "aime24"):
        asked = SOURCES[name].example.split(" -> ")[0]
        assert text_key(asked) not in texts(load_task(name, path=shared_data).test)


def test_a_missing_extra_names_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ConfigError, match=r'needs reasoning_gym: pip install "counterpoint\[tasks\]"'):
        load_task("reasoning_gym:chain_sum")
    assert any("pip install" in row.example for row in describe_tasks())


def test_loading_the_module_loads_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, counterpoint.tasks.load; "
        "print({'torch', 'transformers', 'datasets', 'reasoning_gym', 'math_verify', 'pyarrow'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
