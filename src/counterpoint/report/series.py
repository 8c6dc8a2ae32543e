"""Metrics over steps as columns: seeds drawn together, points thinned without losing an extreme. Pure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 1000
"""Points of a line; more than a screen has columns."""

Columns = dict[str, list[Any]]
"""A table: column -> its values, all equally long."""


def median_and_range(runs: Sequence[Mapping[int, float]]) -> Columns:
    """Several seeds of one recipe as one line: step, value (median), low and high (range) over the seeds that reached the step.

    Values that are not finite are left out, and a step without any is too: `pieces` says where a line is broken for it.
    """
    if len(runs) == 1:  # as it is most often, and quicker
        alone = {step: value for step, value in sorted(runs[0].items()) if math.isfinite(value)}
        values = list(alone.values())
        return {"step": list(alone), "value": values, "low": values, "high": values}
    steps = sorted({step for run in runs for step in run})
    columns: Columns = {"step": [], "value": [], "low": [], "high": []}
    for step in steps:
        values = [run[step] for run in runs if step in run and math.isfinite(run[step])]
        if values:
            for name, value in zip(columns, (step, statistics.median(values), min(values), max(values)), strict=True):
                columns[name].append(value)
    return columns


def pieces(runs: Sequence[Mapping[int, float]], columns: Columns) -> list[int]:
    """Which piece of its line each row of `median_and_range` is in: it is broken where no seed has a number, but something else.

    A step at which nothing was measured breaks nothing. Of a line that is to be thinned a break stays only if it is as wide as
    what is left between two points, or the line would be points alone.
    """
    steps = columns["step"]
    broken = sorted({step for run in runs for step in run} - set(steps))
    if not steps or not broken:
        return [0] * len(steps)
    least = (steps[-1] - steps[0]) / MOST_POINTS if len(steps) > MOST_POINTS else 0
    before = np.searchsorted(np.asarray(broken), np.asarray(steps))
    breaks = (np.diff(before) > 0) & (np.diff(steps) > least)
    return [0, *np.cumsum(breaks).tolist()]


def of_how_many(counts: Mapping[str, int], what: str) -> list[str]:
    """What each line or point is, where any is of several: names, with how many `what` each is of; nothing if all are single.

    Of more than three with one count it says "the others".
    """
    if set(counts.values()) <= {1}:
        return []
    if len(set(counts.values())) == 1:
        return [seeds_in_words(next(iter(counts.values())), what)]
    together: dict[int, list[str]] = {}
    for name, count in counts.items():
        together.setdefault(count, []).append(name)
    most = max(together.values(), key=len)
    found = [
        f"{', '.join(names)}: {seeds_in_words(count, what)}"
        for count, names in sorted(together.items(), reverse=True)
        if names is not most or len(most) <= 3
    ]
    return found if len(most) <= 3 else [*found, f"the others: {seeds_in_words(counts[most[0]], what)}"]


def seeds_in_words(count: int, what: str) -> str:
    return f"median and range of {count} {what}s" if count > 1 else f"one {what}"


def thin(columns: Columns, most: int = MOST_POINTS) -> Columns:
    """At most `most` rows of a line, its first, its last and the extremes of every stretch among them; all, if they are so few.

    The rows are cut into equal stretches; of each the lowest and the highest `value`, the lowest `low` and the highest `high`
    stay. What is drawn therefore reaches as far up and down as what was measured.
    """
    count = len(columns["step"])
    if count <= most:
        return columns
    kept = {0, count - 1}
    wanted: list[tuple[str, Any]] = [("value", np.argmin), ("value", np.argmax)]
    if columns["low"] != columns["value"] or columns["high"] != columns["value"]:
        wanted += [("low", np.argmin), ("high", np.argmax)]
    arrays: dict[str, NDArray[np.float64]] = {name: np.asarray(columns[name], np.float64) for name, _ in wanted}
    for stretch in np.array_split(np.arange(count), max(1, (most - 2) // len(wanted))):
        kept |= {int(stretch[0] + pick(arrays[name][stretch])) for name, pick in wanted}
    return {name: [values[i] for i in sorted(kept)] for name, values in columns.items()}


def rounded(columns: Columns) -> Columns:
    """Six significant digits: more than a chart shows, and half the bytes."""
    return {
        name: [float(f"{value:.6g}") if isinstance(value, float) else value for value in values]
        for name, values in columns.items()
    }


def stacked(tables: Sequence[Columns]) -> Columns:
    """Tables with the same columns under each other. No tables make an empty one."""
    return {name: [value for table in tables for value in table[name]] for name in (tables[0] if tables else {})}
