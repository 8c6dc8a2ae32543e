"""A report that is too large made smaller: lines of fewer points, then fewer questions. It says what it left out. Pure."""

from collections.abc import Callable
from typing import Any

from counterpoint.report.series import MOST_POINTS, Columns, stacked, thin

Document = dict[str, Any]
Size = Callable[[Document], int]
FEWEST = 12
"""Points of a line, below which it is none."""
FOR_CHARTS = 0.6
"""Of the room, what charts may take where there are samples too."""


def fit(document: Document, room: int, size: Size) -> Document:
    """The document in at most `room` characters, as `size` counts them, if that can be; as it is if it has room."""
    if size(document) <= room:
        return document
    document = fewer_points(document, int(room * (FOR_CHARTS if document["samples"] else 1)), size)
    return fewer_questions(document, room, size)


def fewer_points(document: Document, room: int, size: Size) -> Document:
    """With charts of fewer points, and in the end without the last of them, until all but the samples has `room`."""
    whole, samples = document | {"samples": []}, document["samples"]
    found, most = whole, MOST_POINTS
    while (taken := size(found)) > room and most > FEWEST:
        most = max(FEWEST, int(most * min(0.9, max(0.1, 0.95 * room / taken))))
        found = whole | {"charts": [coarser(chart, most) for chart in whole.get("charts", [])]}
    kept = len(found.get("charts", []))
    while size(found) > room and kept:
        kept = int(kept * 0.8)
        left_out = f"{len(whole['charts']) - kept} charts had no room here; --json has their numbers"
        found = found | {"charts": found["charts"][:kept], "headlines": told(whole["headlines"], left_out)}
    return found | {"samples": samples}


def told(headlines: list[Document], note: str) -> list[Document]:
    """Headlines of which the first says a note too."""
    return [first | {"how": [*first["how"], note]} for first in headlines[:1]] + headlines[1:]


def coarser(chart: Document, most: int) -> Document:
    """A chart of training with lines of at most `most` points, one of responses with fewer questions; others as they are."""
    if chart.get("section") == "training":
        columns = coarser_lines(chart["columns"], chart["x"], chart["choose"], most)
        note = f"thinned to {most:,} points a line, so that the report has its size; the extremes of every stretch are kept"
    elif chart.get("choose"):
        columns = first_choices(chart["columns"], chart["choose"], max(1, 24 * most // MOST_POINTS))
        note = "the other questions had no room here"
    else:
        return chart
    if columns == chart["columns"]:
        return chart
    return chart | {"columns": columns, "notes": [each for each in chart["notes"] if "thinned to" not in each] + [note]}


def coarser_lines(columns: Columns, x: str, choice: str, most: int) -> Columns:
    """Every line of a table by itself, thinned: a series, or one of each `choice`."""
    rows: dict[tuple[str, str], list[int]] = {}
    for i, line in enumerate(zip(columns["series"], columns[choice or "series"], strict=True)):
        rows.setdefault(line, []).append(i)
    tables = []
    for at in rows.values():
        table = {("step" if name == x else name): [values[i] for i in at] for name, values in columns.items()}
        tables.append(thin(table, most))
    table = stacked(tables)
    return {name: table["step" if name == x else name] for name in columns}


def first_choices(columns: Columns, choice: str, most: int) -> Columns:
    """The rows of the first `most` values of a column."""
    kept = set(list(dict.fromkeys(columns[choice]))[:most])
    at = [i for i, value in enumerate(columns[choice]) if value in kept]
    return {name: [values[i] for i in at] for name, values in columns.items()}


def fewer_questions(document: Document, room: int, size: Size) -> Document:
    """With questions left out from the end of every set until it has `room`."""
    kept = max((len(found["questions"]) for found in document["samples"]), default=0)
    found = document
    while (taken := size(found)) > room and kept:
        kept = min(kept - 1, int(kept * max(0.5, 0.95 * room / taken)))
        samples = [
            found | {"questions": found["questions"][:kept], "left_out": max(0, len(found["questions"]) - kept)}
            for found in document["samples"]
        ]
        found = document | {"samples": samples}
    return found
