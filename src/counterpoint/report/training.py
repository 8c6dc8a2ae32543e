"""Charts of what a run wrote down step by step."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from counterpoint.report.charts import Chart, line_spec
from counterpoint.report.groups import Groups
from counterpoint.report.palette import Series, of_both, of_groups, of_measures
from counterpoint.report.read import RunFiles
from counterpoint.report.records import Record
from counterpoint.report.series import MOST_POINTS, Columns, Line, median_and_range, of_how_many, pieces, rounded, stacked, thin
from counterpoint.report.text import listed

NUMBER = (int, float)
MOST_LINES = 6
"""Lines of a chart that can be told apart; of more measures and groups the reader chooses a measure."""
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
    """One field over another; not a number where a step has both and they make none."""

    def measure(line: Record) -> float | None:
        above, below = line.get(part), line.get(whole)
        if part not in line or whole not in line:
            return None
        return above / below if isinstance(above, NUMBER) and isinstance(below, NUMBER) and below else math.nan

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
    drawn: dict[tuple[str, str], Line] = {}
    seeds: dict[str, int] = {}
    for group, runs in groups.items():
        for name, measure in panel.measures.items():
            measured = [found for run in runs if (found := over_steps(run, measure))]
            columns = median_and_range(measured)
            # fresh samples and one update have no KL in them: a line at 0 would only hide the others
            if len(columns["step"]) and (panel.id != "kl" or columns["value"].any()):
                drawn[group, name] = columns | {"piece": pieces(measured, columns)}
                seeds[group] = max(seeds.get(group, 0), len(measured))
    # a floor is of what is drawn: DUET's is of accuracy, DQO's of reward
    drawing = {group for group, name in drawn if name != FLOOR}
    drawn = {key: columns for key, columns in drawn.items() if key[0] in drawing}
    seeds = {group: count for group, count in seeds.items() if group in drawing}
    if not drawn:
        return None
    measures = [name for name in panel.measures if any(key[1] == name for key in drawn)]
    choose = len(groups) > 1 and len(measures) > 1 and len(drawn) > MOST_LINES
    styles = styles_of(list(groups), list(drawn), measures, choose)
    table = stacked([named(rounded(thin(columns)), styles[key], key[1] if choose else "") for key, columns in drawn.items()])
    if not any(table["piece"]):
        del table["piece"]
    series = list(dict.fromkeys(styles[key] for key in drawn))
    alike = [] if choose else same_lines({styles[key].name: columns for key, columns in drawn.items()})
    longest = max(len(columns["step"]) for columns in drawn.values())
    thinned = f"{longest:,} steps thinned to {MOST_POINTS:,} points a line; the extremes of every stretch are kept"
    return Chart(
        id=panel.id,
        section="training",
        title=panel.title,
        what=f"{panel.title} over the steps of training: {', '.join(s.name for s in series)}",
        series=series,
        columns=table,
        spec=line_spec("step", "step", panel.y_title, series, table, panel.percent, panel.zero, len(groups) == len(series) == 1),
        x="step",
        lines=True,
        notes=[*of_how_many(seeds, "seed"), *alike, *([thinned] if longest > MOST_POINTS else [])],
        choose="measure" if choose else "",
    )


def same_lines(lines: Mapping[str, Line]) -> list[str]:
    """Which lines lie on each other, so that only the last of them is seen, in words."""
    together: dict[bytes, list[str]] = {}
    for name, columns in lines.items():
        together.setdefault(columns["step"].tobytes() + columns["value"].tobytes(), []).append(name)
    return [f"the same, and drawn over each other: {listed(names, 5)}" for names in together.values() if len(names) > 1]


def styles_of(
    groups: Sequence[str], drawn: Sequence[tuple[str, str]], measures: Sequence[str], choose: bool
) -> dict[tuple[str, str], Series]:
    """The series of each (group, measure) that is drawn. A name says only what is not the same in all that is drawn together."""
    if len(groups) == 1:
        return {(groups[0], name): series for name, series in of_measures(measures, FLOOR).items()}
    if len(measures) == 1 or choose:
        alike = of_groups(groups)
        return {(group, measure): alike[group] for group, measure in drawn}
    return of_both(groups, drawn)


def over_steps(run: RunFiles, measure: Measure) -> dict[int, float | None]:
    """A measure by step, where it was taken; None where a line has null. Only the lines since the last look are gone through."""
    seen, found = run.derived.get(measure, (0, {}))
    more = run.metrics[seen:]
    if isinstance(measure, str):
        found |= {line["step"]: line[measure] for line in more if measure in line}
    else:
        found |= {line["step"]: value for line in more if (value := measure(line)) is not None}
    run.derived[measure] = len(run.metrics), found
    return found


def named(columns: Columns, series: Series, measure: str) -> Columns:
    """A line's table with its series, and with its `measure` if that is chosen."""
    count = len(columns["step"])
    return {"series": [series.name] * count, **({"measure": [measure] * count} if measure else {}), **columns}
