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

    Values that are not finite are left out, and a step without any is too.
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
