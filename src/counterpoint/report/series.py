"""Metrics over steps as columns: seeds drawn together, points thinned without losing an extreme. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 1000
"""Points of a line; more than a screen has columns."""

Columns = dict[str, list[Any]]
"""A table: column -> its values, all equally long."""
Line = dict[str, NDArray[Any]]
"""The numbers of a line, of which there may be many: column -> its values."""


def median_and_range(runs: Sequence[Mapping[int, float | None]]) -> Line:
    """Several seeds of one recipe as one line: step, value (median), low and high (range) over the seeds that reached the step.

    Values that are not finite are left out, and a step without any is too: `pieces` says where a line is broken for it.
    """
    if not runs:
        return dict.fromkeys(("step", "value", "low", "high"), np.zeros(0))
    own = [steps_of(run) for run in runs]
    steps = in_order(own)
    values_RS = np.full((len(runs), len(steps)), np.nan)
    for row_S, at, run in zip(values_RS, own, runs, strict=True):
        row_S[np.searchsorted(steps, at)] = np.asarray(list(run.values()), np.float64)
    finite_RS = np.isfinite(values_RS)
    kept_S = finite_RS.any(axis=0)
    values_RS = np.where(finite_RS, values_RS, np.nan)[:, kept_S]
    if len(runs) == 1:  # as it is most often, and quicker
        value_S = low_S = high_S = values_RS[0]
    else:
        value_S, low_S, high_S = (of(values_RS, axis=0) for of in (np.nanmedian, np.nanmin, np.nanmax))
    return {"step": steps[kept_S], "value": value_S, "low": low_S, "high": high_S}


def steps_of(run: Mapping[int, Any]) -> NDArray[np.int64]:
    return np.fromiter(run, np.int64, len(run))


def in_order(steps: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """All steps that there are in order, each once."""
    found = np.concatenate(steps)
    return found if (np.diff(found) > 0).all() else np.unique(found)


def pieces(runs: Sequence[Mapping[int, Any]], line: Line) -> NDArray[Any]:
    """Which piece of its line each row of `median_and_range` is in: it is broken where no seed has a number, but something else.

    A step at which nothing was measured breaks nothing. Of a line that is to be thinned a break stays only if it is as wide as
    what is left between two points, or the line would be points alone.
    """
    steps = line["step"]
    if len(runs) == 1 and len(runs[0]) == len(steps):  # as it is most often, and quicker
        return np.zeros(len(steps), np.int64)
    broken = np.setdiff1d(in_order([steps_of(run) for run in runs]), steps, assume_unique=True)
    least = (steps[-1] - steps[0]) / MOST_POINTS if len(steps) > MOST_POINTS else 0
    before = np.searchsorted(broken, steps)
    breaks = (np.diff(before) > 0) & (np.diff(steps) > least)
    return np.concatenate([np.zeros(min(1, len(steps)), np.int64), np.cumsum(breaks)])


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


def thin(columns: Columns | Line, most: int = MOST_POINTS) -> Columns:
    """At most `most` rows of a line, its first, its last and the extremes of every stretch among them; all, if they are so few.

    The rows are cut into equal stretches; of each the lowest and the highest `value`, the lowest `low` and the highest `high`
    stay. What is drawn therefore reaches as far up and down as what was measured.
    """
    count = len(columns["step"])
    if count <= most:
        return rows_of(columns, range(count))
    kept = {0, count - 1}
    arrays = {name: np.asarray(columns[name], np.float64) for name in ("value", "low", "high")}
    wanted: list[tuple[str, Any]] = [("value", np.argmin), ("value", np.argmax)]
    if not all(np.array_equal(arrays["value"], arrays[name]) for name in ("low", "high")):
        wanted += [("low", np.argmin), ("high", np.argmax)]
    for stretch in np.array_split(np.arange(count), max(1, (most - 2) // len(wanted))):
        kept |= {int(stretch[0] + pick(arrays[name][stretch])) for name, pick in wanted}
    return rows_of(columns, sorted(kept))


def rows_of(columns: Columns | Line, at: Sequence[int]) -> Columns:
    return {
        name: values[at].tolist() if isinstance(values, np.ndarray) else [values[i] for i in at]
        for name, values in columns.items()
    }


def rounded(columns: Columns) -> Columns:
    """Six significant digits: more than a chart shows, and half the bytes."""
    return {
        name: [float(f"{value:.6g}") if isinstance(value, float) else value for value in values]
        for name, values in columns.items()
    }


def stacked(tables: Sequence[Columns]) -> Columns:
    """Tables with the same columns under each other. No tables make an empty one."""
    return {name: [value for table in tables for value in table[name]] for name in (tables[0] if tables else {})}
