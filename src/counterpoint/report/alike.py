"""Whether two evaluations were measured alike, and in what they were not."""

from typing import Any

from counterpoint.evaluate.gateway import CAPABLE
from counterpoint.evaluate.run import LIMITS, START
from counterpoint.report.read import RunFiles
from counterpoint.report.records import as_record, flat
from counterpoint.report.text import listed

Settings = dict[str, Any]


def settings_of(run: RunFiles) -> Settings:
    """What two evaluations must have alike to be compared: the seed may differ, and the questions that it draws."""
    evaluation = run.evaluation
    assert evaluation is not None
    asked, models, embedder = evaluation.asked, evaluation.models, evaluation.embedder
    if not asked:  # of an older version: as the run beside it was trained
        asked = {name: value for name, value in as_record(run.recipe.get("task")).items() if name not in LIMITS}
    if not models:
        roles = {role: as_record(run.recipe.get(role)).get("model") for role in ("capable", "light", "policy")}
        models = {role: model for role, model in roles.items() if model}
        tables = [as_record(run.recipe.get(table)).get("embedder") for table in ("evaluation", "diversity")]
        embedder = next((name for name in tables if name and any(r.diversity for r in evaluation.systems.values())), None)
    names = ("questions", "samples", "temperature", "top_p", "top_k", "max_signal_tokens", "max_answer_tokens")
    kind = "policies" if is_of_policies(run) else "gateway" if CAPABLE in evaluation.systems else "pair"
    return {
        "kind": kind,
        "task": {**{name: value for name, value in asked.items() if value not in (None, {})}, "name": evaluation.task},
        "models": models,
        "embedder": embedder,
        **{name: getattr(evaluation, name) for name in names},
    }


def is_of_policies(run: RunFiles) -> bool:
    """Whether an evaluation is of DQO's policies, which have what they started from."""
    return run.evaluation is not None and (run.kind == "dqo" or START in run.evaluation.systems)


def differences_in_words(one: Settings, other: Settings) -> str:
    """In what `other` was measured otherwise."""
    left, right = flat(one), flat(other)
    names = [name for name in right | left if left.get(name) != right.get(name)]
    unsaid = [] if one["models"] and other["models"] else ["models and task options that are not said"]
    if unsaid:
        names = [name for name in names if not name.startswith(("models.", "task.")) or name == "task.name"]
    each = [
        f"{name.removesuffix('.name').replace('_', ' ')} {in_words(right.get(name))} instead of {in_words(left.get(name))}"
        for name in names
    ]
    return listed(each + unsaid, 5)


def in_words(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
