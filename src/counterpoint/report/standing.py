"""How runs stand that have no result: not at their end, not saying so, or not evaluated. A sentence each."""

from collections.abc import Sequence

from counterpoint.evaluate.run import EVALUATION
from counterpoint.report.measured import evaluations_of_run
from counterpoint.report.read import NOT_ENDED, RunFiles
from counterpoint.report.text import PERCENT, cut, listed, quoted

LONGEST = 2_000
"""Characters of an error."""
TRAINED = ("duet", "dqo")
"""Kinds of runs that are evaluated."""
QUALITY = {"aided_accuracy": "aided accuracy", "reward": "the mean reward", "accuracy": "accuracy"}
"""Fields of metrics.jsonl that say how good a run is, and what they are called."""


def unfinished(run: RunFiles) -> str:
    """A sentence about a run that has not come to its end, or does not say so; empty for one that has."""
    so_far, of = quality_so_far(run), f" of {run.planned}" if run.planned else ""
    again = f"It goes on with: counterpoint resume {quoted(run.directory)}"
    if run.kind == "evaluation" and f"{EVALUATION} is missing{NOT_ENDED}" in run.missing:
        return f"The evaluation in {run.name} has not ended, or broke off."
    if run.state == "failed":
        why = cut(str(run.status.get("error") or "the reason was not written down"), LONGEST)
        return f"{run.name} failed after step {run.steps}{of}: {why}"
    if run.state == "died":
        return f"{run.name} died after step {run.steps}{of}: its process is gone and left no error.{so_far} {again}"
    if run.state == "running":
        return f"{run.name} is at step {run.steps}{of}.{so_far}"
    if run.state == "stopped":
        return f"{run.name} was stopped after step {run.steps}{of}.{so_far} {again}"
    if run.state != "finished" and run.kind in TRAINED:
        return f"{run.name} has written down step {run.steps}{of}, and does not say whether it has ended.{so_far}"
    return ""


def unmeasured(runs: Sequence[RunFiles]) -> list[str]:
    """What there is to say of runs that have ended and were not evaluated: a sentence, however many they are."""
    ended = [
        run
        for run in runs
        if run.kind in TRAINED and run.state == "finished" and run.evaluation is None and not evaluations_of_run(run, runs)
    ]
    if not ended:
        return []
    command = f"Do it with: counterpoint eval {quoted(ended[0].directory)}"
    if any(line.startswith(EVALUATION) and "is missing" not in line for run in ended for line in run.missing):
        return [f"{listed([run.name for run in ended])}: no evaluation that can be read. {command}"]
    if len(ended) == 1:
        return [f"{ended[0].name} has ended and is not evaluated yet.{quality_so_far(ended[0])} {command}"]
    return [f"{listed([run.name for run in ended])} have ended and are not evaluated yet. {command}"]


def quality_so_far(run: RunFiles) -> str:
    """How good a run was in its last step, in words; empty where it did not say."""
    last = run.metrics[-1] if run.metrics else {}
    for name, words in QUALITY.items():
        if (value := last.get(name)) is not None:
            return f" In step {run.steps} {words} was {PERCENT.whole(value)}."
    return ""
