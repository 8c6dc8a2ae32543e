"""What a step leaves to the next one."""

import json

import pytest

from counterpoint.duet.start import controller_for
from counterpoint.errors import TrainingError
from counterpoint.rl.control import Constant, LengthTarget, Linear, QualityFloor
from counterpoint.rl.state import FLAT_STEPS_BEFORE_WARNING, State, after, check_end, check_memory, check_progress
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
        state = State(controller, floor=0.8, capable_alone=0.9, alpha=alpha, flat_steps=3, not_finite=2, failing=("light",))
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


GOOD, BAD, NONE = 0.0, 1.0, None


def counted(*steps, roles=("capable_", "light_"), quality=0.5):
    """The state after steps whose updates of each role were good, bad, or none: its groups tied."""
    state = State(Constant(0.0))
    for step in steps:
        updates = {f"{role}skipped_updates": bad for role, bad in zip(roles, step, strict=True) if bad is not None}
        state = after(state, Constant(0.0), {"groups": 2.0, "groups_dropped": 0.0, **updates}, quality)
    return state


@pytest.mark.parametrize(
    ("steps", "count", "failing"),
    [
        ([(BAD, GOOD), (BAD, BAD)], 2, ("capable", "light")),
        ([(BAD, GOOD), (GOOD, BAD), (BAD, GOOD)], 3, ("capable",)),
        ([(BAD, GOOD), (BAD, GOOD), (GOOD, GOOD)], 0, ()),
        ([(3.0, GOOD)], 1, ("capable",)),
    ],
    ids=["both", "by turns", "good again", "several optimizer steps"],
)
def test_steps_with_an_update_that_is_not_finite_count_in_a_row(steps, count, failing):
    state = counted(*steps)
    assert (state.not_finite, state.failing) == (count, failing)


def test_a_step_without_an_update_does_not_end_the_row():
    assert counted((BAD, NONE), (NONE, NONE), (NONE, NONE), (BAD, NONE)).not_finite == 2
    assert counted((BAD, NONE), (NONE, NONE), (GOOD, NONE)).not_finite == 0


def test_a_step_in_which_nothing_is_right_counts_after_an_update_that_was_not_finite():
    assert counted((BAD, NONE), (NONE, NONE), (NONE, NONE), quality=0.0).not_finite == 3
    assert counted((BAD, NONE), (NONE, NONE), (GOOD, NONE), (NONE, NONE), quality=0.0).not_finite == 0
    assert counted((NONE, NONE), (GOOD, GOOD), (NONE, NONE), quality=0.0).not_finite == 0


def test_the_good_updates_of_one_model_do_not_hide_that_the_other_fails():
    assert counted((BAD, GOOD), (NONE, GOOD), (BAD, GOOD), (NONE, GOOD)).not_finite == 2
    assert counted((NONE, BAD), (GOOD, NONE), (GOOD, BAD)).failing == ("light",)


def test_the_updates_of_a_critic_count_too():
    state = counted((BAD, NONE), (BAD, GOOD), roles=("critic_", ""))
    assert (state.not_finite, state.failing) == (2, ("critic",))
    assert counted((GOOD, BAD), roles=("critic_", "")).failing == ("policy",)


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


def test_a_run_that_ends_while_a_model_fails_says_so():
    heard = []
    check_end(counted((GOOD, BAD), (GOOD, NONE)), heard.append)
    check_end(counted((GOOD, BAD), (GOOD, GOOD)), pytest.fail)
    [said] = heard
    assert "not finite and were not applied, of light:" in said


def test_layers_that_ran_again_are_told_of_by_their_model():
    heard = []
    assert check_memory(3, {"light_checkpointed_microbatches": 2.0, "checkpointed_microbatches": 1.0}, heard.append)
    assert not check_memory(3, {"loss": 1.0, "capable_skipped_updates": 1.0}, pytest.fail)
    [said] = heard
    assert said.startswith("step 3: a micro-batch of light and policy did not fit")
