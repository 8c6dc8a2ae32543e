"""The systems: who is asked what, with which budget, and that each token is booked once to whom it belongs."""

from dataclasses import replace

import pytest

from counterpoint.evaluate.baselines import (
    Attempt,
    Call,
    Settings,
    capable_alone,
    capable_cut_then_answers,
    capable_cut_then_light,
    light_alone,
    mean_signal_length,
    pair,
    settings_of,
)
from counterpoint.policy.prompting import Speaker
from counterpoint.rl.types import SamplingParams
from fakes import FakePolicy

SETTINGS = Settings(samples=3, signal=SamplingParams(9, 1.0), answer=SamplingParams(4, 1.0), seed=5)


def booked(sampled, role):
    """Prompt and output tokens that the attempts have of a role."""
    calls = [call for group in sampled.attempts for attempt in group for call in getattr(attempt, role)]
    return sum(call.prompt_tokens for call in calls), sum(call.output_tokens for call in calls)


def sampled_by(speaker):
    """Prompt and output tokens of all that a model really sampled."""
    completions = [completion for _, _, said in speaker.policy.calls for completion in said]
    return sum(len(c.prompt) for c in completions), sum(len(c.tokens) for c in completions)


def systems(capable, light):
    return {
        "M alone": capable_alone(capable),
        "m alone": light_alone(light),
        "pair": pair(capable, light),
        "cut, m": capable_cut_then_light(capable, light, 2),
        "cut, answers": capable_cut_then_answers(capable, 2),
    }


@pytest.mark.parametrize("name", ["M alone", "m alone", "pair", "cut, m", "cut, answers"])
def test_every_token_is_booked_once(name, capable, light, task):
    sampled = systems(capable, light)[name](task.test, SETTINGS)
    assert [len(group) for group in sampled.attempts] == [3] * 6
    assert booked(sampled, "capable") == sampled_by(capable)
    assert booked(sampled, "light") == sampled_by(light)


@pytest.mark.parametrize("name", ["M alone", "m alone", "pair", "cut, m", "cut, answers"])
def test_every_call_asks_the_questions_in_their_order(name, capable, light, task):
    systems(capable, light)[name](task.test, SETTINGS)
    asked = [f"<|user|>{question.text}<|assistant|><think>" for question in task.test for _ in range(3)]
    for speaker in (capable, light):
        for _, _, said in speaker.policy.calls:
            prompts = [speaker.policy.tokenizer.decode(completion.prompt) for completion in said]
            assert all(prompt.startswith(start) for prompt, start in zip(prompts, asked, strict=True))


def test_calls_of_each_system(capable, light, task):
    calls = {
        name: {(len(attempt.capable), len(attempt.light)) for group in system(task.test, SETTINGS).attempts for attempt in group}
        for name, system in systems(capable, light).items()
    }
    assert calls == {"M alone": {(1, 0)}, "m alone": {(0, 1)}, "pair": {(1, 1)}, "cut, m": {(1, 1)}, "cut, answers": {(2, 0)}}


def test_budgets(capable, light, task):
    capable_alone(capable)(task.test, SETTINGS)
    pair(capable, light)(task.test, SETTINGS)
    capable_cut_then_answers(capable, 2)(task.test, SETTINGS)
    assert [params.max_tokens for params, _, _ in capable.policy.calls] == [9 + 4, 9, 2, 4]
    assert [params.max_tokens for params, _, _ in light.policy.calls] == [4]


def test_cut_signal_never_exceeds_its_budget_and_is_what_m_reads(capable, light, task):
    sampled = capable_cut_then_light(capable, light, 2)(task.test, SETTINGS)
    attempts = [attempt for group in sampled.attempts for attempt in group]
    assert max(attempt.capable[0].output_tokens for attempt in attempts) == 2
    [(_, _, answers)] = light.policy.calls
    for attempt, answer in zip(attempts, answers, strict=True):
        assert light.policy.decode(answer.prompt).endswith(f"<think>\n{attempt.signal.strip(chr(10))}\n</think>\n\n")


@pytest.mark.parametrize("budget", [0, -1])
def test_a_cut_to_nothing_is_refused(budget, capable, light):
    with pytest.raises(ValueError, match="at least one token"):
        capable_cut_then_light(capable, light, budget)


def test_the_same_call_draws_the_same_numbers(capable, light, task):
    for system in (pair(capable, light), capable_cut_then_light(capable, light, 2), light_alone(light)):
        system(task.test, SETTINGS)
    signal_seeds = {seed for _, seed, _ in capable.policy.calls}
    answer_seeds = {seed for _, seed, _ in light.policy.calls}
    assert len(signal_seeds) == len(answer_seeds) == 1
    assert signal_seeds != answer_seeds


def test_equal_settings_give_equal_attempts(capable, light, task):
    system = pair(capable, light)
    assert system(task.test, SETTINGS) == system(task.test, SETTINGS)
    assert system(task.test, SETTINGS) != system(task.test, replace(SETTINGS, seed=6))


def test_samples_of_a_question_differ(capable, light, task):
    attempts = pair(capable, light)(task.test, SETTINGS).attempts
    assert all(len({attempt.signal for attempt in group}) > 1 for group in attempts)


def test_signals_that_lose_tokens_are_counted(capable, light, task):
    narrow = Speaker(light.policy, type(light.renderer)(light.policy.tokenizer, context_length=24))
    cut = pair(capable, narrow)(task.test, SETTINGS).signals_cut
    assert 0 < cut < 18  # the shorter questions leave room for the whole signal
    assert pair(capable, light)(task.test, SETTINGS).signals_cut == 0


@pytest.mark.parametrize(
    ("said", "signal", "response"),
    [
        ("2 and 2</think>\n\n4", "2 and 2", "4"),
        ("a</think>b</think> c", "a</think>b", "c"),
        ("it is 4, or", "", "it is 4, or"),
    ],
)
def test_m_alone_answers_after_its_last_signal_or_with_all_it_wrote(said, signal, response, capable, task):
    fake = Speaker(FakePolicy(lambda prompt, i: said), capable.renderer)
    settings = replace(SETTINGS, samples=1, signal=SamplingParams(60))
    [[attempt]] = capable_alone(fake)(task.test[:1], settings).attempts
    assert (attempt.signal, attempt.response) == (signal, response)


def test_an_answer_is_unfinished_when_its_last_call_ran_out_of_budget():
    ended, cut = Call(1, 1, "end"), Call(1, 1, "length")
    assert not Attempt("", "", capable=(cut,), light=(ended,)).unfinished
    assert Attempt("", "", capable=(ended,), light=(cut,)).unfinished
    assert not Attempt("", "", capable=(cut, ended)).unfinished
    assert Attempt("", "", capable=(cut,)).unfinished


def test_mean_signal_length_is_of_first_calls():
    attempts = [[Attempt("", "", (Call(5, 2, "stop"), Call(9, 50, "end")))], [Attempt("", "", (Call(5, 5, "stop"),))]]
    assert mean_signal_length(attempts) == 3.5


def test_settings_of_a_recipe(recipe):
    first, second = settings_of(recipe, 0), settings_of(recipe, 1)
    assert first.samples == 3
    assert first.signal == SamplingParams(9, 1.0, 1.0, 0)
    assert first.answer == SamplingParams(4, 1.0, 1.0, 0)
    assert first.seed != second.seed  # a prompt's numbers follow from its place in the call: batches must not share them
    other = recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": 1})})
    assert settings_of(other, 0).seed != first.seed
