"""The answer first: a sentence, three figures, and how they were measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from counterpoint.evaluate.metrics import Estimate
from counterpoint.evaluate.results import Result
from counterpoint.evaluate.run import REFERENCE, START, TRAINED_PAIR
from counterpoint.report.groups import Groups
from counterpoint.report.measured import (
    Entry,
    Part,
    Table,
    baseline_of,
    is_plain,
    over_seeds,
    share_of_tokens,
    spread,
    tables_of,
)
from counterpoint.report.read import RunFiles
from counterpoint.report.standing import unfinished, unmeasured
from counterpoint.report.text import IN_POINTS, NO_BREAK, PERCENT, PLAIN, Unit, listed

MOST = 4
"""Groups of a table that have a headline of their own."""
Measure = Callable[[Result], Estimate | float | None]


@dataclass(frozen=True)
class Figure:
    """A number in large type, what it is, and what it stands beside."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Headline:
    """What a report says before anything else."""

    sentence: str
    figures: list[Figure] = field(default_factory=list)
    how: list[str] = field(default_factory=list)
    """How the figures were measured, a sentence each."""


def headlines(groups: Groups, runs: Sequence[RunFiles]) -> list[Headline]:
    """What came of DUET, what came of DQO, which runs have not come to an end, and which were not measured."""
    found = [headline for table in tables_of(groups, runs) for headline in measured_once(of_table(table, groups), table)]
    found += [Headline(text) for run in runs if (text := unfinished(run))]
    return found + [Headline(text) for text in unmeasured(runs)]


def measured_once(found: Sequence[Headline], table: Table) -> list[Headline]:
    """The headlines of a table: how they were measured is said with the first, and with others what is not alike."""
    first, *others = found
    also = ["measured otherwise than what stands above, and not taken together with it"] if table.differs else []
    once = [
        replace(first, how=[*first.how, *also]),
        *(replace(other, how=other.how and as_above(first.how, other.how)) for other in others),
    ]
    if not table.differs:
        return once
    return [replace(each, sentence=f"{each.sentence.removesuffix('.')}, measured with {table.differs}.") for each in once]


def as_above(first: Sequence[str], how: Sequence[str]) -> list[str]:
    """How something was measured, as `how_measured` says it, beside how the first of its table was."""
    if list(how) == list(first):
        return ["measured as above"]
    [interval, *notes] = how[2:]
    return ["questions and sampling as above", interval, *(note for note in notes if note not in first)]


def of_table(table: Table, groups: Groups) -> list[Headline]:
    """What is to be said of evaluations that were measured alike: of each group that was trained, or else of every system."""
    if table.of_policies:
        return of_policies(table, groups)
    trained: dict[str, list[Part]] = {}
    for part in table.parts:
        if part.system == TRAINED_PAIR:
            trained.setdefault(part.group or part.name, []).append(part)
    if not trained:
        return [of_systems(table)]
    found = [of_pair(parts, "The pair" if len(trained) == 1 else f"The pair of {name}", table) for name, parts in trained.items()]
    return found[:MOST] + the_rest(list(trained))


def the_rest(names: list[str]) -> list[Headline]:
    """What is said of the groups that are too many for headlines of their own."""
    more = names[MOST:]
    return [Headline(f"{len(more)} more were measured, and are in the charts: {listed(more, 20)}.")] if more else []


def of_pair(parts: Sequence[Part], who: str, table: Table) -> Headline:
    """DUET: M's tokens saved, accuracy kept. One run with intervals over questions, seeds with the range over them."""
    pair, how = Entry(who, list(parts)), how_measured(table, len(parts))
    accuracy, tokens = sure(pair.over_seeds(lambda result: result.accuracy)), sure(pair.tokens())
    figures = [Figure("Accuracy of the pair", PERCENT.whole(accuracy.value), PERCENT.interval(accuracy))]
    shares = [share for part in parts if (share := share_of(part)) is not None]
    lost = pair.over_seeds(lambda result: result.accuracy_difference)
    if not shares or lost is None:
        measured = any(alone_of(part) for part in parts)
        why = "M alone wrote nothing, so there is no share of its tokens" if measured else "M alone was not measured beside it"
        return Headline(
            f"{who} is right {PERCENT.whole(accuracy.value)} of the time, with {PLAIN.whole(tokens.value)} tokens of M an "
            f"answer; {why}.",
            [*figures, Figure("M's tokens an answer", PLAIN.whole(tokens.value), PLAIN.interval(tokens))],
            how,
        )
    against = sum(part.result.accuracy_difference is not None for part in parts)
    if against < len(parts):
        how.append(f"M alone was measured in {against} of {len(parts)} evaluations: what is said against it is of these")
    saved = shares[0] if len(shares) == 1 else spread([share.value for share in shares])
    saved = Estimate(1 - saved.value, 1 - saved.high, 1 - saved.low)
    of_alone = over_seeds([result.capable_output_tokens for part in parts if (result := alone_of(part))])
    beside = f"{PLAIN.whole(tokens.value)} an answer, {PLAIN.whole(of_alone.value)} by M alone" if of_alone else ""
    fewer = f"{PERCENT.whole(saved.value)} fewer" if saved.value >= 0 else f"{PERCENT.whole(-saved.value)} more"
    return Headline(
        f"{who} answers with {fewer} of M's tokens than M alone, and is right {PERCENT.whole(accuracy.value)} of the time: "
        f"{IN_POINTS.whole(lost.value)} against M alone{within_noise(lost, against)}.",
        [
            Figure("M's tokens saved", PERCENT.whole(saved.value), joined(PERCENT.interval(saved), beside)),
            *figures,
            Figure("Against M alone", IN_POINTS.whole(lost.value), IN_POINTS.interval(lost)),
        ],
        how,
    )


def alone_of(part: Part) -> Result | None:
    """M alone in the evaluation that a pair is of."""
    return part.run.evaluation.systems.get(REFERENCE) if part.run.evaluation else None


def share_of(part: Part) -> Estimate | None:
    """M's tokens over those of M alone: from the samples with an interval, or else as the evaluation says."""
    if (share := share_of_tokens(part.run.evaluation_samples)) is not None:
        return share
    share = part.result.token_share
    return None if share is None else Estimate(share, share, share)


def of_policies(table: Table, groups: Groups) -> list[Headline]:
    """DQO: different correct answers and quality of each group with a diversity term, beside the baseline.

    Without a group of theirs, as in the folder of an evaluation alone, of each system but the start.
    """
    entries = table.entries
    known = [entry for entry in entries if entry.name in groups]
    shaped = [entry for entry in known if not is_plain(groups[entry.name])]
    subjects = shaped or known or [entry for entry in entries if entry.name != START]
    if not subjects:
        return [of_systems(table)]
    baseline = baseline_of(groups, entries)
    found = [of_policy(entry, baseline if baseline is not entry else entry_of(entries, START), table) for entry in subjects]
    return found[:MOST] + the_rest([entry.name for entry in subjects])


def entry_of(entries: Sequence[Entry], name: str) -> Entry | None:
    return next((entry for entry in entries if entry.name == name), None)


def of_policy(subject: Entry, baseline: Entry | None, table: Table) -> Headline:
    """A policy, and what it is compared with."""
    samples = table.first.samples
    k = max((k for part in subject.parts for k in part.result.pass_at), default=1)
    counted = subject.over_seeds(different) is not None
    variety, unit = (different, f"different right answers in {samples}") if counted else (vendi, "Vendi score")
    found, reward = subject.over_seeds(variety), sure(subject.over_seeds(quality))
    figures = []
    if found is not None:
        label = unit[0].upper() + unit[1:]
        figures.append(Figure(label, PLAIN.whole(found.value), beside(baseline, variety, PLAIN, found)))
    figures.append(Figure("Mean reward", PERCENT.whole(reward.value), beside(baseline, quality, PERCENT, reward)))
    at_k = subject.over_seeds(lambda result: result.pass_at.get(k))
    if at_k is not None and k > 1:
        figures.append(
            Figure(f"pass@{k}", PERCENT.whole(at_k.value), beside(baseline, lambda result: result.pass_at.get(k), PERCENT, at_k))
        )
    what = f"{PLAIN.whole(found.value)} {unit}" if found is not None else "no measure of diversity"
    against = ""
    if baseline is not None and found is not None:
        its, its_quality = baseline.over_seeds(variety), baseline.over_seeds(quality)
        if its is not None and its_quality is not None:
            against = f"; {baseline.name} has {PLAIN.whole(its.value)} at {PERCENT.whole(its_quality.value)}"
    return Headline(
        f"{subject.name} has {what} at a mean reward of {PERCENT.whole(reward.value)}{against}.",
        figures,
        how_measured(table, len(subject.parts)),
    )


def quality(result: Result) -> Estimate:
    return result.accuracy


def different(result: Result) -> Estimate | None:
    return result.diversity.get("different_correct")


def vendi(result: Result) -> Estimate | None:
    return result.diversity.get("vendi_score")


def beside(baseline: Entry | None, measure: Measure, unit: Unit, own: Estimate) -> str:
    """The interval of a figure, and the same measure of the baseline with its own."""
    other = baseline.over_seeds(measure) if baseline else None
    return joined(unit.interval(own), f"{baseline.name}: {unit.with_interval(other)}" if baseline and other else "")


def of_systems(table: Table) -> Headline:
    """An evaluation in which nothing was trained, or nothing that is known here: what each system is."""
    entries, each = table.entries, []
    what = "has a mean reward of" if table.of_policies else "is right"
    for entry in entries[:MOST]:
        accuracy, tokens = sure(entry.over_seeds(quality)), sure(entry.tokens())
        spent = "" if table.of_policies else f" of the time, with {PLAIN.whole(tokens.value)} tokens of M an answer"
        each.append(f"{entry.name} {what} {PERCENT.whole(accuracy.value)}{spent}")
    more = f"; {len(entries) - MOST} more are in the chart" if len(entries) > MOST else ""
    figures = []
    for entry in entries[:3]:
        accuracy = sure(entry.over_seeds(quality))
        figures.append(Figure(entry.name, PERCENT.whole(accuracy.value), PERCENT.interval(accuracy)))
    seeds = max(len(entry.parts) for entry in entries)
    return Headline(f"{'; '.join(each)}{more}.", figures, how_measured(table, seeds))


def sure(estimate: Estimate | None) -> Estimate:
    """What every result has."""
    assert estimate is not None
    return estimate


def how_measured(table: Table, seeds: int) -> list[str]:
    """On what, how often, how sampled, what the intervals are, and what was left out."""
    first = table.first
    sampled = f"temperature {first.temperature:g}, top-p {first.top_p:g}, top-k {first.top_k or 'off'}"
    interval = (
        f"figures are medians over {seeds} evaluations, ranges from the lowest to the highest"
        if seeds > 1
        else f"intervals are 95{NO_BREAK}%, by bootstrap over questions"
    )
    asked = (
        f"{first.task}, {first.questions:,} questions that were not trained on × {first.samples} samples each, every system "
        "asked the same way"
    )
    return [asked, sampled, interval, *table.notes]


def within_noise(difference: Estimate, evaluations: int) -> str:
    """Says where one evaluation cannot tell a difference from none."""
    return ", within the noise" if evaluations == 1 and difference.low <= 0 <= difference.high else ""


def joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
