"""Graders: functions from questions and responses to rewards in [0, 1].

A response without an answer in the asked form earns 0.0: that is a grade. A grader that raises is another matter,
and `grade_all` never turns it into a grade.
"""

import math
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

from counterpoint.errors import ConfigError, GraderError
from counterpoint.rl.types import Question
from counterpoint.tasks import answers
from counterpoint.tasks.answers import Extractor, same_answer
from counterpoint.tasks.base import Grader
from counterpoint.tasks.model_graders import judge, named, reward_model
from counterpoint.user_functions import user_function

EXTRACTORS: dict[str, Extractor] = {
    "number": answers.number,
    "boxed": answers.boxed,
    "final": answers.final,
    "tagged": answers.tagged,
    "whole": answers.whole,
}
GRADERS = ("exact", "math_verify", "multiple_choice", "reward_model", "judge", "module:function")


def grade_all(
    grader: Grader,
    questions: Sequence[Question],
    responses: Sequence[str],
    on_error: Literal["stop", "skip"] = "stop",
) -> list[float | None]:
    """The reward of each response; None, for the caller to count, where the grader raised and may be skipped.

    When the grader raises on the batch, the examples are graded one by one to find the one it fails on.

    Raises:
        GraderError: the grader raised (and `on_error` is "stop"), or gave what is no reward in [0, 1].
    """
    if len(questions) != len(responses):
        raise GraderError(f"{len(questions)} questions came with {len(responses)} responses; give one for each.")
    try:
        rewards = list(grader(questions, responses))
    except Exception as error:  # noqa: BLE001 - whatever a grader raises is reported, with its example
        return grade_one_by_one(grader, questions, responses, on_error, error)
    if len(rewards) != len(questions):
        raise GraderError(
            f"Grader {grader_name(grader)} gave {len(rewards)} rewards for {len(questions)} responses; "
            "it must give one for each, in order."
        )
    return [checked(grader, question, reward) for question, reward in zip(questions, rewards, strict=True)]


def grade_one_by_one(
    grader: Grader,
    questions: Sequence[Question],
    responses: Sequence[str],
    on_error: Literal["stop", "skip"],
    batch_error: Exception,
) -> list[float | None]:
    """The rewards after the grader raised on the batch; see `grade_all`."""
    rewards: list[float | None] = []
    for question, response in zip(questions, responses, strict=True):
        try:
            [reward] = grader([question], [response])
        except Exception as error:
            if on_error == "stop":
                raise GraderError(
                    f"Grader {grader_name(grader)} failed on question {question.id!r}: {cause(error)}. "
                    f"The response starts {response[:200]!r}. Mend the grader, or choose to skip such examples "
                    '(task.on_grader_error = "skip").'
                ) from error
            rewards.append(None)
        else:
            rewards.append(checked(grader, question, reward))
    if on_error == "stop":
        raise GraderError(
            f"Grader {grader_name(grader)} failed on the batch of {len(questions)} that starts with question "
            f"{questions[0].id!r}, though on none of its examples alone: {cause(batch_error)}. "
            "A smaller batch may help."
        ) from batch_error
    return rewards


def checked(grader: Grader, question: Question, reward: float) -> float:
    """The reward as a float; raises GraderError unless it is a number in [0, 1]."""
    try:
        value = float(reward)
    except (TypeError, ValueError):
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise GraderError(
            f"Grader {grader_name(grader)} gave {reward!r} for question {question.id!r}; "
            "a reward is a number between 0 and 1, so scale or clip it in the grader."
        )
    return value


def grader_name(grader: Grader) -> str:
    return getattr(grader, "__name__", type(grader).__name__)


def cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(". ")


def per_example(name: str, grade_one: Callable[[Question, str], float | bool], extract: Extractor | None = None) -> Grader:
    """A grader out of a function that grades one response; `extract` finds in a response what it grades."""

    def grade(questions: Sequence[Question], responses: Sequence[str]) -> list[float]:
        return [float(grade_one(question, response)) for question, response in zip(questions, responses, strict=True)]

    grade.extract = extract  # pyright: ignore[reportFunctionMemberAccess]
    return named(grade, name)


def extractor_of(grader: Grader) -> Extractor | None:
    """What finds in a response the answer that a grader grades; None where it grades the whole text in ways of its own."""
    return getattr(grader, "extract", None)


def exact(extract: Extractor = answers.number) -> Grader:
    """1 when the extracted answer is the reference, as a number or as words (case and spacing do not count)."""

    def grade_one(question: Question, response: str) -> bool:
        found = extract(response)
        return found is not None and same_answer(found, question.answer)

    return per_example("exact", grade_one, extract)


def multiple_choice() -> Grader:
    """1 when the response chooses the letter of the reference."""
    return per_example(
        "multiple_choice",
        lambda question, response: answers.choice_letter(response) == question.answer.strip().upper(),
        answers.choice_letter,
    )


def math_verify_grader(timeout: int = 5) -> Grader:
    """1 when the final answer is mathematically equal to the reference, by math-verify.

    math-verify stops an endless simplification with a signal, which works on the main thread only. On another
    thread (a gateway, a thread pool) there is no such limit: an answer that is hard to simplify holds it up.

    Raises:
        ConfigError: math-verify is not installed.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise ConfigError('The math_verify grader needs math-verify: pip install "counterpoint[tasks]".') from error

    def limit() -> int | None:
        return timeout if threading.current_thread() is threading.main_thread() else None

    @lru_cache(maxsize=4096)
    def reference(answer: str) -> list[Any]:
        parsed = parse(f"\\boxed{{{answer}}}", parsing_timeout=limit())  # pyright: ignore[reportArgumentType]
        if not parsed:
            raise ValueError(f"math-verify cannot read the reference answer {answer!r}")
        return parsed

    def grade_one(question: Question, response: str) -> bool:
        found = answers.final(response)
        text = response if found is None else f"\\boxed{{{found}}}"
        parsed = parse(text, parsing_timeout=limit())  # pyright: ignore[reportArgumentType]
        return verify(reference(question.answer), parsed, timeout_seconds=limit())

    return per_example("math_verify", grade_one, answers.final)


def reasoning_gym_grader(dataset: Any, extract: Extractor = answers.tagged) -> Grader:
    """The score of a reasoning-gym data set's own verifier, on the answer between `<answer>` and `</answer>`.

    Each question carries the generator's entry in `metadata["entry"]`. Some verifiers raise on an ill-formed
    answer (that of `prime_factorization` wants numbers); `grade_all` then stops, or skips the example.
    """

    def grade_one(question: Question, response: str) -> float:
        found = extract(response)
        return 0.0 if found is None else dataset.score_answer(found, question.metadata["entry"])

    return per_example(f"reasoning_gym:{type(dataset).__name__}", grade_one, extract)


def function_grader(spec: str) -> Grader:
    """The user's own `module:function`, called as function(question, response) -> float or bool.

    Raises:
        ConfigError: the module or the function is not there.
    """
    contract = "function(question, response) returning a number between 0 and 1"
    return per_example(spec, user_function(spec, "Grader", contract))


def load_grader(spec: str, **options: Any) -> Grader:
    """A grader by name: one of `GRADERS`, or the user's own as `module:function`.

    The options are those of the function that makes it; `exact` takes `extract`, a name in `EXTRACTORS`.

    Raises:
        ConfigError: there is no such grader, or it has no such option.
    """
    if spec == "exact" and isinstance(options.get("extract"), str):
        options = {**options, "extract": extractor(options["extract"])}
    makers: dict[str, Callable[..., Grader]] = {
        "exact": exact,
        "math_verify": math_verify_grader,
        "multiple_choice": multiple_choice,
        "reward_model": reward_model,
        "judge": judge,
    }
    if spec not in makers and ":" not in spec:
        raise ConfigError(f"There is no grader {spec!r}. Choose one of {', '.join(GRADERS)}.")
    try:
        return makers[spec](**options) if spec in makers else function_grader(spec, **options)
    except TypeError as error:
        raise ConfigError(f"Grader {spec!r} cannot take the options {options!r}: {error}.") from error


def extractor(name: str) -> Extractor:
    """What finds the answer in a response, by name, or the user's own `module:function`. Raises `ConfigError`."""
    if ":" in name:
        return user_function(name, "Extractor", "function(response) returning the answer, or None")
    if name not in EXTRACTORS:
        raise ConfigError(f"There is no extractor {name!r}. Choose one of {', '.join(EXTRACTORS)}, or module:function.")
    return EXTRACTORS[name]
