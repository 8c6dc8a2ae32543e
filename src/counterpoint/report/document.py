"""A report as plain values: what the page shows, and what `--json` prints."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from counterpoint.dqo.embed import Embedder, load_embedder
from counterpoint.errors import CounterpointError
from counterpoint.report.charts import Chart
from counterpoint.report.groups import Groups, differences, grouped
from counterpoint.report.headline import Headline, headlines
from counterpoint.report.read import RunFiles, as_record
from counterpoint.report.results import result_charts
from counterpoint.report.samples import sample_sets
from counterpoint.report.training import training_charts
from counterpoint.run import installed_version

Document = dict[str, Any]


def document_of(runs: Sequence[RunFiles]) -> tuple[Document, list[Chart]]:
    """Everything that a report says, and its charts, which the document holds as plain values too."""
    groups = grouped([run for run in runs if run.kind != "evaluation"])
    embedder, embedded_by = embedder_of(runs)
    charts = result_charts(groups, runs, embedder) + training_charts(groups)
    for chart in charts:
        if chart.id == "plane":
            chart.notes.append(f"embedded by {embedded_by}")
    said = headlines(groups, runs)
    document = {
        "title": title_of(groups, runs),
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "counterpoint": installed_version("counterpoint"),
        "headlines": [asdict(headline) for headline in said or [Headline("Nothing has been measured yet.")]],
        "runs": [about(run, groups, runs) for run in runs],
        "groups": list(groups),
        "differences": [{"setting": name, "values": values} for name, values in differences(groups)],
        "charts": [chart_values(chart) for chart in charts],
        "samples": [asdict(found) for found in sample_sets(runs)],
    }
    return document, charts


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
    elsewhere = any(other.evaluation is not None and run.name in other.evaluation.systems for other in runs)
    missing = [line for line in run.missing if not (elsewhere and line.startswith("evaluation.json is missing"))]
    return {
        "name": run.name,
        "group": next((group for group, members in groups.items() if run in members), ""),
        "kind": run.kind,
        "status": run.state,
        "error": str(run.status.get("error") or ""),
        "steps": run.steps,
        "planned": run.planned,
        "seconds": duration(run),
        "command": shlex.join(map(str, run.info.get("command") or [])),
        "seed": run.info.get("seed"),
        "started": run.info.get("started"),
        "versions": as_record(run.info.get("versions")),
        "platform": as_record(run.info.get("platform")),
        "summary": run.summary,
        "missing": missing,
        "recipe": run.recipe_text,
    }


def duration(run: RunFiles) -> float | None:
    """Seconds that the steps took, pauses between interruption and resumption left out."""
    taken = [line["seconds"] for line in run.metrics if isinstance(line.get("seconds"), int | float)]
    return round(sum(taken), 1) if taken else None


def embedder_of(runs: Sequence[RunFiles]) -> tuple[Embedder, str]:
    """What DQO compared the responses with, if that loads here, and its name; else hashed n-grams, which always do."""
    names = [as_record(run.recipe.get("diversity")).get("embedder") for run in runs]
    name = next((name for name in names if name and name != "policy"), "ngrams")
    try:
        return load_embedder(name), name
    except CounterpointError:
        return load_embedder("ngrams"), f"ngrams, since {name} does not load here"
