"""Charts as Vega-Lite: what a chart is, how lines and points are drawn, in colours that everybody can tell apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterpoint.report.series import Columns

Spec = dict[str, Any]

COLOURS = 7
"""Colours of the palette; further series take them again, with another dash and shape."""
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (6, 3), (2, 2), (9, 3, 2, 3), (4, 1), (12, 4), (1, 3))
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
"""A series is known by its dash or shape too: colour is never alone."""
# Okabe and Ito's colours, darkened or lightened until each stands out from the page by 3 : 1
LIGHT = {
    "ink": "#211f1c", "quiet": "#655f58", "line": "#e4e0da",
    "series": ("#0064a3", "#b05000", "#007a5a", "#a4457c", "#000000", "#2b7fb0", "#8a6a00"),
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """How one series of a chart is drawn: an index into the palette, and into dashes and shapes."""

    name: str
    colour: int
    style: int

    def to_json(self) -> Spec:
        style = self.style % len(DASHES)
        return {"name": self.name, "colour": self.colour % COLOURS, "dash": list(DASHES[style]), "shape": SHAPES[style]}


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


def lines(
    x: str, x_title: str, y_title: str, series: Sequence[Series], band: bool, percent: bool = False, zero: bool = False
) -> Spec:
    """Lines over x, with the `band` from `low` to `high` or without; drag and scroll with Shift move along x."""
    y_axis = {"title": y_title, **({"format": "~%"} if percent else {})}
    across = {"field": x, "type": "quantitative", "title": x_title, "scale": {"nice": False}, "axis": {"tickMinStep": 1}}
    area = {
        "transform": [{"filter": "datum.low < datum.high"}],
        "mark": {"type": "area", "opacity": 0.18, "tooltip": False},
        "encoding": {
            "y": {"field": "low", "type": "quantitative", "title": y_title},
            "y2": {"field": "high"},
            "color": colour_of(series),
        },
    }
    line = {
        "mark": {"type": "line", "strokeWidth": 1.6, "strokeJoin": "round", "tooltip": False},
        "params": [
            {
                "name": "along",
                "select": {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]"},
                "bind": "scales",
            }
        ],
        "encoding": {
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": y_title,
                "axis": y_axis,
                "scale": {"zero": zero, "nice": True},
            },
            "color": colour_of(series),
            "strokeDash": {
                "field": "series",
                "type": "nominal",
                "scale": {"domain": [s.name for s in series], "range": [list(DASHES[s.style % len(DASHES)]) for s in series]},
                "title": None,
            },
        },
    }
    return {"encoding": {"x": across}, "layer": [area, line] if band else [line]}


def has_band(columns: Columns) -> bool:
    """Whether any row of a table has a width."""
    return any(low < high for low, high in zip(columns["low"], columns["high"], strict=True))


def steps(x: str, x_title: str, y_title: str, series: Sequence[Series]) -> Spec:
    """A distribution: shares in equal bins, as a staircase."""
    spec = lines(x, x_title, y_title, series, band=False, percent=True, zero=True)
    spec["layer"][0]["mark"]["interpolate"] = "step-after"
    return spec


def points(
    x_title: str, y_title: str, series: Sequence[Series], percent: bool = False, zero: bool = False, tooltip: Sequence[str] = ()
) -> Spec:
    """Points at (x, y) with intervals x_low to x_high and y_low to y_high."""
    across: Spec = {"type": "quantitative", "title": x_title, "scale": {"zero": zero, "padding": 24}}
    up: Spec = {"type": "quantitative", "title": y_title, "scale": {"zero": False, "padding": 18}}
    # the margin around the points may reach below nothing or above all, which there is not
    up["axis"] = {"format": "~%", "labelExpr": "datum.value < 0 || datum.value > 1 ? '' : datum.label"} if percent else {}
    across["axis"] = {"labelExpr": "datum.value < 0 ? '' : datum.label"}
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
                    "tooltip": [{"field": name, "title": name} for name in ("series", *tooltip)],
                },
            },
        ]
    }


def plane(series: Sequence[Series]) -> Spec:
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
    return {
        "field": "series",
        "type": "nominal",
        "title": None,
        "scale": {"domain": [s.name for s in series], "range": [f"series-{s.colour % COLOURS}" for s in series]},
    }


def shape_of(series: Sequence[Series]) -> Spec:
    return {
        "field": "series",
        "type": "nominal",
        "title": None,
        "scale": {"domain": [s.name for s in series], "range": [SHAPES[s.style % len(SHAPES)] for s in series]},
    }


def series_of(groups: Sequence[str], measures: Sequence[str]) -> dict[tuple[str, str], Series]:
    """A series for each group and measure. A name says only what is not the same in all.

    Of several groups each has its colour, in every chart the same. No two series have one dash and shape while there are enough.
    """
    found: dict[tuple[str, str], Series] = {}
    for i, group in enumerate(groups):
        for j, measure in enumerate(measures):
            parts = [*([measure] if len(measures) > 1 or len(groups) == 1 else []), *([group] if len(groups) > 1 else [])]
            colour, style = (i if len(groups) > 1 else j), i * len(measures) + j
            # past the palette's end the colours begin again, and styles must not
            found[group, measure] = Series(" · ".join(parts), colour, style + colour // COLOURS)
    return found


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
                "disable": not legend, "labelColor": ink, "titleColor": ink, "orient": "bottom", "labelLimit": 400, "columns": 2,
            },
            "title": {"color": ink, "anchor": "start", "fontSize": 14},
        },
        **spec,
    }  # fmt: skip


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
