"""What a step leaves to the next one."""

import json

import pytest

from counterpoint.duet.start import controller_for
from counterpoint.errors import TrainingError
from counterpoint.rl.control import Constant, LengthTarget, Linear, QualityFloor
from counterpoint.rl.state import FLAT_STEPS_BEFORE_WARNING, State, after, check_progress
from pairs import recipe_in

CONTROLLERS = [
    Constant(0.3),
    Linear(0.5, 1.0, 0.0, 4, 2),
    LengthTarget(0.2, 0.05),
    QualityFloor(floor=0.8, value=0.1).observe(0.9, 1.0),
]


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_it_survives_a_checkpoint(controller):
    for alpha in (None, Constant(1.0)):
        state = State(controller, floor=0.8, capable_alone=0.9, alpha=alpha, flat_steps=3, not_finite=2)
        assert State.from_dict(json.loads(json.dumps(state.to_dict()))) == state


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "constant", "value": 0.4}, Constant(0.4)),
        ({"kind": "length_target", "value": 0.1, "rate": 0.2}, LengthTarget(0.1, 0.2)),
        (
            {"kind": "accuracy_floor", "value": 0.1, "rate": 0.2, "tolerance": 0.05, "maximum": 2.0},
            QualityFloor(floor=0.7, value=0.1, rate=0.2, tolerance=0.05, maximum=2.0),
        ),
    ],
)
def test_the_recipe_names_the_controller(tmp_path, settings, expected):
    assert controller_for(recipe_in(tmp_path, control=settings).control, floor=0.7) == expected


def groups(capable, light=(0, 4), skipped=(0, 0)):
    shown = {}
    for role, (dropped, total), count in zip(("capable", "light"), (capable, light), skipped, strict=True):
        shown |= {f"{role}_groups": total, f"{role}_groups_dropped": dropped, f"{role}_skipped_updates": count}
    return shown


def test_steps_count_as_flat_when_neither_model_has_a_group_left():
    state = State(Constant(0.0), flat_steps=4)
    assert after(state, Constant(0.0), groups((2, 2), (4, 4)), 0.5).flat_steps == 5
    assert after(state, Constant(0.0), groups((2, 2), (3, 4)), 0.5).flat_steps == 0
    assert after(state, Constant(0.0), groups((1, 2), (4, 4)), 0.5).flat_steps == 0


def test_steps_with_an_update_that_is_not_finite_count_in_a_row():
    state = State(Constant(0.0), not_finite=2)
    assert after(state, Constant(0.0), groups((0, 2), skipped=(1, 0)), 0.5).not_finite == 3
    assert after(state, Constant(0.0), groups((0, 2), skipped=(1, 2)), 0.5).not_finite == 3
    assert after(state, Constant(0.0), groups((0, 2)), 0.5).not_finite == 0


def test_a_step_in_which_every_response_is_wrong_is_flat_whatever_shaping_made_of_it():
    state = State(Constant(0.0), flat_steps=4)
    assert after(state, Constant(0.0), groups((0, 2)), 0.0).flat_steps == 5
    assert after(state, Constant(0.0), {"groups": 2.0, "groups_dropped": 0.0}, 0.1).flat_steps == 0
    assert after(state, Constant(0.0), {"groups": 2.0, "groups_dropped": 2.0}, 0.1).flat_steps == 5


def test_the_controller_moves_and_the_floor_stays():
    state = after(State(Constant(0.0), floor=0.5, capable_alone=0.6), Constant(0.7), groups((0, 2)), 0.5)
    assert (state.controller, state.floor, state.capable_alone) == (Constant(0.7), 0.5, 0.6)


def test_the_warning_comes_again_as_long_as_nothing_is_learned():
    heard = []
    for count in range(3 * FLAT_STEPS_BEFORE_WARNING):
        check_progress(State(Constant(0.0), flat_steps=count), heard.append)
    assert len(heard) == 2


@pytest.mark.parametrize(("not_finite", "ends"), [(4, False), (5, True), (6, True)])
def test_five_steps_in_a_row_that_are_not_finite_end_the_run(not_finite, ends):
    state = State(Constant(0.0), not_finite=not_finite)
    if not ends:
        check_progress(state, pytest.fail)
        return
    with pytest.raises(TrainingError, match=f"{not_finite} steps in a row"):
        check_progress(state, pytest.fail)
