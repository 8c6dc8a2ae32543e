r"""The published data sets by name: where each is, and the function that turns a row of it into a question.

A converter is a plain function (row, place, id) -> Question; the place is for messages.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from counterpoint.errors import DataError
from counterpoint.rl.types import Question
from counterpoint.tasks import answers
from counterpoint.tasks.rows import Place, Row, text_field

Converter = Callable[[Row, Place, str], Question]

BOXED = "Put the final answer in \\boxed{}."
BOXED_LETTER = "Put the letter of the right choice in \\boxed{}."
CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class HubSplit:
    """One split of a data set on the hub."""

    hub_id: str
    config: str | None
    split: str


@dataclass(frozen=True)
class Source:
    """A published data set. Without a train split it is for testing only."""

    what: str
    hub: Mapping[str, HubSplit]
    """By our split name, "train" or "test"; some hub sets call a test set "train"."""
    convert: Converter
    grader: str
    """The name of its usual grader, as `load_grader` takes it."""
    example: str
    """What a question looks like; written for this, not a row of the data."""
    instruction: str = BOXED
    access: str = ""
    """What a user must do before the hub gives it, if anything."""
    once: bool = False
    """Whether rows repeat a question, a row for each reference, so that only the first row of a text is asked."""


def gsm8k(row: Row, place: Place, id: str) -> Question:
    """The trace is the worked solution without calculator marks and without the `####` line."""
    solution, mark, answer = text_field(row, "answer", place).rpartition("####")
    if not mark or not answer.strip():
        raise DataError(f"{place}: field 'answer' has no final answer after ####. Write it there, or remove the row.")
    return Question(
        id=id,
        text=text_field(row, "question", place),
        answer=answer.strip().replace(",", ""),
        trace=CALCULATOR_MARK.sub("", solution).strip() or None,
    )


def competition_math(row: Row, place: Place, id: str) -> Question:
    r"""MATH: the answer is a field of its own, or in the last box of the solution; the trace is without that box."""
    solution = str(row.get("solution") or "")
    answer = text_field(row, "answer", place) if row.get("answer") else answers.boxed(solution)
    if not answer:
        raise DataError(
            f"{place}: neither field 'answer' nor a \\boxed{{}} in field 'solution' gives the answer. "
            "Fill one in, or remove the row."
        )
    trace = answers.unboxed(solution).strip() or None
    return Question(id=id, text=text_field(row, "problem", place), answer=answer, trace=trace)


def problem_and_answer(row: Row, place: Place, id: str) -> Question:
    """AIME."""
    return Question(id=id, text=text_field(row, "problem", place), answer=text_field(row, "answer", place))


def question_and_answer(row: Row, place: Place, id: str) -> Question:
    """AMC."""
    return Question(id=id, text=text_field(row, "question", place), answer=text_field(row, "answer", place))


def svamp(row: Row, place: Place, id: str) -> Question:
    """A story in one field and what is asked about it in another."""
    story = text_field(row, "Body", place)
    asked = text_field(row, "Question", place)
    joint = " " if story.endswith((".", "!", "?", ",")) else ". "
    return Question(id=id, text=f"{story}{joint}{asked}", answer=whole_number(text_field(row, "Answer", place)))


def mawps(row: Row, place: Place, id: str) -> Question:
    """Published in two forms: input and target, or, on the hub, question and result."""
    asked, target = ("input", "target") if "input" in row else ("question", "result")
    return Question(id=id, text=text_field(row, asked, place), answer=whole_number(text_field(row, target, place)))


def common_gen(row: Row, place: Place, id: str) -> Question:
    """CommonGen: words that a story has to use. Its one-sentence references, a row each, are not what a story is graded by."""
    concepts = row.get("concepts")
    if not isinstance(concepts, Sequence) or isinstance(concepts, str) or not concepts:
        raise DataError(f"{place}: field 'concepts' is no list of words. Write one, or remove the row.")
    return Question(
        id=id,
        text=f"Write a short story that uses these words: {', '.join(map(str, concepts))}.",
        answer=str(row.get("target") or ""),
    )


def whole_number(text: str) -> str:
    """145.0, as some copies write a whole number, as 145."""
    return re.sub(r"^(-?[\d,]+)\.0+$", r"\1", text)


def gpqa(row: Row, place: Place, id: str) -> Question:
    """The choices in an order that depends on the question alone, so that it is the same in every run."""
    asked = text_field(row, "Question", place)
    correct = text_field(row, "Correct Answer", place)
    choices = [correct, *(text_field(row, f"Incorrect Answer {number}", place) for number in (1, 2, 3))]
    random.Random(str(row.get("Record ID") or asked)).shuffle(choices)
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    return Question(
        id=id,
        text=f"{asked}\n\n{listed}",
        answer="ABCD"[choices.index(correct)],
        metadata={"choices": tuple(choices)},
    )


def by_fields(question_field: str, answer_field: str | None, id_field: str | None, trace_field: str | None) -> Converter:
    """A converter for a user's own rows; the whole row goes along as metadata, for the user's own grader."""

    def convert(row: Row, place: Place, id: str) -> Question:
        return Question(
            id=text_field(row, id_field, place) if id_field else id,
            text=text_field(row, question_field, place),
            answer=text_field(row, answer_field, place) if answer_field else "",
            metadata=row,
            trace=text_field(row, trace_field, place) if trace_field else None,
        )

    return convert


def train_and_test(hub_id: str, config: str | None = None) -> dict[str, HubSplit]:
    return {split: HubSplit(hub_id, config, split) for split in ("train", "test")}


SOURCES: Mapping[str, Source] = {
    "gsm8k": Source(
        what="grade-school word problems with worked solutions",
        hub=train_and_test("openai/gsm8k", "main"),
        convert=gsm8k,
        grader="exact",
        example="A box holds 6 pens. How many pens are in 4 boxes? -> 24",
    ),
    "math": Source(
        what="competition mathematics; tested on the 500 questions of MATH-500",
        hub={
            "train": HubSplit("DigitalLearningGmbH/MATH-lighteval", None, "train"),
            "test": HubSplit("HuggingFaceH4/MATH-500", None, "test"),
        },
        convert=competition_math,
        grader="math_verify",
        example="Solve $2x + 1 = 2$ for $x$. -> \\frac{1}{2}",
    ),
    "aime24": Source(
        what="AIME 2024, 30 questions whose answers are whole numbers",
        hub={"test": HubSplit("HuggingFaceH4/aime_2024", None, "train")},
        convert=problem_and_answer,
        grader="math_verify",
        example="Find the remainder of $7^{100}$ divided by $1000$. -> 1",
    ),
    "aime25": Source(
        what="AIME 2025, 30 questions whose answers are whole numbers",
        hub={"test": HubSplit("math-ai/aime25", None, "test")},
        convert=problem_and_answer,
        grader="math_verify",
        example="Find the number of divisors of $10^{4}$. -> 25",
    ),
    "amc23": Source(
        what="AMC 2023, 40 questions answered with a number",
        hub={"test": HubSplit("math-ai/amc23", None, "test")},
        convert=question_and_answer,
        grader="math_verify",
        example="What is the sum of the first 10 odd numbers? -> 100",
    ),
    "gpqa_diamond": Source(
        what="graduate-level science, four choices",
        hub={"test": HubSplit("Idavidrein/gpqa", "gpqa_diamond", "train")},
        convert=gpqa,
        grader="multiple_choice",
        example="Which of these has the most protons? (A) He (B) Fe (C) Ne (D) Li -> B",
        instruction=BOXED_LETTER,
        access="It is gated: accept its terms on its hub page and log in with `hf auth login`.",
    ),
    "svamp": Source(
        what="short word problems with numbers that do not matter",
        hub=train_and_test("ChilleD/SVAMP"),
        convert=svamp,
        grader="exact",
        example="Tom has 9 apples and 3 pears. He eats 2 apples. How many apples are left? -> 7",
    ),
    "common_gen": Source(
        what="stories that use given words; graded by a reward model that the recipe names",
        hub={
            "train": HubSplit("allenai/common_gen", None, "train"),
            "test": HubSplit("allenai/common_gen", None, "validation"),
        },
        convert=common_gen,
        grader="reward_model",
        example="Write a short story that uses these words: lamp, river, walk.",
        instruction="",
        once=True,
    ),
    "mawps": Source(
        what="short word problems",
        hub=train_and_test("MU-NLPC/Calc-mawps"),
        convert=mawps,
        grader="exact",
        example="Mia had 12 stamps and gave away 5. How many has she now? -> 7",
    ),
}
