"""What evaluations found: which were measured alike, which system is whose, and every measure over the seeds with an interval."""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from counterpoint.evaluate.metrics import Estimate, estimate_of, ratio_of
from counterpoint.evaluate.results import Evaluation, Result
from counterpoint.evaluate.run import BEFORE, LIGHT_ALONE, REFERENCE, START, TRAINED_PAIR
from counterpoint.report.alike import differences_in_words, is_of_policies, settings_of
from counterpoint.report.groups import Groups, group_of
from counterpoint.report.read import RunFiles
from counterpoint.report.records import Record, as_record, flat
from counterpoint.report.text import listed, shown

UNTRAINED = (START, REFERENCE, LIGHT_ALONE, BEFORE)
"""Systems that no run has trained: those of two evaluations that were measured alike are one."""

MOST_NOTES = 5
"""Pairs of evaluations of which it is said what both have measured."""


@dataclass(frozen=True)
class Part:
    """A system of one evaluation, and under which name it is shown."""

    name: str
    run: RunFiles
    """The run, or folder, whose evaluation it is in."""
    system: str
    """Its name there."""
    group: str | None
    """The group of runs that it is of; None where it is of none of those given."""
    result: Result


@dataclass(frozen=True)
class Entry:
    """A system as the evaluations of a table found it, one for each seed."""

    name: str
    parts: list[Part]

    def over_seeds(self, measure: Callable[[Result], Estimate | float | None]) -> Estimate | None:
        """A measure: of one seed with its interval over questions, of several the median and range; None where not taken."""
        return over_seeds([measure(part.result) for part in self.parts])

    def tokens(self) -> Estimate | None:
        """M's output tokens an answer."""
        return over_seeds([tokens_of(part) for part in self.parts])


@dataclass(frozen=True)
class Table:
    """Evaluations that were measured alike, and may stand beside each other."""

    runs: list[RunFiles]
    """The runs, and folders, whose evaluations they are."""
    parts: list[Part]
    first: Evaluation
    """How all of them were measured."""
    differs: str
    """In what it was measured otherwise than the first table of its kind, in words; empty for that one."""
    notes: list[str]
    """What was not counted, or could not be told, in words."""

    @property
    def of_policies(self) -> bool:
        """Whether it is of DQO's policies, and not of two models."""
        return is_of_policies(self.runs[0])

    @property
    def entries(self) -> list[Entry]:
        """The systems as they are shown."""
        names = dict.fromkeys(part.name for part in self.parts)
        return [Entry(name, [part for part in self.parts if part.name == name]) for name in names]

    @property
    def words(self) -> str:
        """On what it was measured."""
        return f"{self.first.task}, {self.first.questions:,} questions × {self.first.samples} samples"


def over_seeds(values: Sequence[Estimate | float | None]) -> Estimate | None:
    """One seed with its interval, several as median and range; None where there is no value."""
    estimates = [value if isinstance(value, Estimate) else Estimate(value, value, value) for value in values if value is not None]
    return estimates[0] if len(estimates) == 1 else spread([e.value for e in estimates]) if estimates else None


def spread(values: Sequence[float]) -> Estimate:
    """Median and range over seeds."""
    return Estimate(statistics.median(values), min(values), max(values))


def tables_of(groups: Groups, runs: Sequence[RunFiles]) -> list[Table]:
    """The evaluations of `runs`, those that were measured alike together, in order."""
    alike: dict[str, list[RunFiles]] = {}
    for run in runs:
        if run.evaluation is not None:
            alike.setdefault(repr(sorted(flat(settings_of(run)).items())), []).append(run)
    tables: list[Table] = []
    for members in alike.values():
        own = settings_of(members[0])
        before = next((table for table in tables if settings_of(table.runs[0])["kind"] == own["kind"]), None)
        differs = differences_in_words(settings_of(before.runs[0]), own) if before else ""
        parts, notes = parts_of_table(groups, runs, members)
        assert members[0].evaluation is not None
        tables.append(Table(members, parts, members[0].evaluation, differs, notes))
    return tables


def parts_of_table(groups: Groups, runs: Sequence[RunFiles], members: Sequence[RunFiles]) -> tuple[list[Part], list[str]]:
    """Every system of `members`' evaluations under the name that it is shown by, and what was not counted, in words.

    A run that two of them measured is counted once, and so is what no run has trained where the seed is the same.
    """
    pairs = pairs_of(groups, runs, members)
    several = sum(has_trained_pair(its) for its in pairs.values()) > 1
    alike = seeds_of(members)
    found: dict[tuple[str, str], Part] = {}
    notes: list[str] = []
    twice: dict[tuple[str, str], list[str]] = {}
    for run in members:
        evaluation = run.evaluation
        assert evaluation is not None
        pair = next(name for name, its in pairs.items() if any(member is run for member in its))
        for system, result in evaluation.systems.items():
            owners = owners_of(system, run, runs)
            [group, *others] = list(dict.fromkeys(group_of(owner, groups) for owner in owners)) or [None]
            name = system
            if others:
                notes.append(
                    f"{shown(run.directory)} does not say which of {len(owners)} runs of the name {system} it measured: it is "
                    "shown as of none of them; evaluate it anew"
                )
                group, name = None, f"{system} (ambiguous)"
            elif is_of_policies(run):
                name = group or alike.get(system) or (f"{system} (not given)" if system in groups else system)
            elif several and system not in UNTRAINED:
                name = f"{system} · {pair}"
            key = key_of(system, run, owners)
            if (name, key) not in found:
                found[name, key] = Part(name, run, system, group or (pair if not is_of_policies(run) else None), result)
            elif system not in UNTRAINED:
                twice.setdefault((shown(found[name, key].run.directory), shown(run.directory)), []).append(system)
    return list(found.values()), notes + counted_once(twice)


def counted_once(twice: Mapping[tuple[str, str], list[str]]) -> list[str]:
    """What two evaluations have both measured, in words. `twice`: their directories -> the systems."""
    said = []
    for (first, second), systems in list(twice.items())[:MOST_NOTES]:
        was, is_ = ("was", "is") if len(systems) == 1 else ("were", "are")
        said.append(f"{listed(systems, 5)} {was} measured twice, in {first} and {second}, and {is_} counted once")
    more = len(twice) - MOST_NOTES
    return said + ([f"so it is with {more} more pairs of evaluations"] if more > 0 else [])


def key_of(system: str, run: RunFiles, owners: Sequence[RunFiles]) -> str:
    """What tells a system of an evaluation from that of another seed."""
    evaluation = run.evaluation
    assert evaluation is not None
    if system in UNTRAINED:
        return f"seed {evaluation.seed}"
    if by := evaluation.trained.get(system) or evaluation.trained.get(TRAINED_PAIR):
        return f"run {by.run} at step {by.step}"
    return str((owners[0] if len(owners) == 1 else run).directory.resolve())


def owners_of(system: str, evaluated: RunFiles, runs: Sequence[RunFiles]) -> list[RunFiles]:
    """The run that trained a system of an evaluation, if it is among `runs`; of an older one all that may have.

    An older evaluation names a policy by its run alone, and several runs may have that name.
    """
    assert evaluated.evaluation is not None
    by = evaluated.evaluation.trained.get(system)
    if by is not None:
        return [run for run in runs if run.id == by.run][:1]
    if system in UNTRAINED or not is_of_policies(evaluated):
        return [evaluated] if system == TRAINED_PAIR and evaluated.kind == "duet" else []
    if system == evaluated.name and evaluated.kind == "dqo":
        return [evaluated]
    return [run for run in runs if run.name == system and run.kind == "dqo"]


def evaluations_of_run(run: RunFiles, runs: Sequence[RunFiles]) -> list[RunFiles]:
    """The runs, and folders, in whose evaluation a run was measured."""

    def has_measured(other: RunFiles) -> bool:
        owners = [owners_of(system, other, runs) for system in (other.evaluation.systems if other.evaluation else ())]
        return any(len(its) == 1 and its[0] is run for its in owners)

    return [other for other in runs if has_measured(other)]


def pairs_of(groups: Groups, runs: Sequence[RunFiles], members: Sequence[RunFiles]) -> Groups:
    """Evaluated runs and folders by the group of the pair that they are of; one that is of none stands by itself."""
    found: Groups = {}
    for run in members:
        [owner] = owners_of(TRAINED_PAIR, run, runs)[:1] or [run]
        name = group_of(owner, groups)
        if name is None:
            name = run.name
            while name in found or name in groups:
                name += "′"
        found.setdefault(name, []).append(run)
    return found


def has_trained_pair(runs: Sequence[RunFiles]) -> bool:
    return any(run.evaluation is not None and TRAINED_PAIR in run.evaluation.systems for run in runs)


def seeds_of(runs: Sequence[RunFiles]) -> dict[str, str]:
    """Systems that several evaluations have under names which differ only in a number at the end: name -> what they share."""
    named = [list(run.evaluation.systems) for run in runs if run.evaluation is not None and is_of_policies(run)]
    found: dict[str, str] = {}
    for name in (name for names in named for name in names):
        stem = re.sub(r"[-_]\d+$", "", name)
        alike = [[other for other in names if re.sub(r"[-_]\d+$", "", other) == stem] for names in named]
        if stem != name and len(named) > 1 and all(len(others) <= 1 for others in alike):
            found[name] = stem
    return found


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


def tokens_of(part: Part) -> Estimate:
    """M's output tokens an answer; with an interval over questions if the file of samples holds the same mean."""
    mean = part.result.capable_output_tokens
    by_question = tokens_by_question(part.run.evaluation_samples, part.system).values()
    if by_question:
        found = estimate_of(np.array([statistics.fmean(its) for its in by_question]))
        if abs(found.value - mean) <= 1e-6 * max(1.0, abs(mean)):
            return found
    return Estimate(mean, mean, mean)


def tokens_by_question(samples: Sequence[Record], system: str) -> dict[str, list[float]]:
    """M's output tokens of a system's responses."""
    found: dict[str, list[float]] = {}
    for row in samples:
        if row["system"] == system and row.get("capable_output_tokens") is not None:
            found.setdefault(row["question"], []).append(row["capable_output_tokens"])
    return found


def baseline_of(groups: Groups, entries: Sequence[Entry]) -> Entry | None:
    """What DQO is compared with: the group without a diversity term, or the policy that it started from."""
    by_name = {entry.name: entry for entry in entries}
    plain = [name for name in groups if name in by_name and is_plain(groups[name])]
    return by_name[plain[0]] if plain else by_name.get(START)


def is_plain(runs: Sequence[RunFiles]) -> bool:
    """Whether runs are of DQO's loop without a diversity term: GRPO, say."""
    return runs[0].kind == "dqo" and as_record(runs[0].recipe.get("diversity")).get("shaper") == "none"
