"""The clusters experiment, shorter: what the pairwise measure does not see and the determinant does."""

import runpy
from pathlib import Path

import pytest

EXPERIMENT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "clusters.py"))


@pytest.fixture(scope="module")
def world():
    return EXPERIMENT["make_world"]()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mean_distance_ends_in_two_clusters_where_dqo_spreads(world, seed):
    policies = [EXPERIMENT["train"](world, shaper, seed, steps=1000) for shaper in ("mean_distance", "dqo")]
    pairwise, spread = (EXPERIMENT["measure"](world, policy) for policy in policies)
    assert pairwise.mean_distance > spread.mean_distance + 0.02  # the measure is fooled
    assert spread.log_det > pairwise.log_det + 0.05
    assert spread.vendi > 1.3 * pairwise.vendi
    assert spread.effective_points > 2 * pairwise.effective_points
    assert pairwise.in_the_middle < 0.2 < 0.35 < spread.in_the_middle
    longitude = world.angles_N_2[:, 0]
    for end in (longitude < -EXPERIMENT["LENGTH"] / 2, longitude > EXPERIMENT["LENGTH"] / 2):
        assert policies[0][end].sum() > 0.2


def test_both_start_from_one_bump_that_is_neither(world):
    start = EXPERIMENT["measure"](world, EXPERIMENT["first_logits"](world).softmax(dim=0))
    assert start.clusters == 1
    assert start.in_the_middle > 0.9


def test_clusters_are_counted_by_the_gaps_between_them(world):
    """Two far ends with all of the probability, then with a bridge between them."""
    longitude = world.angles_N_2[:, 0].abs()
    ends, whole = (longitude > 50).double(), (longitude >= 0).double()
    assert EXPERIMENT["measure"](world, ends / ends.sum()).clusters == 2
    assert EXPERIMENT["measure"](world, whole / whole.sum()).clusters == 1
