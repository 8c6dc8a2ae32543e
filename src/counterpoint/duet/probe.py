"""What a pair says to the same few test questions while it trains, so that M's signals can be laid side by side."""

from itertools import islice
from typing import Any

from counterpoint.duet.infer import write_answers, write_signals
from counterpoint.policy.prompting import Speaker, answer_of
from counterpoint.recipe import DuetRecipe
from counterpoint.rl.data import seed_for
from counterpoint.rl.types import Question, SamplingParams
from counterpoint.tasks.base import Task
from counterpoint.tasks.graders import grade_all

QUESTIONS = 8


def probe(capable: Speaker, light: Speaker, task: Task, recipe: DuetRecipe) -> list[dict[str, Any]]:
    """A row a question, with one signal, an answer to it and one without: sampled as in evaluation, graded, for probes.jsonl.

    The seeds are the run's and not a step's, so that what changes from probe to probe is what was learned; the two answers to a
    question draw the same random numbers, so that they differ by the signal. The reward of an answer that could not be graded,
    and was to be skipped, is None. Without test questions that fit into both models there are no rows.

    Raises `GraderError` as a step does.
    """
    asked = task.evaluated_questions(recipe.evaluation.questions)
    questions = list(islice((question for question in asked if fits(question, capable, light, recipe)), QUESTIONS))
    if not questions:
        return []
    duet, served, seed = recipe.duet, recipe.evaluation, recipe.run.seed
    signal_params = SamplingParams(duet.max_signal_tokens, served.temperature, served.top_p, served.top_k)
    answer_params = SamplingParams(duet.max_answer_tokens, served.temperature, served.top_p, served.top_k)
    signals = [signal for [signal] in write_signals(capable, questions, 1, signal_params, seed_for(seed, "probed signals"))]

    def answers_to(texts: list[str]) -> list[str]:
        answers = write_answers(light, questions, [[text] for text in texts], 1, answer_params, seed_for(seed, "probed answers"))
        return [answer_of(answer.text) for [[answer]] in answers.completions]

    aided, unaided = answers_to([signal.text for signal in signals]), answers_to([""] * len(questions))
    rewards = grade_all(task.grade, questions * 2, aided + unaided, recipe.task.on_grader_error)
    return [
        {
            "question": question.id,
            "text": question.text,
            "reference": question.answer,
            "signal": signals[i].text,
            "signal_tokens": len(signals[i].tokens),
            "aided": aided[i],
            "aided_reward": rewards[i],
            "unaided": unaided[i],
            "unaided_reward": rewards[i + len(questions)],
        }
        for i, question in enumerate(questions)
    ]


def fits(question: Question, capable: Speaker, light: Speaker, recipe: DuetRecipe) -> bool:
    """Whether both models have room for a question: training checks its own questions, and must not end for one of these."""
    signal_room, answer_room = capable.renderer.room(question.text), light.renderer.room(question.text, "")
    return signal_room >= recipe.duet.max_signal_tokens and answer_room >= recipe.duet.max_answer_tokens
