"""A report as plain values: what the page shows, and what `--json` prints."""

import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from counterpoint.dqo.embed import Embedder, load_embedder
from counterpoint.errors import CounterpointError
from counterpoint.report.charts import Chart
from counterpoint.report.groups import Groups, differences, distinct, group_of, grouped
from counterpoint.report.headline import Headline, headlines
from counterpoint.report.measured import evaluations_of_run, is_plain
from counterpoint.report.read import RunFiles
from counterpoint.report.records import as_record
from counterpoint.report.results import LABEL, result_charts
from counterpoint.report.samples import sample_sets
from counterpoint.report.text import cut, listed
from counterpoint.report.training import over_steps, training_charts
from counterpoint.run import installed_version

Document = dict[str, Any]
LONGEST = 100_000
"""Characters of a recipe, a command or an error."""


def document_of(given: Sequence[RunFiles], left_out: Sequence[str] = ()) -> tuple[Document, list[Chart]]:
    """Everything that a report says, and its charts, which the document holds as plain values too.

    `left_out`: what else was given and is no run, in words.
    """
    runs, copies = distinct(given)
    notes = [*left_out, *copies]
    groups = grouped([run for run in runs if run.kind != "evaluation"])
    embedder, embedded_by = embedder_of(runs)
    charts = result_charts(groups, runs, embedder) + [without(chart, groups) for chart in training_charts(groups)]
    for chart in charts:
        if chart.section == "answers":
            chart.notes.append(f"embedded by {embedded_by}")
    said = headlines(groups, runs) or [Headline("Nothing has been measured yet.")]
    said[0] = replace(said[0], how=[*said[0].how, *notes])
    document = {
        "title": title_of(groups, runs),
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "counterpoint": installed_version("counterpoint"),
        "headlines": [asdict(headline) for headline in said],
        "runs": [about(run, groups, runs) for run in runs],
        "notes": notes,
        "groups": list(groups),
        "differences": [{"setting": name, "values": [readable(value) for value in its]} for name, its in differences(groups)],
        "charts": [chart_values(chart) for chart in charts],
        "samples": [asdict(found) for found in sample_sets(runs)],
    }
    return document, charts


def readable(value: Any) -> Any:
    """A setting in a table: a text that has no end is cut."""
    return cut(value, LABEL) if isinstance(value, str) else value


def without(chart: Chart, groups: Groups) -> Chart:
    """A chart of diversity with the groups named that have none."""
    none = [name for name, runs in groups.items() if is_plain(runs) and not any("log_det" in line for line in runs[0].metrics)]
    if chart.id != "log_det" or not none:
        return chart
    return replace(chart, notes=[*chart.notes, f"none of {listed(none, 5)}: trained without a diversity term"])


def title_of(groups: Groups, runs: Sequence[RunFiles]) -> str:
    names = list(groups) or [run.name for run in runs] or ["no run yet"]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def chart_values(chart: Chart) -> Document:
    """All of a chart but how it is drawn."""
    return {
        "id": chart.id, "section": chart.section, "title": chart.title, "what": chart.what,
        "series": [series.to_json() for series in chart.series], "columns": chart.columns, "x": chart.x, "lines": chart.lines,
        "notes": chart.notes, "choose": chart.choose,
    }  # fmt: skip


def about(run: RunFiles, groups: Groups, runs: Sequence[RunFiles]) -> Document:
    """What is needed to run it again, how it stands, and what of it is missing."""
    elsewhere = any(other is not run for other in evaluations_of_run(run, runs))
    missing = [line for line in run.missing if not (elsewhere and line.startswith("evaluation.json is missing"))]
    return {
        "name": run.name,
        "group": group_of(run, groups) or "",
        "kind": run.kind,
        "status": run.state,
        "error": cut(str(run.status.get("error") or ""), LONGEST),
        "steps": run.steps,
        "planned": run.planned,
        "seconds": duration(run),
        "command": cut(command_of(run), LONGEST),
        "seed": run.info.get("seed", run.evaluation.seed if run.evaluation else None),
        "started": run.info.get("started"),
        "versions": as_record(run.info.get("versions")),
        "platform": as_record(run.info.get("platform")),
        "summary": run.summary,
        "measured": measured_of(run),
        "unrecorded": unrecorded(run),
        "missing": missing,
        "recipe": cut(run.recipe_text, LONGEST),
    }


def command_of(run: RunFiles) -> str:
    """What was typed, as it can be typed again."""
    command = run.info.get("command")
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")


def measured_of(run: RunFiles) -> str:
    """What the evaluation in a directory holds, in words; empty without one."""
    evaluation = run.evaluation
    if evaluation is None:
        return ""
    sampled = f"temperature {evaluation.temperature:g}, top-p {evaluation.top_p:g}, top-k {evaluation.top_k or 'off'}"
    budgets = f"{evaluation.max_signal_tokens} tokens for a signal, " if evaluation.max_signal_tokens else ""
    return (
        f"{evaluation.task}, {evaluation.questions:,} questions × {evaluation.samples} samples; {sampled}; {budgets}"
        f"{evaluation.max_answer_tokens} for an answer; seed {evaluation.seed}; {', '.join(evaluation.systems)}"
    )


def unrecorded(run: RunFiles) -> list[str]:
    """What a reader may look for in the charts of training and not find, and why."""
    if not run.metrics or run.kind not in ("duet", "alone", "dqo"):
        return []

    def has(name: str) -> bool:
        whose = [f"{role}{name}" for role in ("", "capable_", "light_")]
        return any(value and value == value for each in whose for value in over_steps(run, each).values())

    found = []
    if not has("kl_to_start"):
        found.append("KL from the start: measured where a model has a kl_coefficient")
    if not has("old_kl"):
        found.append("KL in an update: one update on fresh samples has none")
    if run.kind == "dqo" and not has("log_det"):
        found.append("log det: there is no diversity term" if is_plain([run]) else "log det: not written down")
    return found


def duration(run: RunFiles) -> float | None:
    """Seconds that the steps took, pauses between interruption and resumption left out."""
    taken = [value for value in over_steps(run, "seconds").values() if value is not None and math.isfinite(value)]
    return round(sum(taken), 1) if taken else None


def embedder_of(runs: Sequence[RunFiles]) -> tuple[Embedder, str]:
    """What DQO compared the responses with, if that loads here, and its name; else hashed n-grams, which always do."""
    names = [as_record(run.recipe.get("diversity")).get("embedder") for run in runs]
    name = next((name for name in names if name and isinstance(name, str) and name != "policy"), "ngrams")
    try:
        return load_embedder(name), name
    except CounterpointError:
        return load_embedder("ngrams"), f"ngrams, since {name} does not load here"
