"""Controllers by hand, and on a simulated policy whose quality falls with the length it is pushed to give
up."""

import json
import math
import random

import pytest

from counterpoint.rl.control import Constant, LengthTarget, Linear, QualityFloor, from_dict, to_dict

CONTROLLERS = [Constant(0.3), Linear(0.5, 1.0, 0.0, 4, 2), LengthTarget(value=0.2), QualityFloor(floor=0.9, value=0.1)]


def simulate(controller, seed, steps=600, length_scale=4.0, push=0.5, momentum=0.0):
    """Qualities of a policy whose length grows by 0.05 a step, and shrinks by `push` times the multiplier.

    Quality is a logistic function of length, 0.95 at 12.4 tokens; one batch shows it with a deviation of 3
    points.
    """
    noise = random.Random(seed)
    length, velocity, qualities = 20.0, 0.0, []
    for _ in range(steps):
        qualities.append(1 / (1 + math.exp(-(length - 8) / 1.5)))
        controller = controller.observe(qualities[-1] + noise.gauss(0, 0.03), length / length_scale)
        velocity = momentum * velocity + (1 - momentum) * (0.05 - push * controller.value)
        length = min(24.0, max(0.5, length + velocity + noise.gauss(0, 0.1)))
    return qualities


def test_constant_stays():
    assert Constant(0.3).observe(0.1, 5.0) == Constant(0.3)


def test_length_target_moves_by_rate_times_the_excess():
    state = LengthTarget(value=0.5, rate=0.01)
    assert state.observe(0.0, 3.0).value == pytest.approx(0.52)  # 0.5 + 0.01 * (3 - 1)
    assert state.observe(0.0, 0.25).value == pytest.approx(0.4925)  # 0.5 - 0.01 * 0.75


def test_length_target_stays_between_zero_and_one():
    assert LengthTarget(value=0.0, rate=1.0).observe(0.0, 0.0).value == 0.0
    assert LengthTarget(value=0.9, rate=1.0).observe(0.0, 9.0).value == 1.0


def test_quality_floor_rises_with_the_distance_above_the_floor_up_to_its_rate():
    state = QualityFloor(floor=0.9, rate=0.1, tolerance=0.02)
    assert state.observe(0.91, 1.0).value == pytest.approx(0.05)  # half a tolerance: half the rate
    assert state.observe(0.98, 1.0).value == pytest.approx(0.1)  # four tolerances: the rate


def test_quality_floor_falls_faster_than_it_rises():
    state = QualityFloor(floor=0.9, value=1.0, rate=0.1, tolerance=0.02, fall=4.0)
    assert state.observe(0.0, 1.0).integral == pytest.approx(0.6)  # 1 - 0.1 * 4


def test_quality_floor_average_is_not_pulled_to_its_start_at_zero():
    state = QualityFloor(floor=0.5, smoothing=0.8)
    assert state.smoothed is None
    state = state.observe(0.9, 1.0)
    assert state.smoothed == pytest.approx(0.9)
    # Weights 0.8 * 0.2 and 0.2, over their sum 0.36: (0.16 * 0.9 + 0.2 * 0.45) / 0.36 = 0.65
    assert state.observe(0.45, 1.0).smoothed == pytest.approx(0.65)


def test_quality_floor_lets_go_at_once_when_one_batch_dips():
    state = QualityFloor(floor=0.9, value=0.5, tolerance=0.02)
    for _ in range(50):
        state = state.observe(0.95, 1.0)
    half = state.observe(0.89, 1.0)  # half a tolerance below; the average is still above the floor
    assert half.smoothed is not None
    assert half.smoothed > 0.9
    assert half.integral is not None
    assert half.value == pytest.approx(0.5 * half.integral)
    assert state.observe(0.88, 1.0).value == pytest.approx(0.0, abs=1e-9)


def test_quality_floor_with_a_gain_adds_the_distance_in_tolerances_and_lets_one_batch_pass():
    state = QualityFloor(floor=0.9, value=0.5, rate=0.1, gain=0.3, tolerance=0.02, smoothing=0.5, maximum=2.0)
    first = state.observe(0.92, 1.0)  # e = 1: the integral is 0.5 + 0.1, and the gain adds 0.3
    assert (first.integral, first.value) == (pytest.approx(0.6), pytest.approx(0.9))
    # the weights of the average are 1/3 and 2/3: (0.92 + 2 * 0.88) / 3 = 0.8933, e = -1/3
    second = first.observe(0.88, 1.0)
    assert (second.integral, second.value) == (pytest.approx(0.6 - 0.1 / 3), pytest.approx(0.6 - 0.1 / 3 - 0.1))


def test_quality_floor_with_a_gain_stays_between_zero_and_its_maximum():
    far = QualityFloor(floor=0.5, gain=0.3, rate=0.1, tolerance=0.02, fall=4.0, maximum=2.0)
    assert far.observe(0.9, 1.0).value == pytest.approx(0.1 + 0.3 * 4)  # twenty tolerances above count as four
    state = QualityFloor(floor=0.5, value=1.9, gain=10.0, maximum=2.0)
    assert state.observe(1.0, 1.0).value == 2.0
    assert state.observe(0.0, 1.0).value == 0.0


def test_a_floor_that_was_saved_before_there_was_a_gain_goes_on_without():
    saved = to_dict(QualityFloor(floor=0.9, value=0.5, rate=0.1, tolerance=0.02).observe(0.92, 1.0))
    del saved["gain"]
    went_on = from_dict(saved).observe(0.88, 1.0)
    assert went_on.value == pytest.approx(0.0, abs=1e-9)  # lets go at once; a gain would let one batch pass


def test_quality_floor_does_not_return_on_one_lucky_batch():
    state = QualityFloor(floor=0.9, value=0.5, tolerance=0.02)
    for _ in range(5):
        state = state.observe(0.8, 1.0)
    assert state.observe(1.0, 1.0).value == 0.0  # the average is still far below


def test_quality_floor_stays_between_zero_and_its_maximum():
    state = QualityFloor(floor=0.5, rate=1.0, maximum=2.0)
    for _ in range(10):
        state = state.observe(1.0, 1.0)
    assert state.value == 2.0
    for _ in range(10):
        state = state.observe(0.0, 1.0)
    assert (state.value, state.integral) == (0.0, 0.0)


@pytest.mark.parametrize(("push", "momentum"), [(0.2, 0.0), (0.5, 0.0), (2.0, 0.0), (0.2, 0.9), (0.5, 0.9)])
def test_quality_floor_ends_within_a_point_of_the_floor_and_never_collapses(push, momentum):
    for seed in range(8):
        qualities = simulate(QualityFloor(floor=0.95), seed, push=push, momentum=momentum)
        assert sum(qualities[-300:]) / 300 == pytest.approx(0.95, abs=0.01)
        assert min(qualities) > 0.75


def test_length_target_with_a_harsh_rate_collapses_on_the_same_policy():
    for seed in range(8):
        assert max(simulate(LengthTarget(rate=0.05), seed)[-200:]) < 0.5


@pytest.mark.parametrize("controller", CONTROLLERS, ids=lambda c: type(c).__name__)
def test_a_state_goes_on_from_json_as_if_it_had_not_stopped(controller):
    for quality, ratio in [(0.95, 1.5), (0.88, 0.7), (0.91, 1.1)]:
        controller = controller.observe(quality, ratio)
    restored = from_dict(json.loads(json.dumps(to_dict(controller))))
    assert restored == controller
    assert restored.observe(0.93, 1.2) == controller.observe(0.93, 1.2)


@pytest.mark.parametrize("controller", CONTROLLERS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize(("quality", "ratio"), [(math.nan, 1.0), (0.5, math.inf)])
def test_an_observation_that_is_not_finite_is_refused(controller, quality, ratio):
    with pytest.raises(ValueError, match="must be a finite number"):
        controller.observe(quality, ratio)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"value": 1.0}, "unknown controller None"),
        ({"kind": "bangbang"}, "constant, linear, length_target, quality_floor"),
        ({"kind": "constant", "value": 1.0, "rate": 2.0}, "constant controller does not fit"),
    ],
)
def test_a_state_of_no_controller_is_refused(state, message):
    with pytest.raises(ValueError, match=message):
        from_dict(state)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"floor": math.nan}, "floor"),
        ({"floor": 0.9, "rate": 0.0}, "rate must be a positive"),
        ({"floor": 0.9, "tolerance": -1.0}, "tolerance must be a positive"),
        ({"floor": 0.9, "gain": 0.0}, "gain must be a positive"),
        ({"floor": 0.9, "smoothing": 1.0}, "smoothing"),
        ({"floor": 0.9, "value": 2.0}, "between 0 and maximum"),
    ],
)
def test_a_quality_floor_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        QualityFloor(**fields)


def test_quality_floor_waits_in_its_grace_until_quality_has_reached_the_floor_once():
    state = QualityFloor(floor=0.9, value=0.5, rate=0.1, tolerance=0.02, smoothing=0.0, grace=3)
    waiting = state.observe(0.5, 1.0)
    assert (waiting.value, waiting.reached) == (0.5, False)
    assert waiting.observe(0.5, 1.0).observe(0.5, 1.0).observe(0.5, 1.0).value == 0.0  # the fourth is after the grace
    arrived = waiting.observe(0.9, 1.0)
    assert arrived.reached
    assert arrived.observe(0.5, 1.0).value == 0.0  # below the floor for good reason: no more grace


def test_linear_goes_in_a_line_and_stays_at_its_end():
    state, values = Linear(value=2.0, start=2.0, end=1.0, steps=4), []
    for _ in range(6):
        state = state.observe(0.1, 5.0)
        values.append(state.value)
    assert values == pytest.approx([1.75, 1.5, 1.25, 1.0, 1.0, 1.0])


def test_linear_may_rise_and_goes_on_from_what_was_saved():
    state = Linear(value=0.0, start=0.0, end=1.0, steps=3).observe(0.5, 1.0)
    again = from_dict(json.loads(json.dumps(to_dict(state))))
    assert again == state
    assert again.observe(0.5, 1.0).value == pytest.approx(2 / 3)


def test_linear_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        Linear(value=1.0, start=1.0, end=0.0, steps=0)
