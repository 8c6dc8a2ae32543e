"""Which runs are seeds of one recipe, and in what the others differ."""

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from counterpoint.report.read import RunFiles
from counterpoint.report.records import flat
from counterpoint.report.text import shown

SEED = "run.seed"
NAMES = ("run.name", "run.directory", "run.loggers")
"""Settings in which two seeds of one recipe may differ beside the seed."""

Groups = dict[str, list[RunFiles]]
"""What a group is called -> its runs, in the order in which they were given."""


def distinct(runs: Sequence[RunFiles]) -> tuple[list[RunFiles], list[str]]:
    """Every run once, the first time that it was given, and what was left out, in words: twice is not two seeds.

    A directory is a run's own by its place, and a copy is known by the id of the run.
    """
    kept: dict[str, RunFiles] = {}
    notes = []
    for run in runs:
        keys = [str(run.directory.resolve()), *([f"id {run.id}"] if run.id else [])]
        first = next((kept[key] for key in keys if key in kept), None)
        if first is None:
            kept |= dict.fromkeys(keys, run)
        elif first.directory.resolve() == run.directory.resolve():
            notes.append(f"{shown(run.directory)} was given more than once, and is counted once")
        else:
            notes.append(f"{shown(run.directory)} is a copy of the run in {shown(first.directory)}, which alone is counted")
    return list({id(run): run for run in kept.values()}.values()), list(dict.fromkeys(notes))


def grouped(runs: Sequence[RunFiles]) -> Groups:
    """Runs of one kind and one recipe together; a group of one is called by its run, of several by what they share."""
    together: dict[str, list[RunFiles]] = {}
    for run in runs:
        settings = {name: value for name, value in flat(run.recipe).items() if name not in (SEED, *NAMES)}
        # without a recipe nothing says that two runs belong together
        key = f"{run.kind} {sorted(settings.items())!r}" if settings else f"{run.kind} {run.directory}"
        together.setdefault(key, []).append(run)
    shared = [shared_name(members) for members in together.values()]
    groups: Groups = {}
    for name, members in zip(shared, together.values(), strict=True):
        folder = members[0].directory.resolve().parent.name
        if shared.count(name) > 1 and not name.startswith(folder):
            name = f"{shown(folder)}/{name}"
        while name in groups:
            name += "′"
        groups[name] = members
    return groups


def shared_name(runs: Sequence[RunFiles]) -> str:
    """What the names of runs have in common, without their seeds: pair of pair-0 and pair-1, pair-alone of pair-0-alone etc.

    If that is nothing, as of seed-0 and seed-1, the folder that they lie in.
    """
    names = [run.name for run in runs]
    if len(set(names)) == 1:
        return names[0]
    start = common_start(names)
    end = common_start([name[len(start) :][::-1] for name in names])[::-1]
    before, after = re.sub(r"[-_. ]*(seed)?[-_. ]*\d*$", "", start), re.search(r"[-_. ].*$", end)
    folder = shown(runs[0].directory.resolve().parent.name)
    return (before or folder or names[0]) + (after[0] if after else "")


def common_start(texts: Sequence[str]) -> str:
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in alike)


def group_of(run: RunFiles, groups: Groups) -> str | None:
    """The group that a run is in; None for the folder of an evaluation, which is in none."""
    return next((group for group, members in groups.items() if any(member is run for member in members)), None)


def differences(groups: Groups) -> list[tuple[str, list[Any]]]:
    """The settings that the groups do not all have alike, each with its value in every group; None where there is none."""
    settings = [flat(members[0].recipe) for members in groups.values()]
    names = sorted({name for values in settings for name in values} - {SEED, *NAMES})
    rows = [(name, [values.get(name) for values in settings]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]
