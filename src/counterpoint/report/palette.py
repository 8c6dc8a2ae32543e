"""How a series is drawn: a group has one colour in every chart, and one dash and shape where it is one line or point. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from counterpoint.evaluate.run import BEFORE, SOLO, START, TRAINED_PAIR

NEUTRAL = 0
"""The colour of what was not trained: the policy or the pair at its start, and the floor."""
COLOURS = 7
"""Colours of the palette, the neutral one among them; further series take the other six again, with another dash and shape."""
DASHES: tuple[tuple[int, ...], ...] = (
    (1, 0), (6, 3), (2, 2), (9, 3, 2, 3), (4, 1), (12, 4), (1, 3), (9, 2, 2, 2, 2, 2),
)  # fmt: skip
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
"""A series is known by its dash or shape too."""
BEGIN_AGAIN = math.lcm(COLOURS - 1, len(DASHES))
# each stands out from the page by 3 : 1, and from the others for eyes that lack a cone too: test_palette.py works it out
LIGHT = {
    "ink": "#211f1c", "quiet": "#655f58", "line": "#e4e0da",
    "series": ("#8a847c", "#0a70c8", "#dd6a10", "#00573f", "#b03a94", "#4527c2", "#6b4a00"),
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """How one series of a chart is drawn: an index into the palette, and one into dashes and shapes."""

    name: str
    colour: int
    style: int

    @property
    def dash(self) -> list[int]:
        return list(DASHES[self.style % len(DASHES)])

    @property
    def shape(self) -> str:
        return SHAPES[self.style % len(SHAPES)]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "colour": self.colour, "dash": self.dash, "shape": self.shape}


def of_groups(groups: Sequence[str]) -> dict[str, Series]:
    """Each group's series: the same in every chart, whatever else is in it. The first `BEGIN_AGAIN` look all different."""
    return {group: at(i, group) for i, group in enumerate(groups)}


def at(place: int, name: str) -> Series:
    """The series at a place of the palette, counted without the neutral."""
    return Series(name, 1 + place % (COLOURS - 1), place + place // BEGIN_AGAIN)


def of_measures(measures: Sequence[str], floor: str) -> dict[str, Series]:
    """The measures of a single group, the first in the group's colour. The floor, which is no measurement, is neutral."""
    found = of_groups([measure for measure in measures if measure != floor])
    return {measure: found.get(measure, Series(measure, NEUTRAL, -1)) for measure in measures}


def of_both(groups: Sequence[str], drawn: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Series]:
    """Measures of several groups, a (group, measure) each: the first of a group as the group is everywhere, the others in its
    colour, with dashes and shapes that no group has."""
    found: dict[tuple[str, str], Series] = {}
    alike, further = of_groups(groups), len(groups)
    for group, measure in drawn:
        own = alike[group]
        first = all(group != other for other, _ in found)
        found[group, measure] = replace(own, name=f"{measure} · {group}", style=own.style if first else further)
        further += not first
    return found


def of_systems(systems: Iterable[str], kinds: Mapping[str, str]) -> dict[str, Series]:
    """What an evaluation measured: what a group trained in the group's colour, what was not trained neutral, the baselines after.

    `kinds`: group -> what its runs are: duet, alone or dqo.
    """
    names = list(dict.fromkeys(systems))
    trained = of_groups(list(kinds))
    untrained = [name for name in names if name in (START, BEFORE)]
    others = [name for name in names if name not in untrained and group_that_trained(name, kinds) is None]
    found = {name: Series(name, NEUTRAL, -1 - i) for i, name in enumerate(untrained)}
    found |= {name: at(len(trained) + i, name) for i, name in enumerate(others)}
    for name in names:
        if (group := group_that_trained(name, kinds)) is not None:
            found[name] = Series(name, trained[group].colour, trained[group].style)
    return found


def group_that_trained(system: str, kinds: Mapping[str, str]) -> str | None:
    """The group that trained a system, by its name in an evaluation; None where that does not say."""
    if system in kinds:
        return system
    kind = {TRAINED_PAIR: "duet", SOLO: "alone"}.get(system)
    of_kind = [group for group in kinds if kinds[group] == kind]
    if len(of_kind) == 1:
        return of_kind[0]
    group = system.removeprefix(f"{TRAINED_PAIR} · ")
    return group if group != system and group in kinds else None
