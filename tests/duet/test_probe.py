"""Probes: the same questions, asked the same way, at every checkpoint, and nothing that is learned hangs on them."""

import json

import pytest

from counterpoint.duet import probe as probe_module
from counterpoint.duet.alone import alone_step
from counterpoint.duet.probe import probe
from counterpoint.errors import GraderError
from counterpoint.evaluate.run import questions_of
from counterpoint.rl.types import Question
from counterpoint.run import Run
from fakes import FakePolicy
from pairs import TEST_QUESTIONS, grade_by_bytes, learner, recipe_in, same, tiny_pair, tokenizer, toy_task, trained

LONG = Question("long", "?" * 300, "x")
EVALUATION = {"questions": 12, "temperature": 0.5, "top_p": 0.9, "top_k": 7}


class Killed(Exception):
    """Stands for the end of the process."""


class Asked(FakePolicy):
    """Remembers how it was asked."""

    def __init__(self, reply):
        super().__init__(reply)
        self.asked = []

    def sample(self, prompts, n, params, seed):
        self.asked.append(([tokenizer().decode(list(prompt)) for prompt in prompts], n, params, seed))
        return super().sample(prompts, n, params, seed)


def fake_pair(recipe, light_context_length=96, capable_context_length=96):
    capable = Asked(lambda prompt, i: "aa</think>")
    light = Asked(lambda prompt, i: "helped" if "aa" in tokenizer().decode(list(prompt)) else "alone")
    return learner(capable, recipe.capable, capable_context_length), learner(light, recipe.light, light_context_length)


def probed(recipe, pair, task):
    return probe(pair[0].speaker, pair[1].speaker, task, recipe)


def probes_of(directory):
    return [json.loads(line) for line in (directory / "trial" / "probes.jsonl").read_text().splitlines()]


# --- a probe


def test_a_row_says_what_both_models_said_and_how_it_was_graded(tmp_path):
    recipe = recipe_in(tmp_path)
    right = toy_task(lambda questions, responses: [float(response == "helped") for response in responses], test=TEST_QUESTIONS)
    first, *others = probed(recipe, fake_pair(recipe), right)
    assert first == {
        "question": "t0",
        "text": "0+3",
        "reference": "3",
        "signal": "aa",
        "signal_tokens": len("aa</think>"),
        "aided": "helped",
        "aided_reward": 1.0,
        "unaided": "alone",
        "unaided_reward": 0.0,
    }
    assert [row["question"] for row in others] == [question.id for question in TEST_QUESTIONS[1:8]]


def test_questions_are_asked_as_in_an_evaluation(tmp_path):
    recipe = recipe_in(tmp_path, evaluation=EVALUATION)
    capable, light = fake_pair(recipe)
    probed(recipe, (capable, light), toy_task(test=TEST_QUESTIONS))
    starts = [f"<|user|>{question.text}<|assistant|><think>\n" for question in TEST_QUESTIONS[:8]]
    [signals], [aided, unaided] = capable.speaker.policy.asked, light.speaker.policy.asked
    assert signals[:2] == (starts, 1)
    assert aided[:2] == ([f"{start}aa\n</think>\n\n" for start in starts], 1)
    assert unaided[:2] == ([f"{start}\n</think>\n\n" for start in starts], 1)
    for (_, _, params, _), budget in ((signals, 12), (aided, 8), (unaided, 8)):
        assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (budget, 0.5, 0.9, 7)


def test_the_questions_are_the_first_of_those_that_an_evaluation_asks(tmp_path):
    recipe = recipe_in(tmp_path, evaluation={"questions": 9})
    task = toy_task(test=TEST_QUESTIONS)
    evaluated = [question.id for question in questions_of(task, recipe)]
    assert evaluated != [question.id for question in TEST_QUESTIONS[:9]]  # an evaluation chooses
    rows = probed(recipe, fake_pair(recipe), task)
    assert [row["question"] for row in rows] == evaluated[: probe_module.QUESTIONS]


def test_a_question_that_is_too_long_for_either_model_is_passed_over(tmp_path):
    recipe = recipe_in(tmp_path)
    task = toy_task(test=[LONG, *TEST_QUESTIONS])
    assert [row["question"] for row in probed(recipe, fake_pair(recipe), task)] == [f"t{i}" for i in range(8)]


def test_a_question_needs_room_for_a_signal_in_one_model_and_for_an_answer_in_the_other(tmp_path):
    recipe, asked = recipe_in(tmp_path), TEST_QUESTIONS[0].text
    capable, light = (one.speaker.renderer for one in fake_pair(recipe))
    for_light = len(light.answer_prompt(asked, "", 8).tokens) + 8
    for_capable = len(capable.signal_prompt(asked, 12)) + 12
    task = toy_task(test=TEST_QUESTIONS[:1])
    [row] = probed(recipe, fake_pair(recipe, for_light, for_capable), task)
    assert (row["signal"], row["aided"]) == ("aa", "alone")  # m's room was just that of an answer, the signal had none
    assert probed(recipe, fake_pair(recipe, for_light - 1, for_capable), task) == []
    assert probed(recipe, fake_pair(recipe, for_light, for_capable - 1), task) == []


def test_without_test_questions_that_fit_nobody_is_asked(tmp_path):
    recipe = recipe_in(tmp_path)
    for test in ((), (LONG,)):
        pair = fake_pair(recipe)
        assert probed(recipe, pair, toy_task(lambda questions, responses: pytest.fail("graded"), test=test)) == []
        assert pair[0].speaker.policy.asked == pair[1].speaker.policy.asked == []


def unreadable(questions, responses):
    """Fails on the aided answer to one question."""
    if any(question.id == "t2" and said == "helped" for question, said in zip(questions, responses, strict=True)):
        raise ValueError("cannot read this")
    return [0.5] * len(responses)


def test_a_grading_that_fails_is_skipped_or_ends_the_run_as_the_task_says(tmp_path):
    task = toy_task(unreadable, test=TEST_QUESTIONS)
    recipe = recipe_in(tmp_path, task={"on_grader_error": "skip"})
    rewards = [(row["aided_reward"], row["unaided_reward"]) for row in probed(recipe, fake_pair(recipe), task)]
    assert rewards == [(None if i == 2 else 0.5, 0.5) for i in range(8)]
    with pytest.raises(GraderError, match="'t2': ValueError: cannot read this"):
        probed(recipe_in(tmp_path), fake_pair(recipe), task)


# --- in a run


def test_a_run_is_probed_before_its_first_step_and_at_every_checkpoint(tmp_path):
    recipe = recipe_in(tmp_path, run={"steps": 5})
    trained(recipe, task=toy_task(test=TEST_QUESTIONS))
    rows = probes_of(tmp_path)
    assert [(row["step"], row["question"]) for row in rows] == [(step, f"t{i}") for step in (0, 2, 4, 5) for i in range(8)]
    said = {step: [row["signal"] for row in rows if row["step"] == step] for step in (0, 5)}
    assert said[0] != said[5]  # it is the model as it stands that is asked


def test_models_that_learn_nothing_say_the_same_at_every_probe(tmp_path):
    recipe = recipe_in(tmp_path, run={"steps": 4}, control={"kind": "constant", "value": 0.0}, evaluation={"temperature": 1.0})
    trained(recipe, task=toy_task(lambda questions, responses: [1.0] * len(responses), test=TEST_QUESTIONS))
    rows = [{name: value for name, value in row.items() if name != "step"} for row in probes_of(tmp_path)]
    assert rows[:8] == rows[8:16] == rows[16:]
    other = recipe_in(tmp_path / "other", run={"seed": 1}, evaluation={"temperature": 1.0})
    assert [row["signal"] for row in probed(other, tiny_pair(other), toy_task(test=TEST_QUESTIONS))] != [
        row["signal"] for row in rows[:8]
    ]


def test_what_is_learned_does_not_hang_on_probes(tmp_path):
    runs = []
    for name, test in (("with", TEST_QUESTIONS), ("without", ())):
        recipe = recipe_in(
            tmp_path / name, run={"steps": 5}, capable={"kl_coefficient": 0.01}, control={"kind": "accuracy_floor"}
        )
        runs.append(trained(recipe, task=toy_task(test=test)))
    (pair, metrics, state), (other_pair, other_metrics, other_state) = runs
    assert probes_of(tmp_path / "with")
    assert not (tmp_path / "without" / "trial" / "probes.jsonl").exists()
    assert (metrics, state) == (other_metrics, other_state)
    assert all(same(one, other) for one, other in zip(pair, other_pair, strict=True))
    samples = [(tmp_path / name / "trial" / "samples.jsonl").read_text() for name in ("with", "without")]
    assert samples[0] == samples[1]


@pytest.mark.parametrize("written", ["all rows", "part of a row"])
@pytest.mark.parametrize("at", [2, 4])
def test_a_run_killed_between_probe_and_checkpoint_has_every_row_once(tmp_path, monkeypatch, at, written):
    task = toy_task(test=TEST_QUESTIONS)
    trained(recipe_in(tmp_path / "unbroken", run={"steps": 5}), task=task)
    checkpoint = Run.checkpoint

    def killed(run, step, *rest):
        if step == at:
            raise Killed
        return checkpoint(run, step, *rest)

    recipe = recipe_in(tmp_path / "broken", run={"steps": 5})
    with monkeypatch.context() as patched:
        patched.setattr(Run, "checkpoint", killed)
        with pytest.raises(Killed):
            trained(recipe, task=task)
    file = tmp_path / "broken" / "trial" / "probes.jsonl"
    assert [row["step"] for row in probes_of(tmp_path / "broken")].count(at) == 8
    if written == "part of a row":
        file.write_bytes(file.read_bytes()[:-20])
    trained(recipe, task=task, run=Run.open(file.parent))
    assert probes_of(tmp_path / "broken") == probes_of(tmp_path / "unbroken")


def test_a_test_question_that_is_too_long_does_not_end_a_run(tmp_path):
    trained(recipe_in(tmp_path), task=toy_task(test=[LONG, TEST_QUESTIONS[0]]))
    assert [(row["step"], row["question"]) for row in probes_of(tmp_path)] == [(0, "t0"), (2, "t0"), (3, "t0")]


def test_a_reward_that_is_missing_is_null_in_the_file(tmp_path):
    recipe = recipe_in(tmp_path, run={"steps": 1}, task={"on_grader_error": "skip"})

    def grade(questions, responses):
        if any(question.id == "t0" for question in questions):
            raise ValueError("no")
        return grade_by_bytes(questions, responses)

    trained(recipe, task=toy_task(grade, test=TEST_QUESTIONS[:2]))
    assert [row["aided_reward"] is None for row in probes_of(tmp_path)] == [True, False] * 2


def test_a_model_that_is_trained_alone_is_not_probed(tmp_path):
    recipe = recipe_in(tmp_path, light={"train": False})
    trained(recipe, task=toy_task(test=TEST_QUESTIONS), step_function=alone_step)
    assert not (tmp_path / "trial" / "probes.jsonl").exists()


def test_nothing_of_a_run_that_failed_at_once_stays_in_the_one_that_takes_its_place(tmp_path):
    recipe, task = recipe_in(tmp_path, run={"steps": 1}), toy_task(test=TEST_QUESTIONS)
    broken = toy_task(lambda questions, responses: [1 / (question.id[0] == "t") for question in questions], test=TEST_QUESTIONS)
    with pytest.raises(GraderError):
        trained(recipe, task=broken)
    assert len(probes_of(tmp_path)) == 8
    trained(recipe, task=task)
    assert [row["step"] for row in probes_of(tmp_path)] == [0] * 8 + [1] * 8
