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
    """Runs of one kind and one recipe together; a group of one is called by its run, of several by what their names share."""
    together: dict[str, list[RunFiles]] = {}
    for run in runs:
        settings = {name: value for name, value in flat(run.recipe).items() if name not in (SEED, *NAMES)}
        # without a recipe nothing says that two runs belong together
        key = f"{run.kind} {sorted(settings.items())!r}" if settings else f"{run.kind} {run.directory}"
        together.setdefault(key, []).append(run)
    groups: Groups = {}
    for members in together.values():
        name = shared_name([run.name for run in members])
        while name in groups:
            name += "′"
        groups[name] = members
    return groups


def shared_name(names: Sequence[str]) -> str:
    """What names have in common, without the hyphen or the digits before their seeds: DQO of DQO-0 and DQO-1."""
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return re.sub(r"[-_. ]*(seed)?[-_. ]*\d*$", "", "".join(letters[0] for letters in alike)) or names[0]


def group_of(run: RunFiles, groups: Groups) -> str | None:
    """The group that a run is in; None for the folder of an evaluation, which is in none."""
    return next((group for group, members in groups.items() if any(member is run for member in members)), None)


def differences(groups: Groups) -> list[tuple[str, list[Any]]]:
    """The settings that the groups do not all have alike, each with its value in every group; None where there is none."""
    settings = [flat(members[0].recipe) for members in groups.values()]
    names = sorted({name for values in settings for name in values} - {SEED, *NAMES})
    rows = [(name, [values.get(name) for values in settings]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]
