"""What evaluations found: which system is whose, and every measure over the seeds with an interval."""

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from counterpoint.evaluate.metrics import Estimate, ratio_of
from counterpoint.evaluate.results import Evaluation, Result
from counterpoint.evaluate.run import REFERENCE, START, TRAINED_PAIR
from counterpoint.report.groups import Groups
from counterpoint.report.read import Record, RunFiles


@dataclass(frozen=True)
class Measured:
    """A system as several evaluations found it, one for each seed."""

    name: str
    results: list[Result]

    def over_seeds(self, measure: Callable[[Result], Estimate | float | None]) -> Estimate | None:
        """A measure: of one seed with its interval over questions, of several the median and range; None where not taken."""
        found = [value for result in self.results if (value := measure(result)) is not None]
        if not found:
            return None
        estimates = [value if isinstance(value, Estimate) else Estimate(value, value, value) for value in found]
        return estimates[0] if len(estimates) == 1 else spread([estimate.value for estimate in estimates])


def spread(values: Sequence[float]) -> Estimate:
    """Median and range over seeds."""
    return Estimate(statistics.median(values), min(values), max(values))


def evaluations_of(runs: Sequence[RunFiles]) -> list[Evaluation]:
    """The evaluations that are there, in order."""
    return [run.evaluation for run in runs if run.evaluation is not None]


def systems_of(groups: Groups, runs: Sequence[RunFiles]) -> list[Measured]:
    """Every system of every evaluation, under the name of the group whose models it is of.

    A pair's evaluation names its systems itself; of several groups each has its own "trained pair", and the baselines are
    those of the first. An evaluation of policies names them by run: the seeds of a group become one system.
    """
    group_of_run = seeds_of(runs) | {run.name: group for group, members in groups.items() for run in members}
    pairs = [group for group, members in groups.items() if any(is_pair(run.evaluation) for run in members)]
    found: dict[str, list[Result]] = {}
    for run in runs:
        if run.evaluation is None:
            continue
        group = group_of_run.get(run.name, run.name)
        for name, result in run.evaluation.systems.items():
            if not is_pair(run.evaluation):
                found.setdefault(group_of_run.get(name, name), []).append(result)
            elif len(pairs) < 2 or group == pairs[0]:
                found.setdefault(name, []).append(result)
            elif name == TRAINED_PAIR:
                found.setdefault(f"{name} · {group}", []).append(result)
    return [Measured(name, results) for name, results in found.items()]


def seeds_of(runs: Sequence[RunFiles]) -> dict[str, str]:
    """Systems that several evaluations have under names which differ only in a number at the end: name -> what they share."""
    named = [list(run.evaluation.systems) for run in runs if run.evaluation is not None and not is_pair(run.evaluation)]
    found: dict[str, str] = {}
    for name in (name for names in named for name in names):
        stem = re.sub(r"[-_]\d+$", "", name)
        alike = [[other for other in names if re.sub(r"[-_]\d+$", "", other) == stem] for names in named]
        if stem != name and len(named) > 1 and all(len(others) <= 1 for others in alike):
            found[name] = stem
    return found


def is_pair(evaluation: Evaluation | None) -> bool:
    """Whether it is DUET's, of two models."""
    return evaluation is not None and (TRAINED_PAIR in evaluation.systems or REFERENCE in evaluation.systems)


def share_of_tokens(samples: Sequence[Record]) -> Estimate | None:
    """The trained pair's M tokens over those of M alone, with a bootstrap interval over questions; None without both."""
    tokens = {name: tokens_by_question(samples, name) for name in (TRAINED_PAIR, REFERENCE)}
    both = [question for question in tokens[TRAINED_PAIR] if question in tokens[REFERENCE]]
    if not both:
        return None
    pair, alone = (np.array([statistics.fmean(tokens[name][q]) for q in both]) for name in (TRAINED_PAIR, REFERENCE))
    return ratio_of(pair, alone) if alone.sum() else None


def tokens_by_question(samples: Sequence[Record], system: str) -> dict[str, list[float]]:
    """M's output tokens of a system's responses."""
    found: dict[str, list[float]] = {}
    for row in samples:
        if row["system"] == system and isinstance(row.get("capable_output_tokens"), int | float):
            found.setdefault(row["question"], []).append(row["capable_output_tokens"])
    return found


def baseline_of(groups: Groups, systems: Sequence[Measured]) -> Measured | None:
    """What DQO is compared with: the group without a diversity term, or the policy that it started from."""
    by_name = {system.name: system for system in systems}
    for name, members in groups.items():
        if members[0].kind == "dqo" and members[0].recipe.get("diversity", {}).get("shaper") == "none" and name in by_name:
            return by_name[name]
    return by_name.get(START)
