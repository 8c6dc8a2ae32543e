"""Charts of what evaluations measured: quality against tokens or diversity, pass@k, lengths of signals, responses in a plane."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from counterpoint.dqo.embed import Embedder
from counterpoint.evaluate.metrics import Estimate, estimate_of, pass_at_k_Q
from counterpoint.evaluate.run import BEFORE, REFERENCE, TRAINED_PAIR
from counterpoint.report.charts import Chart, line_spec, plane_spec, point_spec, staircase_spec
from counterpoint.report.groups import Groups
from counterpoint.report.measured import Entry, Part, Table, has_trained_pair, over_seeds, tables_of
from counterpoint.report.palette import Series, of_systems
from counterpoint.report.read import RunFiles
from counterpoint.report.records import Record
from counterpoint.report.series import Columns, of_how_many, rounded, stacked
from counterpoint.report.text import NO_BREAK, cut

BINS = 30
QUESTIONS = 24
"""Questions whose responses are shown in the plane."""
LABEL = 400
"""Characters of a response that are shown beside its point."""
ASKED = 160
"""Characters of a question by which it is chosen."""


def result_charts(groups: Groups, runs: Sequence[RunFiles], embedder: Embedder) -> list[Chart]:
    """What there is to draw of the evaluations of `runs`. What was measured differently is in charts of its own, which say so."""
    tables = tables_of(groups, runs)
    kinds = {group: its[0].kind for group, its in groups.items()}
    styles = of_systems([part.name for table in tables for part in table.parts], kinds)
    charts: list[Chart] = []
    for table in tables:
        alike = [other for other in tables if other.of_policies == table.of_policies]
        for chart in charts_of(table, styles, embedder):
            taken = sum(other.id.partition("-")[0] == chart.id for other in charts)
            named = replace(chart, id=f"{chart.id}-{taken + 1}") if taken else chart
            if table.differs:
                named = replace(named, title=f"{named.title}: measured with {table.differs}")
            charts.append(replace(named, notes=[*named.notes, *([table.words] if len(alike) > 1 else [])]))
    return charts


def charts_of(table: Table, styles: Mapping[str, Series], embedder: Embedder) -> list[Chart]:
    """The charts of evaluations that were measured alike."""
    charts: list[Chart | None] = []
    entries = table.entries
    if table.of_policies:
        counted = any("different_correct" in part.result.diversity for part in table.parts)
        measure = "different_correct" if counted else "vendi_score"
        across = f"different right answers in {table.first.samples} samples" if counted else "Vendi score"
        charts.append(
            quality_chart(
                "by_diversity", entries, styles, "Quality against diversity", across, "mean reward",
                lambda entry: entry.over_seeds(lambda result: result.diversity.get(measure)),
            )
        )  # fmt: skip
    else:
        charts.append(
            quality_chart(
                "by_tokens",
                entries,
                styles,
                "Accuracy against M's tokens",
                "M's output tokens an answer",
                "accuracy",
                Entry.tokens,
            )
        )
        charts.append(lengths_chart(table.parts, styles))
    charts.append(pass_chart(table.parts, styles))
    if table.of_policies:
        charts.append(plane_chart(table.parts, styles, embedder))
    return [chart for chart in charts if chart]


def quality_chart(
    id: str,
    systems: Sequence[Entry],
    styles: Mapping[str, Series],
    title: str,
    x_title: str,
    y_title: str,
    across: Callable[[Entry], Estimate | None],
) -> Chart | None:
    """Each system a point with its intervals; None where none has both measures."""
    columns: Columns = {name: [] for name in ("series", "x", "y", "x_low", "x_high", "y_low", "y_high")}
    for system in systems:
        x, y = across(system), system.over_seeds(lambda result: result.accuracy)
        if x is None or y is None:
            continue
        row = (system.name, x.value, y.value, x.low, x.high, y.low, y.high)
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
    series = [styles[system.name] for system in systems if system.name in columns["series"]]
    if not series:
        return None
    counts = {system.name: len(system.parts) for system in systems if system.name in columns["series"]}
    return Chart(
        id=id, section="result", title=title, what=f"{title}, a point a system: {', '.join(columns['series'])}",
        series=series, columns=rounded(columns),
        spec=point_spec(x_title, y_title, series, percent=True, zero=id == "by_tokens"),
        x="x", lines=False, notes=of_what(counts, "interval"),
    )  # fmt: skip


def of_what(counts: Mapping[str, int], drawn: str) -> list[str]:
    """Of how many evaluations each point or line is, and what the interval or band of one is."""
    if set(counts.values()) == {1}:
        return [f"with 95{NO_BREAK}% {drawn}s over questions"]
    single = [f"the {drawn} of one is 95{NO_BREAK}% over questions"] if 1 in counts.values() else []
    return [*of_how_many(counts, "evaluation"), *single]


def lengths_chart(parts: Sequence[Part], styles: Mapping[str, Series]) -> Chart | None:
    """How long M's signals were before training and after; of the seeds of a group all signals together."""
    lengths: dict[str, list[int]] = {}
    for part in parts:
        if part.system in (BEFORE, TRAINED_PAIR) and (its := signal_lengths(part.run.evaluation_samples, part.system)):
            lengths.setdefault(part.name, []).extend(its)
    if not lengths:
        return None
    longest = max(map(max, lengths.values()))
    width = max(1, math.ceil((longest + 1) / BINS))
    edges = np.arange(0, longest + 2 * width, width)
    tables = []
    for name, its in lengths.items():
        share = [*(np.histogram(its, edges)[0] / len(its)).tolist(), 0.0]
        tables.append({"series": [name] * len(edges), "tokens": edges.tolist(), "value": share, "low": share, "high": share})
    series, columns = [styles[name] for name in lengths], stacked(tables)
    bins = f"bins of {width} tokens" if width > 1 else "one bin a token"
    counts = {name: len(its) for name, its in lengths.items()}
    of_each = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    counted = f"signals: {of_each}" if len(set(counts.values())) > 1 else f"{next(iter(counts.values())):,} signals each"
    return Chart(
        id="lengths", section="result", title="Lengths of the signals",
        what="Share of signals by length, before training and after",
        series=series, columns=columns, spec=staircase_spec("tokens", "tokens of a signal", "share of signals", series, columns),
        x="tokens", lines=True, notes=[counted, bins],
    )  # fmt: skip


def signal_lengths(samples: Sequence[Record], system: str) -> list[int]:
    return [
        row["capable_output_tokens"]
        for row in samples
        if row["system"] == system and isinstance(row.get("capable_output_tokens"), int)
    ]


def pass_chart(parts: Sequence[Part], styles: Mapping[str, Series]) -> Chart | None:
    """pass@k for every k up to the number of samples; of a pair without the baselines that are there for its tokens."""
    curves: dict[str, list[dict[int, Estimate]]] = {}
    between = False  # rewards of answers that are neither right nor wrong
    for part in parts:
        if has_trained_pair([part.run]) and part.system not in (TRAINED_PAIR, BEFORE, REFERENCE):
            continue
        rewards: dict[str, list[float]] = {}
        for row in part.run.evaluation_samples:
            if row["system"] == part.system and row.get("correct") is not None:
                rewards.setdefault(row["question"], []).append(float(row["correct"]))
        between = between or any(0 < reward < 1 for its in rewards.values() for reward in its)
        samples = min(map(len, rewards.values()), default=0)
        if samples > 2:
            curve = {k: estimate_of(pass_at_k_Q(list(rewards.values()), k)) for k in range(1, samples + 1)}
            curves.setdefault(part.name, []).append(curve)
    if not curves:
        return None
    tables = []
    for name, its in curves.items():
        ks = sorted(its[0])
        estimates = [estimate for k in ks if (estimate := over_seeds([curve.get(k) for curve in its]))]
        tables.append(
            {
                "series": [name] * len(ks), "k": ks, "value": [e.value for e in estimates],
                "low": [e.low for e in estimates], "high": [e.high for e in estimates],
            }
        )  # fmt: skip
    series, columns = [styles[name] for name in curves], rounded(stacked(tables))
    counts = {name: len(its) for name, its in curves.items()}
    what = "the mean of the best reward in k samples" if between else "at least one of k samples is right"
    return Chart(
        id="pass_at_k", section="result", title=f"pass@k: {what}",
        what=f"pass@k over k: {', '.join(curves)}", series=series, columns=columns,
        spec=line_spec("k", "k", "pass@k", series, columns, percent=True), x="k", lines=True,
        notes=["unbiased estimate", *of_what(counts, "band")],
    )  # fmt: skip


def plane_chart(parts: Sequence[Part], styles: Mapping[str, Series], embedder: Embedder) -> Chart | None:
    """The responses to a question as points, by the first two principal components of their embeddings.

    Of seeds the first is shown. A text is cut to what can be read beside a point.
    """
    first: dict[str, Part] = {}
    for part in parts:
        first.setdefault(part.name, part)
    said: dict[str, dict[str, list[Record]]] = {}
    for name, part in first.items():
        for row in part.run.evaluation_samples:
            if row["system"] == part.system:
                said.setdefault(row["question"], {}).setdefault(name, []).append(row)
    questions = list(said)[:QUESTIONS]
    if not questions:
        return None
    asked = labels({question: said[question] for question in questions})
    columns: Columns = {name: [] for name in ("question", "series", "x", "y", "response", "reward", "right", "times")}
    for question in questions:
        texts = list(dict.fromkeys(row["response"] for rows in said[question].values() for row in rows))
        places = dict(zip(texts, principal_components(embedder(texts).vectors).tolist(), strict=True))
        for name, rows in said[question].items():
            for text, its in by_response(rows).items():
                x, y = places[text]
                values = (asked[question], name, x, y, cut(text, LABEL), its[0], its[0] == 1, len(its))
                for column, value in zip(columns, values, strict=True):
                    columns[column].append(value)
    series = [styles[name] for name in first if name in columns["series"]]
    seeds = ["the first seed of each"] if len(parts) > len(first) else []
    return Chart(
        id="plane", section="answers", title="The responses to a question, in a plane",
        what="Responses by the principal components of their embeddings; filled where right, larger where several are the same",
        series=series, columns=rounded(columns), spec=plane_spec(series), x="x", lines=False, choose="question",
        notes=["filled: right", "larger: the same response several times", f"the first {len(questions)} questions", *seeds],
    )  # fmt: skip


def labels(said: Mapping[str, Mapping[str, Sequence[Record]]]) -> dict[str, str]:
    """What each question is called: what it asks, on one line, with its id where another begins alike."""
    texts = {
        question: next((text for rows in systems.values() for row in rows if (text := row.get("text"))), question)
        for question, systems in said.items()
    }
    short = {question: cut(" ".join(str(text).split()), ASKED) for question, text in texts.items()}
    return {
        question: text if sum(other == text for other in short.values()) == 1 else f"{text} ({question})"
        for question, text in short.items()
    }


def by_response(rows: Sequence[Record]) -> dict[str, list[float | None]]:
    """The rewards of each text."""
    found: dict[str, list[float | None]] = {}
    for row in rows:
        found.setdefault(row["response"], []).append(row.get("correct"))
    return found


def principal_components(vectors_N_D: torch.Tensor) -> torch.Tensor:
    """The first two principal components [N, 2] of embeddings [N, D], each with the sign that makes its largest entry
    positive."""
    centred = vectors_N_D.double() - vectors_N_D.double().mean(dim=0)
    left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    scores = torch.zeros(len(centred), 2, dtype=torch.float64)
    count = min(2, len(singular))
    scores[:, :count] = left[:, :count] * singular[:count]
    largest = scores.abs().argmax(dim=0)
    signs = scores[largest, torch.arange(2)].sign()
    return scores * torch.where(signs == 0, 1.0, signs)
