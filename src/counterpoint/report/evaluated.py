"""evaluation.json, of which what is damaged is left out and named, and the rest is used."""

import json
from dataclasses import asdict, fields
from typing import Any

from counterpoint.evaluate.results import Evaluation, Result, result_from
from counterpoint.report.records import flat, is_number, record_in

SETTINGS = ("questions", "samples", "temperature", "top_p", "top_k", "max_signal_tokens", "max_answer_tokens", "seed")
"""What an evaluation must say in numbers."""
MAY_BE_NULL = ("flops", "money_per_1000", "token_share", "accuracy_difference")
FIELDS = {each.name for each in fields(Result)}


def evaluation_in(text: str) -> tuple[Evaluation | None, list[str]]:
    """An evaluation without the systems that are damaged, and what is wrong with these, in words; None if no system is left.

    Raises `ValueError` or `RunError` for what is no evaluation.
    """
    values = record_in(text)
    systems = values.get("systems")
    if not isinstance(systems, dict):
        raise ValueError("it has no systems")
    if not isinstance(values.get("task"), str):
        raise ValueError(f"task is {short_json(values.get('task'))}, and no text")
    for name in SETTINGS:
        if not is_number(values.get(name)):
            raise ValueError(f"{name} is {short_json(values.get(name))}, and no number")
    for name in ("asked", "models", "trained"):
        if not isinstance(values.get(name, {}), dict):
            raise ValueError(f"{name} is {short_json(values[name])}, and no table")
    wrong = {name: problem for name, result in systems.items() if (problem := wrong_in(result))}
    # a later version may say more
    whole = {name: {key: result[key] for key in result if key in FIELDS} for name, result in systems.items() if name not in wrong}
    problems = [f"system {name} is left out: {problem}" for name, problem in wrong.items()]
    known = {each.name: values[each.name] for each in fields(Evaluation) if each.name in values}
    # what `auto` would do is not shown
    evaluation = Evaluation.from_json(json.dumps(known | {"systems": whole, "auto": None}))
    for name, by in evaluation.trained.items():
        if by.step is not None and not is_number(by.step):
            raise ValueError(f"trained.{name}.step is {short_json(by.step)}, and no number")
    return (evaluation if whole else None), problems


def wrong_in(result: Any) -> str:
    """What is wrong with a system of an evaluation, in words; empty if nothing."""
    if not isinstance(result, dict):
        return f"it is {short_json(result)}"
    try:
        values = asdict(result_from({name: result[name] for name in result if name in FIELDS}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"it is not of this version ({type(error).__name__}: {error})"
    for name, value in flat(values).items():
        if not (is_number(value) and value - value == 0) and not (value is None and name in MAY_BE_NULL):
            return f"{name} is {short_json(value)}, and no number"
    return ""


def short_json(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
