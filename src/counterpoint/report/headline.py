"""The answer first: a sentence, three figures, and how they were measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from counterpoint.evaluate.metrics import Estimate
from counterpoint.evaluate.results import Evaluation, Result
from counterpoint.evaluate.run import REFERENCE, TRAINED_PAIR
from counterpoint.report.groups import Groups
from counterpoint.report.measured import Measured, baseline_of, evaluations_of, pairs_of, share_of_tokens, spread, systems_of
from counterpoint.report.read import RunFiles


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
    """What came of DUET, what came of DQO, and which runs have not come to an end."""
    systems = systems_of(groups, runs)
    pairs = {name: [run for run in members if has_pair(run)] for name, members in pairs_of(groups, runs).items()}
    pairs = {name: members for name, members in pairs.items() if members}
    found = [of_pairs(members, "The pair" if len(pairs) == 1 else f"The pair of {name}") for name, members in pairs.items()]
    policies = of_policies(groups, systems, runs)
    found += [policies] if policies else []
    found += [Headline(text) for run in runs if (text := unfinished(run))]
    return found if found else [Headline(text) for text in unmeasured(runs)]


def has_pair(run: RunFiles) -> bool:
    """Whether a trained pair was measured."""
    return run.evaluation is not None and TRAINED_PAIR in run.evaluation.systems


def of_pairs(runs: Sequence[RunFiles], who: str) -> Headline:
    """DUET: M's tokens saved, accuracy kept. One run with intervals over questions, seeds with the range over them."""
    evaluations = evaluations_of(runs)
    pairs = [evaluation.systems[TRAINED_PAIR] for evaluation in evaluations]
    pair, alone = (
        Measured(TRAINED_PAIR, pairs),
        Measured(REFERENCE, [e.systems[REFERENCE] for e in evaluations if REFERENCE in e.systems]),
    )
    accuracy = pair.over_seeds(lambda result: result.accuracy)
    tokens = pair.over_seeds(lambda result: result.capable_output_tokens)
    assert accuracy is not None
    assert tokens is not None
    figures = [Figure("Accuracy of the pair", percent(accuracy.value), between(accuracy, percent))]
    shares = [share for run in runs if (share := share_of(run)) is not None]
    lost = pair.over_seeds(lambda result: result.accuracy_difference)
    if not shares or lost is None:
        sentence = f"{who} is right {percent(accuracy.value)} of the time, with {tokens.value:.1f} tokens of M an answer."
        return Headline(sentence, [*figures, Figure("M's tokens an answer", f"{tokens.value:.1f}")], how_measured(evaluations))
    saved = shares[0] if len(shares) == 1 else spread([share.value for share in shares])
    saved = Estimate(1 - saved.value, 1 - saved.high, 1 - saved.low)
    of_alone = alone.over_seeds(lambda result: result.capable_output_tokens)
    beside = f"{tokens.value:.1f} an answer, {of_alone.value:.1f} by M alone" if of_alone else ""
    fewer = f"{percent(saved.value)} fewer" if saved.value >= 0 else f"{percent(-saved.value)} more"
    return Headline(
        f"{who} answers with {fewer} of M's tokens than M alone, and is right {percent(accuracy.value)} of the time: "
        f"{points(lost.value)} against M alone{within_noise(lost, len(evaluations))}.",
        [
            Figure("M's tokens saved", percent(saved.value), joined(beside, between(saved, percent))),
            *figures,
            Figure("Against M alone", points(lost.value), between(lost, points)),
        ],
        how_measured(evaluations),
    )


def share_of(run: RunFiles) -> Estimate | None:
    """M's tokens over those of M alone: from the samples with an interval, or else as the evaluation says."""
    if (share := share_of_tokens(run.evaluation_samples)) is not None:
        return share
    share = run.evaluation.systems[TRAINED_PAIR].token_share if run.evaluation else None
    return None if share is None else Estimate(share, share, share)


def of_policies(groups: Groups, systems: Sequence[Measured], runs: Sequence[RunFiles]) -> Headline | None:
    """DQO: different correct answers and quality, of the first group with a diversity term, beside the baseline."""
    by_name = {system.name: system for system in systems}
    trained = [name for name, members in groups.items() if members[0].kind == "dqo" and name in by_name]
    if not trained:
        return None
    shaped = [name for name in trained if groups[name][0].recipe.get("diversity", {}).get("shaper") != "none"]
    subject, baseline = by_name[(shaped or trained)[0]], baseline_of(groups, systems)
    if baseline is not None and baseline.name == subject.name:
        baseline = None
    evaluations = [e for e in evaluations_of(runs) if any(run.name in e.systems for run in groups[subject.name])]
    samples = evaluations[0].samples
    k = max((k for result in subject.results for k in result.pass_at), default=1)

    def different(result: Result) -> Estimate | None:
        return result.diversity.get("different_correct")

    counted = subject.over_seeds(different) is not None
    variety, unit = (different, f"different right answers in {samples}") if counted else (vendi, "Vendi score")
    found, reward = subject.over_seeds(variety), subject.over_seeds(lambda result: result.accuracy)
    assert reward is not None
    figures = []
    if found is not None:
        figures.append(
            Figure(unit[0].upper() + unit[1:], f"{found.value:.1f}", beside(baseline, variety, "{:.1f}".format, found))
        )
    figures.append(Figure("Mean reward", percent(reward.value), beside(baseline, lambda r: r.accuracy, percent, reward)))
    at_k = subject.over_seeds(lambda result: result.pass_at.get(k))
    if at_k is not None and k > 1:
        figures.append(Figure(f"pass@{k}", percent(at_k.value), beside(baseline, lambda r: r.pass_at.get(k), percent, at_k)))
    what = f"{found.value:.1f} {unit}" if found is not None else "no measure of diversity"
    against = ""
    if baseline is not None and found is not None:
        its, quality = baseline.over_seeds(variety), baseline.over_seeds(lambda result: result.accuracy)
        if its is not None and quality is not None:
            against = f"; {baseline.name} has {its.value:.1f} at {percent(quality.value)}"
    return Headline(
        f"{subject.name} has {what} at a mean reward of {percent(reward.value)}{against}.", figures, how_measured(evaluations)
    )


def vendi(result: Result) -> Estimate | None:
    return result.diversity.get("vendi_score")


def beside(baseline: Measured | None, measure, format, own: Estimate) -> str:
    """The interval of a figure, and the same measure of the baseline."""
    other = baseline.over_seeds(measure) if baseline else None
    return joined(f"{baseline.name}: {format(other.value)}" if baseline and other else "", between(own, format))


def unfinished(run: RunFiles) -> str:
    """A sentence about a run that has not come to its end; empty for one that has."""
    so_far, of = quality_so_far(run), f" of {run.planned}" if run.planned else ""
    again = f"It goes on with: counterpoint resume {run.directory}"
    if run.state == "failed":
        why = run.status.get("error") or "the reason was not written down"
        return f"{run.name} failed after step {run.steps}{of}: {why}"
    if run.state == "died":
        return f"{run.name} died after step {run.steps}{of}: its process is gone and left no error.{so_far} {again}"
    if run.state == "running":
        return f"{run.name} is at step {run.steps}{of}.{so_far}"
    if run.state == "stopped":
        return f"{run.name} was stopped after step {run.steps}{of}.{so_far} {again}"
    return ""


def unmeasured(runs: Sequence[RunFiles]) -> list[str]:
    """What there is to say of runs that have ended, where none was evaluated: a sentence, however many they are."""
    ended = [run for run in runs if run.kind in ("duet", "dqo")]
    if not ended:
        return []
    if len(ended) == 1:
        [run] = ended
        return [
            f"{run.name} has ended and is not evaluated yet.{quality_so_far(run)} Do it with: counterpoint eval {run.directory}"
        ]
    names = ", ".join(run.name for run in ended[:3]) + (f" and {len(ended) - 3} more" if len(ended) > 3 else "")
    return [f"{names} have ended and are not evaluated yet. Do it with: counterpoint eval {ended[0].directory}"]


def quality_so_far(run: RunFiles) -> str:
    """How good a run was in its last step, in words; empty where it did not say."""
    last = run.metrics[-1] if run.metrics else {}
    for name, words in QUALITY.items():
        if isinstance(value := last.get(name), int | float):
            return f" In step {run.steps} {words} was {percent(value)}."
    return ""


QUALITY = {"aided_accuracy": "aided accuracy", "reward": "the mean reward", "accuracy": "accuracy"}
"""Fields of metrics.jsonl that say how good a run is, and what they are called."""


def how_measured(evaluations: Sequence[Evaluation]) -> list[str]:
    """On what, how often, how sampled, and what the intervals are."""
    first = evaluations[0]
    sampled = f"temperature {first.temperature:g}, top-p {first.top_p:g}, top-k {first.top_k or 'off'}"
    interval = (
        f"figures are medians over {len(evaluations)} evaluations, ranges from the lowest to the highest"
        if len(evaluations) > 1
        else "intervals are 95 %, by bootstrap over questions"
    )
    return [
        f"{first.task}, {first.questions} questions that were not trained on × {first.samples} samples each, "
        "every system asked the same way",
        sampled,
        interval,
    ]


def percent(value: float) -> str:
    return f"{100 * value:.1f} %".replace("-", "−")


def points(value: float) -> str:
    """A difference of shares, with its sign."""
    return f"{100 * value:+.1f} points".replace("-", "−")


def between(estimate: Estimate, format) -> str:
    """An interval in words; nothing where it has no width."""
    return f"{format(estimate.low)} to {format(estimate.high)}" if estimate.low < estimate.high else ""


def within_noise(difference: Estimate, evaluations: int) -> str:
    """Says where one evaluation cannot tell a difference from none."""
    return ", within the noise" if evaluations == 1 and difference.low <= 0 <= difference.high else ""


def joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
