"""Charts of what a run wrote down step by step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from counterpoint.report.charts import Chart, Series, has_band, lines, series_of
from counterpoint.report.groups import Groups
from counterpoint.report.records import Record
from counterpoint.report.series import MOST_POINTS, Columns, median_and_range, rounded, stacked, thin

NUMBER = (int, float)
Measure = str | Callable[[Record], float | None]
"""A field of metrics.jsonl, or what is worked out from a line of it."""


@dataclass(frozen=True)
class Panel:
    """A chart over steps: which fields of metrics.jsonl, and what they are called."""

    id: str
    title: str
    y_title: str
    measures: dict[str, Measure] = field(default_factory=dict)
    """What it is called -> where it is. A panel is shown where the first, or one of the others but the floor, is there."""
    percent: bool = False
    zero: bool = False


def share(part: str, whole: str) -> Measure:
    """One field over another."""

    def measure(line: Record) -> float | None:
        above, below = line.get(part), line.get(whole)
        return above / below if above is not None and below else None

    return measure


FLOOR = "floor"
PANELS = (
    Panel(
        "accuracy", "Accuracy", "share right",
        {"aided": "aided_accuracy", "unaided": "unaided_accuracy", "M alone": "accuracy", FLOOR: "floor"}, percent=True,
    ),
    Panel("reward", "Reward", "mean reward", {"reward": "reward", FLOOR: "floor"}),
    Panel(
        "written", "Tokens written", "tokens",
        {"M's signal": "signal_tokens", "m's answer": "answer_tokens", "response": "response_tokens"}, zero=True,
    ),
    Panel("log_det", "Diversity: log det(L + I) of a group", "nats", {"log det": "log_det"}),
    Panel("multiplier", "λ, the price of M's tokens", "λ", {"λ": "multiplier"}, zero=True),
    Panel("alpha", "α, the weight of diversity", "α", {"α": "alpha"}, zero=True),
    Panel("entropy", "Entropy", "nats a token", {"M": "capable_entropy", "m": "light_entropy", "policy": "entropy"}, zero=True),
    Panel(
        "kl", "KL divergence", "nats",
        {
            "M from its start": "capable_kl_to_start", "m from its start": "light_kl_to_start",
            "policy from its start": "kl_to_start",
            "M in an update": "capable_old_kl", "m in an update": "light_old_kl", "policy in an update": "old_kl",
        },
    ),
    Panel(
        "grad_norm", "Gradient norm, before clipping", "norm",
        {"M": "capable_grad_norm", "m": "light_grad_norm", "policy": "grad_norm"}, zero=True,
    ),
    Panel(
        "dropped", "Groups without a gradient: all samples alike", "share of groups",
        {
            "M": share("capable_groups_dropped", "capable_groups"), "m": share("light_groups_dropped", "light_groups"),
            "policy": share("groups_dropped", "groups"),
        },
        percent=True, zero=True,
    ),
    Panel(
        "unfinished", "Cut off by the budget", "share",
        {"signals": "signals_unclosed", "responses": "responses_unfinished"}, percent=True, zero=True,
    ),
    Panel(
        "seconds", "Time of a step, by phase", "seconds",
        {
            "whole step": "seconds", "sample": "seconds_sample", "score": "seconds_score", "shape": "seconds_shape",
            "update": "seconds_update",
        },
        zero=True,
    ),
    Panel("loss", "Loss", "loss", {"M": "capable_loss", "m": "light_loss", "policy": "loss"}),
)  # fmt: skip


def training_charts(groups: Groups) -> list[Chart]:
    """Every panel for which a run has numbers; groups over each other, seeds of a group as median and range."""
    return [chart for panel in PANELS if (chart := draw(panel, groups))]


def draw(panel: Panel, groups: Groups) -> Chart | None:
    """A panel's chart; None where no run has anything for it."""
    drawn: dict[tuple[str, str], Columns] = {}
    for group, runs in groups.items():
        for name, measure in panel.measures.items():
            columns = median_and_range([over_steps(run.metrics, measure) for run in runs])
            # fresh samples and one update have no KL in them: a line at 0 would only hide the others
            if columns["step"] and (panel.id != "kl" or any(columns["value"])):
                drawn[group, name] = columns
    # a floor is of what is drawn: DUET's is of accuracy, DQO's of reward
    drawing = {group for group, name in drawn if name != FLOOR}
    drawn = {key: columns for key, columns in drawn.items() if key[0] in drawing}
    if not drawn:
        return None
    measures = [name for name in panel.measures if any(key[1] == name for key in drawn)]
    styles = series_of(list(groups), measures)
    thinned = {key: thin(columns) for key, columns in drawn.items()}
    table = stacked([named(rounded(columns), styles[key]) for key, columns in thinned.items()])
    series = [styles[key] for key in drawn]
    seeds = max(len(runs) for runs in groups.values())
    notes = [f"median and range of {seeds} seeds"] if seeds > 1 else []
    longest = max(len(columns["step"]) for columns in drawn.values())
    if longest > MOST_POINTS:
        notes.append(f"{longest:,} steps thinned to {MOST_POINTS:,} points a line; the extremes of every stretch are kept")
    return Chart(
        id=panel.id,
        section="training",
        title=panel.title,
        what=f"{panel.title} over the steps of training: {', '.join(s.name for s in series)}",
        series=series,
        columns=table,
        spec=lines("step", "step", panel.y_title, series, has_band(table), panel.percent, panel.zero),
        x="step",
        lines=True,
        notes=notes,
    )


def over_steps(metrics: Sequence[Record], measure: Measure) -> dict[int, float]:
    """A measure by step, where there is a number. Of 100,000 steps too this takes a moment only."""
    if isinstance(measure, str):
        return {line["step"]: float(value) for line in metrics if isinstance(value := line.get(measure), NUMBER)}
    return {line["step"]: float(value) for line in metrics if isinstance(value := measure(line), NUMBER)}


def named(columns: Columns, series: Series) -> Columns:
    return {"series": [series.name] * len(columns["step"]), **columns}
