"""An evaluation as a table in the terminal, and as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from counterpoint.evaluate.run import Estimate, Evaluation, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette without its yellow, which is lost on white; a marker of its own for each, for print in grey
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#CC79A7", "#D55E00")
MARKERS = ("o", "v", "s", "D", "^", "P", "*")


def print_table(evaluation: Evaluation, console: Console) -> None:
    """The systems in a table of at most 110 columns; what is left out of it is in evaluation.json."""
    results = evaluation.systems.values()
    k = max((k for result in results for k in result.pass_at if k > 1), default=None)
    columns: dict[str, list[str]] = {
        "accuracy\n%": [_percent(result.accuracy) for result in results],
        "− M alone\npoints": [_percent(result.accuracy_difference, "+") for result in results],
        f"pass@{k}\n%": [_percent_alone(result.pass_at.get(k or 0)) for result in results] if k else [],
        "M out\ntokens": [f"{result.capable_output_tokens:.1f}" for result in results],
        "of M\nalone": ["–" if result.token_share is None else f"{result.token_share:.0%}" for result in results],
        "m out\ntokens": [f"{result.light_output_tokens:.1f}" for result in results],
        "FLOPs": ["–" if result.flops is None else _engineering(result.flops) for result in results],
        "s a\nbatch": [f"{result.seconds_per_batch:.3g}" for result in results],
        "money\nper 1000": [f"{result.money_per_1000:.4g}" for result in results if result.money_per_1000 is not None],
    }
    shown = {title: cells for title, cells in columns.items() if any(cell != "–" for cell in cells)}
    table = Table("system", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    for title in shown:
        table.add_column(title, justify="right", no_wrap=True)
    for row in zip(evaluation.systems, *shown.values(), strict=True):
        table.add_row(*row)
    console.print(table)
    skipped = sum(result.skipped for result in results)
    console.print(
        f"{evaluation.task}: {evaluation.questions} questions × {evaluation.samples} samples, batch of {evaluation.batch}; "
        "± is half a 95 % interval over questions"
        + (f"; M cut at {evaluation.cut_budget} tokens" if evaluation.cut_budget else "")
        + (f"; {skipped} responses could not be graded" if skipped else ""),
        style="dim",
        highlight=False,
    )


def plot(evaluation: Evaluation, path: str | Path) -> Path:
    """Accuracy over M's output tokens as a picture; returns its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)  # not pyplot: a library leaves the user's backend alone
    axes = figure.subplots()
    for i, (name, result) in enumerate(evaluation.systems.items()):
        accuracy = result.accuracy
        axes.errorbar(
            result.capable_output_tokens,
            100 * accuracy.value,
            yerr=[[100 * max(0.0, accuracy.value - accuracy.low)], [100 * max(0.0, accuracy.high - accuracy.value)]],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=11 if MARKERS[i % len(MARKERS)] == "*" else 8,
            capsize=3,
            elinewidth=1,
            label=name,
        )
    axes.set_xlabel("M's output tokens a response")
    axes.set_ylabel("Accuracy, %, with 95 % interval")
    axes.set_title(f"{evaluation.task}: {evaluation.questions} questions × {evaluation.samples} samples", fontsize=11)
    axes.margins(x=0.15, y=0.12)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()  # fixes where the points are, and so where there is room for labels
    label_points(axes, evaluation.systems)
    figure.savefig(path)
    return Path(path)


def label_points(axes: "Axes", systems: Mapping[str, Result]) -> None:
    """Write its name beside each point, where it covers neither a point, an interval nor another name; else to its right."""
    from matplotlib.transforms import Bbox

    renderer = axes.get_figure(root=True).canvas.get_renderer()  # pyright: ignore
    places = [((dx, dy), "left" if dx > 0 else "right") for dy in (5, -12, 18, -25) for dx in (9, -9)]
    taken: list[Bbox] = []
    for result in systems.values():
        ends = [(result.capable_output_tokens, 100 * end) for end in (result.accuracy.low, result.accuracy.high)]
        taken.append(Bbox(axes.transData.transform(ends)).padded(8))
    for name, result in systems.items():
        point = (result.capable_output_tokens, 100 * result.accuracy.value)
        labels = []
        for offset, side in places:
            labels.append(axes.annotate(name, point, offset, textcoords="offset points", ha=side, fontsize=9))
            area = labels[-1].get_window_extent(renderer)
            if axes.bbox.x0 <= area.x0 and area.x1 <= axes.bbox.x1 and not area.count_overlaps(taken):
                break
        else:
            labels.append(labels.pop(0))
        for label in labels[:-1]:
            label.remove()
        taken.append(labels[-1].get_window_extent(renderer))


def _percent(estimate: Estimate | None, sign: str = "") -> str:
    """A share in percent with half the width of its interval."""
    if estimate is None:
        return "–"
    number = f"{100 * estimate.value:{sign}.1f}".replace("-", "−")
    return f"{number} ± {50 * (estimate.high - estimate.low):.1f}"


def _percent_alone(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{100 * estimate.value:.1f}"


def _engineering(number: float) -> str:
    """A number with three digits and a prefix."""
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    while number >= 999.5 and len(prefixes) > 1:
        number, prefixes = number / 1000, prefixes[1:]
    return f"{number:.3g} {prefixes[0]}".rstrip()
