"""An evaluation as a picture: each system a point with its intervals."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from counterpoint.evaluate.metrics import Estimate
from counterpoint.evaluate.results import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette without its yellow, which is lost on white; a marker of its own for each, for print in grey
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#CC79A7", "#D55E00")
MARKERS = ("o", "v", "s", "D", "^", "P", "*")

Points = Mapping[str, tuple[Estimate, Estimate]]
"""System -> (place across, place up)."""


def plot(evaluation: Evaluation, path: str | Path) -> Path:
    """Accuracy over M's output tokens; returns the picture's path."""
    points = {}
    for name, result in evaluation.systems.items():
        tokens = result.capable_output_tokens
        points[name] = (Estimate(tokens, tokens, tokens), percent(result.accuracy))
    return draw_points(points, path, "M's output tokens a response", "Accuracy, %, with 95 % interval", title_of(evaluation))


def plot_diversity(evaluation: Evaluation, path: str | Path) -> Path:
    """Mean reward over the number of different right answers, or over the Vendi score; returns the picture's path."""
    counted = all("different_correct" in result.diversity for result in evaluation.systems.values())
    measure = "different_correct" if counted else "vendi_score"
    points = {
        name: (result.diversity[measure], percent(result.accuracy))
        for name, result in evaluation.systems.items()
        if measure in result.diversity
    }
    what = "Different right answers" if counted else "Vendi score"
    across = f"{what} in {evaluation.samples} samples, with 95 % interval"
    return draw_points(points, path, across, "Mean reward, %, with 95 % interval", title_of(evaluation))


def title_of(evaluation: Evaluation) -> str:
    return f"{evaluation.task}: {evaluation.questions} questions × {evaluation.samples} samples"


def percent(estimate: Estimate) -> Estimate:
    return Estimate(100 * estimate.value, 100 * estimate.low, 100 * estimate.high)


def draw_points(points: Points, path: str | Path, across: str, up: str, title: str) -> Path:
    """Points with error bars and their names beside them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)  # not pyplot: a library leaves the user's backend alone
    axes = figure.subplots()
    for i, (name, (x, y)) in enumerate(points.items()):
        axes.errorbar(
            x.value,
            y.value,
            xerr=error_bar(x),
            yerr=error_bar(y),
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=11 if MARKERS[i % len(MARKERS)] == "*" else 8,
            capsize=3,
            elinewidth=1,
            label=name,
        )
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(title, fontsize=11)
    axes.margins(x=0.15, y=0.12)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()  # fixes where the points are, and so where there is room for labels
    label_points(axes, points)
    figure.savefig(path)
    return Path(path)


def error_bar(estimate: Estimate) -> list[list[float]] | None:
    """Distances down and up; None where the place is exact."""
    if estimate.low == estimate.high:
        return None
    return [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]


def label_points(axes: "Axes", points: Points) -> None:
    """Write its name beside each point, where it covers neither a point, an interval nor another name; else to its right."""
    from matplotlib.transforms import Bbox

    renderer = axes.get_figure(root=True).canvas.get_renderer()  # pyright: ignore
    places = [((dx, dy), "left" if dx > 0 else "right") for dy in (5, -12, 18, -25) for dx in (9, -9)]
    taken: list[Bbox] = []
    for x, y in points.values():
        for ends in ([(x.value, y.low), (x.value, y.high)], [(x.low, y.value), (x.high, y.value)]):
            taken.append(Bbox(axes.transData.transform(ends)).padded(8))
    for name, (x, y) in points.items():
        labels = []
        for offset, side in places:
            at = (x.value, y.value)
            labels.append(axes.annotate(name, at, offset, textcoords="offset points", ha=side, fontsize=9))
            area = labels[-1].get_window_extent(renderer)
            if axes.bbox.x0 <= area.x0 and area.x1 <= axes.bbox.x1 and not area.count_overlaps(taken):
                break
        else:
            labels.append(labels.pop(0))
        for label in labels[:-1]:
            label.remove()
        taken.append(labels[-1].get_window_extent(renderer))
