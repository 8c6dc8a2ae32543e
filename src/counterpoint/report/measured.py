"""What evaluations found: which system is whose, and every measure over the seeds with an interval."""

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from counterpoint.evaluate.metrics import Estimate, ratio_of
from counterpoint.evaluate.results import Evaluation, Result
from counterpoint.evaluate.run import REFERENCE, START, TRAINED_PAIR
from counterpoint.report.groups import Groups, group_of
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


@dataclass(frozen=True)
class Part:
    """A system of one evaluation, and under which name it is shown."""

    name: str
    run: RunFiles
    """The run, or folder, whose evaluation it is in."""
    system: str
    """Its name there."""


def parts_of(groups: Groups, runs: Sequence[RunFiles]) -> list[Part]:
    """Every system of every evaluation, under the name of the group whose models it is of; seeds of one have one name.

    A pair's evaluation names its systems itself; of several groups each has its own "trained pair", and the baselines are
    those of the first. An evaluation of policies names them by run: the seeds of a group become one system.
    """
    alike, pairs = seeds_of(runs), pairs_of(groups, runs)
    parts = []
    for run in runs:
        if run.evaluation is None:
            continue
        pair = next((name for name, members in pairs.items() if any(member is run for member in members)), None)
        for system in run.evaluation.systems:
            if pair is None:
                parts.append(Part(owner_of(system, run, groups) or alike.get(system, system), run, system))
            elif system == TRAINED_PAIR and len(pairs) > 1:
                parts.append(Part(f"{system} · {pair}", run, system))
            elif pair == next(iter(pairs)):
                parts.append(Part(system, run, system))
    return parts


def systems_of(groups: Groups, runs: Sequence[RunFiles]) -> list[Measured]:
    """What `parts_of` finds, in numbers."""
    found: dict[str, list[Result]] = {}
    for part in parts_of(groups, runs):
        if part.run.evaluation is not None:
            found.setdefault(part.name, []).append(part.run.evaluation.systems[part.system])
    return [Measured(name, results) for name, results in found.items()]


def pairs_of(groups: Groups, runs: Sequence[RunFiles]) -> Groups:
    """The runs and folders with an evaluation of a pair, by group; a folder stands by itself."""
    found: Groups = {}
    for run in runs:
        if is_pair(run.evaluation):
            found.setdefault(group_of(run, groups) or run.name, []).append(run)
    return found


def owner_of(system: str, evaluated: RunFiles, groups: Groups) -> str | None:
    """The group of the run that an evaluation names: the evaluated run itself, or one of that name; None if it is of none."""
    if system == evaluated.name and (own := group_of(evaluated, groups)):
        return own
    return next((group for group, members in groups.items() if any(run.name == system for run in members)), None)


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
    """Whether it is of two models: DUET's, of a run, a recipe or a gateway. One of policies has what they started from."""
    return evaluation is not None and START not in evaluation.systems


def share_of_tokens(samples: Sequence[Record]) -> Estimate | None:
    """The trained pair's M tokens over those of M alone, with a bootstrap interval over questions.

    None without both, and where M alone was silent at so many questions that a resample may have no token of its to divide by.
    """
    tokens = {name: tokens_by_question(samples, name) for name in (TRAINED_PAIR, REFERENCE)}
    both = [question for question in tokens[TRAINED_PAIR] if question in tokens[REFERENCE]]
    if not both:
        return None
    pair, alone = (np.array([statistics.fmean(tokens[name][q]) for q in both]) for name in (TRAINED_PAIR, REFERENCE))
    try:
        return ratio_of(pair, alone)
    except ValueError:
        return None


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
