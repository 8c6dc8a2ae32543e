"""The circuit breaker: when a model is left alone, and when it is tried again."""

import hypothesis.strategies as st
from hypothesis import given

from counterpoint.gateway.upstreams.breaker import Breaker


def ticket(breaker: Breaker, now: float) -> int:
    given = breaker.admit(now)
    assert given is not None
    return given


def opened(failures: int = 3, seconds: float = 10.0) -> Breaker:
    """One that opened at time 0."""
    breaker = Breaker(failures, seconds)
    for _ in range(failures):
        breaker.failed(ticket(breaker, 0.0), 0.0)
    return breaker


def test_failures_in_a_row_open_it():
    breaker = Breaker(3, 10.0)
    for _ in range(2):
        breaker.failed(ticket(breaker, 0.0), 0.0)
    assert breaker.state(0.0) == "closed"
    breaker.failed(ticket(breaker, 1.0), 1.0)
    assert breaker.state(1.0) == "open"
    assert breaker.admit(1.0) is None
    assert breaker.admit(10.9) is None


def test_a_success_in_between_starts_the_count_anew():
    breaker = Breaker(2, 10.0)
    for _ in range(5):
        breaker.failed(ticket(breaker, 0.0), 0.0)
        breaker.succeeded(ticket(breaker, 0.0))
    assert breaker.state(0.0) == "closed"


def test_what_says_nothing_about_the_model_changes_nothing():
    breaker = Breaker(2, 10.0)
    breaker.failed(ticket(breaker, 0.0), 0.0)
    breaker.released(ticket(breaker, 0.0))
    breaker.failed(ticket(breaker, 0.0), 0.0)
    assert breaker.state(0.0) == "open"


def test_after_its_time_one_request_is_let_through():
    breaker = opened()
    assert breaker.state(10.0) == "half-open"
    trial = ticket(breaker, 10.0)
    assert breaker.admit(10.0) is None
    breaker.succeeded(trial)
    assert breaker.state(10.0) == "closed"
    assert [breaker.admit(10.0) is None for _ in range(2)] == [False, False]


def test_a_trial_that_fails_opens_it_for_as_long_again():
    breaker = opened()
    breaker.failed(ticket(breaker, 12.0), 15.0)
    assert breaker.state(24.9) == "open"
    assert breaker.state(25.0) == "half-open"


def test_a_trial_that_is_given_up_leaves_its_place_to_another():
    breaker = opened()
    breaker.released(ticket(breaker, 10.0))
    assert breaker.state(10.0) == "half-open"
    ticket(breaker, 10.0)


def test_a_trial_that_begins_to_answer_lets_others_in_but_one_failure_shuts_them_out():
    breaker = opened()
    trial = ticket(breaker, 10.0)
    breaker.answering(trial)
    assert breaker.state(10.0) == "closed"
    ticket(breaker, 10.0)
    breaker.failed(trial, 11.0)
    assert breaker.state(11.0) == "open"


def test_an_answer_that_ends_well_after_its_trial_forgets_the_failures():
    breaker = opened(failures=2)
    trial = ticket(breaker, 10.0)
    breaker.answering(trial)
    breaker.succeeded(trial)
    breaker.failed(ticket(breaker, 11.0), 11.0)
    assert breaker.state(11.0) == "closed"


def test_requests_from_before_it_opened_say_nothing_any_more():
    breaker = Breaker(1, 10.0)
    old, older = ticket(breaker, 0.0), ticket(breaker, 0.0)
    breaker.failed(ticket(breaker, 0.0), 0.0)
    breaker.succeeded(old)
    assert breaker.state(1.0) == "open"
    trial = ticket(breaker, 10.0)
    breaker.failed(older, 10.0)
    breaker.released(older)
    assert breaker.admit(10.0) is None, "the trial is still under way"
    breaker.succeeded(trial)
    assert breaker.state(10.0) == "closed"


@given(st.lists(st.tuples(st.sampled_from(["ask", "answering", "succeeded", "failed", "released"]), st.integers(0, 5))))
def test_never_two_trials_at_a_time_and_never_shut_for_good(steps):
    breaker, now, running = Breaker(2, 10.0), 0.0, []
    for step, number in steps:
        now += number
        if step == "ask":
            half_open = breaker.state(now) == "half-open"
            given = breaker.admit(now)
            if given is not None:
                running.append(given)
            if half_open:
                assert breaker.admit(now) is None
        elif running:
            mine = running.pop(number % len(running))
            if step == "failed":
                breaker.failed(mine, now)
            elif step == "answering":
                breaker.answering(mine)
                running.append(mine)
            else:
                getattr(breaker, step)(mine)
    for mine in running:
        breaker.released(mine)
    assert breaker.admit(now + 10.0) is not None
