"""The systems that an evaluation compares: the pair, and what it has to beat.

Each builder returns a `System`, a function from questions to attempts. All are asked with the same settings; where two systems
make the same call they also draw the same random numbers, so that their difference is not noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean

from counterpoint.duet.infer import answer_alone, write_answers, write_signals
from counterpoint.policy.prompting import SIGNAL_CLOSE, Speaker, answer_of, respond
from counterpoint.recipe import Recipe
from counterpoint.rl.data import make_data, seed_for
from counterpoint.rl.types import Completion, Question, SamplingParams, StopReason


@dataclass(frozen=True)
class Call:
    """What one model call took."""

    prompt_tokens: int
    output_tokens: int
    stop: StopReason


@dataclass(frozen=True)
class Attempt:
    """One response to a question, and its price in calls as if it had been asked for alone."""

    signal: str
    """What was thought before the answer, by whichever model; empty where there was none."""
    response: str
    """What the grader sees."""
    capable: tuple[Call, ...] = ()
    """M's calls, in order."""
    light: tuple[Call, ...] = ()
    """m's calls, in order."""
    confidence: float | None = None
    """Mean log-probability in nats of the response's tokens, untempered; None where it was not asked for, or without tokens."""
    fell_back: bool = False
    """Whether a gateway let one model answer for the other, which had failed."""

    @property
    def unfinished(self) -> bool:
        """Whether the answer ran into its token budget."""
        return (self.light or self.capable)[-1].stop == "length"


@dataclass(frozen=True)
class Sampled:
    """What a system said to a batch of questions."""

    attempts: list[list[Attempt]]
    """Per question, `Settings.samples` attempts."""
    signals_cut: int = 0
    """Signals that lost tokens because they did not fit into the answer's prompt."""


@dataclass(frozen=True)
class Settings:
    """How every system is asked."""

    samples: int
    signal: SamplingParams
    answer: SamplingParams
    seed: int

    def seed_of(self, stage: str) -> int:
        """The seed of a call; that of the signal and that of the answer differ."""
        return seed_for(self.seed, stage)


System = Callable[[Sequence[Question], Settings], Sampled]


def settings_of(recipe: Recipe, batch: int) -> Settings:
    """The settings of a recipe for its `batch`-th batch of questions."""
    evaluation = recipe.evaluation
    signal_tokens, answer_tokens = recipe.budgets
    signal = SamplingParams(signal_tokens, evaluation.temperature, evaluation.top_p, evaluation.top_k)
    return Settings(
        samples=evaluation.samples,
        signal=signal,
        answer=replace(signal, max_tokens=answer_tokens),
        seed=seed_for(recipe.run.seed, "evaluation", batch),
    )


def capable_alone(capable: Speaker) -> System:
    """M thinks and answers in one go, with the budgets of signal and answer together.

    A completion that never closed its signal goes to the grader as it stands.
    """

    def system(questions: Sequence[Question], settings: Settings) -> Sampled:
        params = replace(settings.signal, max_tokens=settings.signal.max_tokens + settings.answer.max_tokens)
        completions = answer_alone(capable, questions, settings.samples, params, settings.seed_of("signal"))
        return Sampled([[_alone(completion) for completion in group] for group in completions])

    return system


def light_alone(light: Speaker) -> System:
    """m answers without a signal: unaided."""

    def system(questions: Sequence[Question], settings: Settings) -> Sampled:
        return Sampled([[_unaided(answer) for answer in group] for group in _unaided_answers(light, questions, settings)])

    return system


def light_alone_with_confidence(light: Speaker) -> System:
    """m unaided, as a gateway's `auto` asks it first, and how sure it is of each answer."""

    def system(questions: Sequence[Question], settings: Settings) -> Sampled:
        groups = _unaided_answers(light, questions, settings)
        answers = list(chain.from_iterable(groups))
        logprobs = light.policy.logprobs(make_data(answers, [0.0] * len(answers)), temperature=1.0)
        confidences = iter(fmean(of_tokens) if of_tokens else None for of_tokens in logprobs)
        return Sampled([[replace(_unaided(answer), confidence=next(confidences)) for answer in group] for group in groups])

    return system


def responder(policy: Speaker) -> System:
    """One model in its own way, as DQO trains it; its calls are booked as M's."""

    def system(questions: Sequence[Question], settings: Settings) -> Sampled:
        completions = respond(policy, questions, settings.samples, settings.answer, settings.seed_of("response"))
        return Sampled([[_alone(completion) for completion in group] for group in completions])

    return system


def pair(capable: Speaker, light: Speaker) -> System:
    """M writes `samples` signals a question, m one answer to each: DUET's two stages."""

    def system(questions: Sequence[Question], settings: Settings) -> Sampled:
        return _two_stages(
            capable,
            light,
            questions,
            settings,
            lambda signal, answer: Attempt(signal.text, answer_of(answer.text), (_call(signal),), (_call(answer),)),
        )

    return system


def capable_cut_then_light(capable: Speaker, light: Speaker, budget: int) -> System:
    """The pair with M stopped after `budget` tokens: what cutting alone saves, without training."""
    return _with_signal_budget(pair(capable, light), budget)


def capable_cut_then_answers(capable: Speaker, budget: int) -> System:
    """M, stopped after `budget` tokens of signal, answers from it itself: what M would do if told to hurry.

    Both of M's calls are counted in full, the second prompt too; a server that caches prefixes pays less for it.
    """

    def system(questions: Sequence[Question], settings: Settings) -> Sampled:
        return _two_stages(
            capable,
            capable,
            questions,
            settings,
            lambda signal, answer: Attempt(signal.text, answer_of(answer.text), capable=(_call(signal), _call(answer))),
        )

    return _with_signal_budget(system, budget)


def _two_stages(
    writer: Speaker,
    answerer: Speaker,
    questions: Sequence[Question],
    settings: Settings,
    attempt: Callable[[Completion, Completion], Attempt],
) -> Sampled:
    """Signals by `writer` and one answer to each by `answerer`; `attempt` books a signal and its answer."""
    signals = write_signals(writer, questions, settings.samples, settings.signal, settings.seed_of("signal"))
    texts = [[signal.text for signal in group] for group in signals]
    answers = write_answers(answerer, questions, texts, 1, settings.answer, settings.seed_of("answer"))
    attempts = [
        [attempt(signal, answer) for signal, [answer] in zip(of_signals, of_answers, strict=True)]
        for of_signals, of_answers in zip(signals, answers.completions, strict=True)
    ]
    return Sampled(attempts, answers.signals_cut)


def _with_signal_budget(system: System, budget: int) -> System:
    if budget < 1:
        raise ValueError(f"a signal's budget must be at least one token, got {budget}")

    def with_budget(questions: Sequence[Question], settings: Settings) -> Sampled:
        return system(questions, replace(settings, signal=replace(settings.signal, max_tokens=budget)))

    return with_budget


def mean_signal_length(attempts_Q: Sequence[Sequence[Attempt]]) -> float:
    """Mean length in M's tokens of what M wrote in its first call."""
    lengths = [attempt.capable[0].output_tokens for attempt in chain.from_iterable(attempts_Q)]
    return sum(lengths) / len(lengths)


def _unaided_answers(light: Speaker, questions: Sequence[Question], settings: Settings) -> list[list[Completion]]:
    nothing = [[""] for _ in questions]
    answers = write_answers(light, questions, nothing, settings.samples, settings.answer, settings.seed_of("answer"))
    return [of_question[0] for of_question in answers.completions]


def _unaided(answer: Completion) -> Attempt:
    return Attempt("", answer_of(answer.text), light=(_call(answer),))


def _alone(completion: Completion) -> Attempt:
    signal, _, _ = completion.text.rpartition(SIGNAL_CLOSE)
    return Attempt(signal, answer_of(completion.text), capable=(_call(completion),))


def _call(completion: Completion) -> Call:
    return Call(len(completion.prompt), len(completion.tokens), completion.stop)
