"""Charts as Vega-Lite: what a chart is, and how lines and points are drawn."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterpoint.report.palette import Series
from counterpoint.report.series import Columns

Spec = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart, its numbers, and what it says in words."""

    id: str
    section: str
    """The tab: result, training or answers."""
    title: str
    what: str
    """What is drawn, in a sentence: for those who do not see it."""
    series: list[Series]
    columns: Columns
    """The numbers, as drawn; one column is "series"."""
    spec: Spec
    x: str
    """The column across."""
    lines: bool
    """Whether it can be read off along x."""
    notes: list[str] = field(default_factory=list)
    choose: str = ""
    """A column of which one value is shown at a time, as chosen by the reader; none if empty."""


def line_spec(
    x: str,
    x_title: str,
    y_title: str,
    series: Sequence[Series],
    columns: Columns,
    percent: bool = False,
    zero: bool = False,
    alone: bool = False,
) -> Spec:
    """Lines over x with the range from `low` to `high`, where `columns` have one. Drag and scroll with Shift move along x.

    A line is drawn piece by piece, if there is a column "piece". `alone`: nothing is to be told from it, here or elsewhere.
    """
    y_axis = {"title": y_title, **({"format": "~%"} if percent else {})}
    across = {
        "field": x, "type": "quantitative", "title": x_title, "scale": {"nice": False},
        "axis": WHOLE | APART,
    }  # fmt: skip
    pieces = {"detail": {"field": "piece"}} if "piece" in columns else {}
    marks, long = 1 in together(columns), is_long(columns)
    scale = {"zero": zero, "nice": not marks, **({"padding": 8} if marks else {"range": INSET})}  # what is at the edge is whole
    up = {"field": "value", "type": "quantitative", "title": y_title, "axis": y_axis, "scale": scale}
    span = {
        "y": {"field": "low", "type": "quantitative", "title": y_title},
        "y2": {"field": "high"},
        "color": colour_of(series),
    }
    area = {
        # a series without a band is left out, but no point of one that has one: the band would be drawn past it
        "transform": [{"filter": f"indexof({json.dumps(names_with_band(columns))}, datum.series) >= 0"}],
        "mark": {"type": "area", "opacity": 0.18, "tooltip": False},
        "encoding": span | pieces,
    }
    line = {
        "mark": {"type": "line", "strokeWidth": 1.6, "strokeJoin": "round", "tooltip": False},
        "params": [{"name": "along", "select": along(), "bind": "scales"}],
        "encoding": {"y": up, "color": colour_of(series), **({} if long else {"strokeDash": dash_of(series)}), **pieces},
    }
    layers = [
        *([area] if names_with_band(columns) else []),
        line,
        *(marks_of(columns, series, up, span, alone) if marks or long else []),
    ]
    return {"encoding": {"x": across}, "layer": layers}


def marks_of(columns: Columns, series: Sequence[Series], up: Spec, span: Spec, alone: bool) -> list[Spec]:
    """A mark, and the range under it, where a point stands alone; on long lines one now and then, which tells them apart."""
    long = is_long(columns)
    counts = [
        {"joinaggregate": [{"op": "count", "as": "together"}], "groupby": line_names(columns)},
        {"joinaggregate": [{"op": "count", "as": "all"}], "groupby": line_names(columns, pieces=False)},
        {"window": [{"op": "row_number", "as": "nth"}], "groupby": line_names(columns, pieces=False)},
    ]
    names = [one.name for one in series]
    apart = f"ceil(datum.all / {MARKS})"  # from half of it on, so that none is at an end, where it would be cut
    now_and_then = f"(datum.nth + 5 * indexof({json.dumps(names)}, datum.series)) % {apart} == floor({apart} / 2)"
    seen = f"datum.together == 1 || {now_and_then}" if long and not alone else "datum.together == 1"
    # a picture's legend has the dashes, or the shapes where there are none
    key = {} if long or together(columns) == {1} else {"legend": None}
    return [
        {
            "transform": [*counts, {"filter": "datum.together == 1"}],
            "mark": {"type": "rule", "strokeWidth": 1.4, "opacity": 0.5, "tooltip": False},
            "encoding": span,
        },
        {
            "transform": [*counts, {"filter": seen}],
            "mark": {"type": "point", "filled": True, "opacity": 1, "size": 80, "tooltip": False},
            "encoding": {"y": up, "color": colour_of(series), "shape": shape_of(series) | key},
        },
    ]


def along() -> Spec:
    """Moving a chart along x, by the mouse alone: a finger that goes over the chart scrolls the page."""
    drag = "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"
    return {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]", "translate": drag}


BROKEN = {"condition": {"test": "datum.value % 1", "value": 0}, "value": 1}
WHOLE = {
    "tickMinStep": 1, "format": ",d", "labelExpr": "datum.value % 1 ? '' : datum.label", "gridOpacity": BROKEN,
    "tickOpacity": BROKEN,
}  # fmt: skip
"""An axis of steps, tokens or samples: there is nothing between two."""
APART = {"labelFlush": True, "labelOverlap": True, "labelSeparation": 8}
"""Labels of an axis that leave some out before they touch; the first and last stay inside the chart, where they are not cut."""
INSET = [{"expr": "height - 1"}, 1]
"""Pixels between which lines are: half of one that goes along the edge would be cut off."""
LINE = ("series", "measure", "piece")
"""Columns whose values, where there are such columns, a line's points have alike."""


LONG = 150
"""Points up to which a line has its dash. A longer one that goes up and down has so many dashes that to draw them takes a second,
and that they cannot be told from others: it has marks."""
MARKS = 8
"""Marks of a long line."""


def line_names(columns: Columns, pieces: bool = True) -> list[str]:
    return [name for name in LINE if name in columns and (pieces or name != "piece")]


def together(columns: Columns, pieces: bool = True) -> set[int]:
    """How many points the lines have, or their pieces."""
    return set(Counter(zip(*(columns[name] for name in line_names(columns, pieces)), strict=True)).values())


def is_long(columns: Columns) -> bool:
    return max(together(columns, pieces=False), default=0) > LONG


def names_with_band(columns: Columns) -> list[str]:
    """The series of which any row has a width."""
    rows = zip(columns["series"], columns["low"], columns["high"], strict=True)
    return list(dict.fromkeys(name for name, low, high in rows if low < high))


def staircase_spec(x: str, x_title: str, y_title: str, series: Sequence[Series], columns: Columns) -> Spec:
    """A distribution: shares in equal bins, as a staircase."""
    spec = line_spec(x, x_title, y_title, series, columns, percent=True, zero=True)
    spec["layer"][0]["mark"]["interpolate"] = "step-after"
    return spec


def point_spec(x_title: str, y_title: str, series: Sequence[Series], percent: bool = False, zero: bool = False) -> Spec:
    """Points at (x, y) with intervals x_low to x_high and y_low to y_high."""
    across: Spec = {"type": "quantitative", "title": x_title, "scale": {"zero": zero, "padding": 24}}
    up: Spec = {"type": "quantitative", "title": y_title, "scale": {"zero": False, "padding": 18}}
    # the margin around the points may reach below nothing or above all, which there is not
    up["axis"] = {"format": "~%", "labelExpr": "datum.value < 0 || datum.value > 1 ? '' : datum.label"} if percent else {}
    below = {"condition": {"test": "datum.value < 0", "value": 0}, "value": 1}
    across["axis"] = {"labelExpr": "datum.value < 0 ? '' : datum.label", **APART}
    across["axis"] |= {"gridOpacity": below, "tickOpacity": below}
    told = {"series": "series", "x": x_title, "x_low": f"{x_title}, from", "x_high": f"{x_title}, to"}
    told |= {"y": y_title, "y_low": f"{y_title}, from", "y_high": f"{y_title}, to"}
    mark = {"type": "rule", "strokeWidth": 1.4, "opacity": 0.8, "aria": False, "tooltip": False}
    return {
        "layer": [
            {
                "mark": mark,
                "encoding": {
                    "x": {**across, "field": "x_low"},
                    "x2": {"field": "x_high"},
                    "y": {**up, "field": "y"},
                    "color": colour_of(series),
                },
            },
            {
                "mark": mark,
                "encoding": {
                    "x": {**across, "field": "x"},
                    "y": {**up, "field": "y_low"},
                    "y2": {"field": "y_high"},
                    "color": colour_of(series),
                },
            },
            {
                "mark": {"type": "point", "filled": True, "opacity": 1, "size": 110},
                "encoding": {
                    "x": {**across, "field": "x"},
                    "y": {**up, "field": "y"},
                    "color": colour_of(series),
                    "shape": shape_of(series),
                    "tooltip": [{"field": name, "title": title} for name, title in told.items()],
                },
            },
        ]
    }


def plane_spec(series: Sequence[Series]) -> Spec:
    """Responses in a plane: filled where they are right, larger where several are the same."""
    axis = {"title": None, "labels": False, "ticks": False, "grid": False}
    return {
        "mark": {"type": "point", "filled": True, "strokeWidth": 1.6},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "axis": axis, "scale": {"zero": False, "padding": 20}},
            "y": {"field": "y", "type": "quantitative", "axis": axis, "scale": {"zero": False, "padding": 20}},
            "stroke": colour_of(series),
            "fill": colour_of(series),
            "fillOpacity": {"condition": {"test": "datum.right", "value": 0.75}, "value": 0},
            "strokeOpacity": {"value": 1},
            "shape": shape_of(series),
            "size": {
                "field": "times",
                "type": "quantitative",
                "legend": None,
                "scale": {"type": "sqrt", "domain": [1, 16], "range": [70, 700]},
            },
            "tooltip": [{"field": name, "title": name} for name in ("series", "response", "reward", "times")],
        },
    }


def colour_of(series: Sequence[Series]) -> Spec:
    """Colours by name; the theme says what each of the palette's is."""
    return scale_by_name(series, [f"series-{s.colour}" for s in series])


def shape_of(series: Sequence[Series]) -> Spec:
    return scale_by_name(series, [s.shape for s in series])


def dash_of(series: Sequence[Series]) -> Spec:
    return scale_by_name(series, [s.dash for s in series])


def scale_by_name(series: Sequence[Series], values: Sequence[Any]) -> Spec:
    """What each series is drawn with."""
    scale = {"domain": [s.name for s in series], "range": list(values)}
    return {"field": "series", "type": "nominal", "title": None, "scale": scale}


def complete(chart: Chart, colours: Mapping[str, Any], legend: bool) -> Spec:
    """A spec that can be drawn: with its data's name, its size and a theme of `colours` like `LIGHT`'s, or CSS variables."""
    ink, quiet, line = (colours[name] for name in ("ink", "quiet", "line"))
    spec = in_colours(chart.spec, colours["series"])
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": chart.what,
        "data": {"name": "rows"},
        "width": "container" if not legend else 560,
        "height": 360 if chart.section == "answers" else 260,
        "autosize": {"type": "fit", "contains": "padding"},
        "background": None,
        "config": {
            "font": "system-ui, Liberation Sans, sans-serif",
            "view": {"stroke": None},
            "axis": {
                "labelColor": quiet, "titleColor": quiet, "titleFontWeight": "normal", "gridColor": line, "domainColor": line,
                "tickColor": line, "labelFontSize": 12, "titleFontSize": 12,
            },
            "legend": {
                "disable": not legend, "labelColor": ink, "titleColor": ink, "orient": "bottom", "labelLimit": 500,
                "columns": legend_columns(chart.series), "symbolOpacity": 1,
                **({"symbolType": "stroke", "symbolSize": 500, "symbolStrokeWidth": 2} if is_told_by_dashes(spec) else {}),
            },
            "title": {"color": ink, "anchor": "start", "fontSize": 14},
        },
        **spec,
    }  # fmt: skip


def is_told_by_dashes(spec: Spec) -> bool:
    """Whether a picture's legend has the dashes of lines, and not the shapes of marks."""
    encodings = [layer["encoding"] for layer in spec.get("layer", [])]
    shapes = [encoding["shape"] for encoding in encodings if "shape" in encoding]
    return any("strokeDash" in encoding for encoding in encodings) and all("legend" in shape for shape in shapes)


def legend_columns(series: Sequence[Series]) -> int:
    """Columns of a picture's legend that fit under it, for letters of 7 pixels."""
    longest = max((len(one.name) for one in series), default=0)
    return max(1, min(4, 520 // (7 * longest + 40)))


def in_colours(spec: Any, series: Sequence[str]) -> Any:
    """`spec` with colours in the place of the names series-0, series-1, ... that scales have for them."""
    if isinstance(spec, dict):
        return {
            key: [coloured(each, series) for each in value] if key == "range" else in_colours(value, series)
            for key, value in spec.items()
        }
    return [in_colours(value, series) for value in spec] if isinstance(spec, list) else spec


def coloured(name: Any, series: Sequence[str]) -> Any:
    """The colour that is meant by a name of the palette; what else a scale may range over, as it is."""
    return series[int(name[7:])] if isinstance(name, str) and name.startswith("series-") else name
