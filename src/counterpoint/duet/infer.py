"""Two-stage inference: M writes a signal, m answers with it. Training, evaluation and serving all go through here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from counterpoint.policy.conversation import Conversation
from counterpoint.policy.prompting import SIGNAL_CLOSE, Speaker
from counterpoint.rl.types import Completion, SamplingParams


class Asked(Protocol):
    """A task's question, or a conversation with someone."""

    @property
    def id(self) -> str: ...

    @property
    def text(self) -> Conversation: ...


@dataclass(frozen=True)
class Answers:
    """What m said: `completions[q][i]` are the answers to question q with its signal i."""

    completions: list[list[list[Completion]]]
    signals_cut: int
    """Signals that lost tokens because the prompt was too long."""


def write_signals(
    capable: Speaker, questions: Sequence[Asked], n: int, params: SamplingParams, seed: int
) -> list[list[Completion]]:
    """`n` signals a question, each ended by the closing tag, the end of sequence or the budget, whichever is first."""
    prompts = [capable.renderer.signal_prompt(q.text, params.max_tokens, q.id) for q in questions]
    return capable.policy.sample(prompts, n, stopping_at(params, SIGNAL_CLOSE), seed)


def write_answers(
    light: Speaker,
    questions: Sequence[Asked],
    signals: Sequence[Sequence[str]],
    n: int,
    params: SamplingParams,
    seed: int,
) -> Answers:
    """`n` answers to each question with each of its signals; an empty signal asks unaided."""
    prompts = [
        light.renderer.answer_prompt(question.text, signal, params.max_tokens, question.id)
        for question, its_signals in zip(questions, signals, strict=True)
        for signal in its_signals
    ]
    sampled = iter(light.policy.sample([prompt.tokens for prompt in prompts], n, params, seed))
    completions = [[next(sampled) for _ in its_signals] for its_signals in signals]
    return Answers(completions, signals_cut=sum(prompt.signal_tokens_cut > 0 for prompt in prompts))


def answer_alone(model: Speaker, questions: Sequence[Asked], n: int, params: SamplingParams, seed: int) -> list[list[Completion]]:
    """One model thinks and answers in one go, as M does without m; `answer_of` finds the answer in the text."""
    prompts = [model.renderer.signal_prompt(q.text, params.max_tokens, q.id) for q in questions]
    return model.policy.sample(prompts, n, params, seed)


def stopping_at(params: SamplingParams, stop: str) -> SamplingParams:
    """`params` that also stop at `stop`."""
    return replace(params, stop=(*params.stop, stop))
