"""An evaluation as a table in the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table

from counterpoint.evaluate.auto import LEAST_SHARE, Auto
from counterpoint.evaluate.metrics import Estimate
from counterpoint.evaluate.results import Evaluation

DIVERSITY_COLUMNS = {
    "different_correct": "different\nright in {n}",
    "mean_pairwise_distance": "mean\ndistance",
    "vendi_score": "Vendi\nscore",
    "log_det": "log\ndet",
}
"""What of the measures of diversity has room in a table."""


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
        + (f"; {skipped} responses could not be graded" if skipped else "")
        + counts_of(evaluation, "fallbacks", "in {} responses another model stood in for one that failed")
        + counts_of(evaluation, "embeddings_truncated", "{} responses were compared without their ends, which the embedder cut"),
        style="dim",
        highlight=False,
    )
    if evaluation.auto:
        console.print(auto_line(evaluation.auto), style="dim", highlight=False)


def counts_of(evaluation: Evaluation, name: str, said: str) -> str:
    """How often something that a reader must know happened, in all and by system; nothing if never."""
    counts = {system: getattr(result, name) for system, result in evaluation.systems.items() if getattr(result, name)}
    each = ", ".join(f"{system} {count}" for system, count in counts.items())
    return f"; {said.format(sum(counts.values()))} ({each})" if counts else ""


def auto_line(auto: Auto) -> str:
    """What a gateway's policy `auto` would do."""
    lost = f"{100 * auto.tolerance:g} points"
    if auto.threshold is None:
        return (
            f"auto: m alone answers 0 % of the questions: it could answer fewer than {100 * LEAST_SHARE:g} % of them with no "
            f"more than {lost} lost to the pair's accuracy; `counterpoint serve` does not offer auto"
        )
    return (
        f"auto: m alone answers {100 * auto.share_light:.0f} % of the questions, those where it is sure, and the pair the rest: "
        f"accuracy {_percent(auto.accuracy)} %, {_percent(auto.accuracy_difference, '+')} points to the pair's, with "
        f"{auto.capable_output_tokens:.1f} of M's tokens. Measured on half of the questions; the threshold, "
        f"{_typeset(f'{auto.threshold:.4g}')} nats a token, was set on the other half to lose at most {lost}"
    )


def print_diversity(evaluation: Evaluation, console: Console) -> None:
    """Quality beside diversity, a row a system; all of the measures with their intervals are in evaluation.json."""
    results = list(evaluation.systems.values())
    k = max((k for result in results for k in result.pass_at), default=None)
    table = Table("system", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    columns = {"reward\n%": [_percent(result.accuracy) for result in results]}
    if k is not None and k > 1:
        columns[f"pass@{k}\n%"] = [_percent(result.pass_at.get(k)) for result in results]
    for name, title in DIVERSITY_COLUMNS.items():
        estimates = [result.diversity.get(name) for result in results]
        if not any(estimates):
            continue
        columns[title.format(n=evaluation.samples)] = ["–" if e is None else f"{e.value:.2f} ± {_half(e):.2f}" for e in estimates]
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for row in zip(evaluation.systems, *columns.values(), strict=True):
        table.add_row(*row)
    console.print(table)
    console.print(
        f"{evaluation.task}: {evaluation.questions} questions × {evaluation.samples} samples at temperature "
        f"{evaluation.temperature:g}; ± is half a 95 % interval over questions",
        style="dim",
        highlight=False,
    )


def _percent(estimate: Estimate | None, sign: str = "") -> str:
    """A share in percent with half the width of its interval."""
    if estimate is None:
        return "–"
    return f"{_typeset(f'{100 * estimate.value:{sign}.1f}')} ± {100 * _half(estimate):.1f}"


def _typeset(number: str) -> str:
    """With a minus sign instead of a hyphen."""
    return number.replace("-", "−")


def _half(estimate: Estimate) -> float:
    """Half the width of an interval."""
    return (estimate.high - estimate.low) / 2


def _percent_alone(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{100 * estimate.value:.1f}"


def _engineering(number: float) -> str:
    """A number with three digits and a prefix."""
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    while number >= 999.5 and len(prefixes) > 1:
        number, prefixes = number / 1000, prefixes[1:]
    return f"{number:.3g} {prefixes[0]}".rstrip()
