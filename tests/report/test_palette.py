"""Colours, dashes and shapes: told apart by every eye, and never by colour alone."""

import itertools
import re
from importlib.resources import files

import numpy as np
import pytest

from counterpoint.evaluate.run import SOLO
from counterpoint.report.palette import (
    BEGIN_AGAIN,
    COLOURS,
    DASHES,
    LIGHT,
    NEUTRAL,
    SHAPES,
    of_both,
    of_groups,
    of_measures,
    of_systems,
)  # fmt: skip

# what an eye without one of its cones sees of linear RGB: Machado, Oliveira and Fernandes, "A Physiologically-based Model for
# Simulation of Color Vision Deficiency", IEEE Transactions on Visualization and Computer Graphics 15(6), 2009, severity 1
EYES = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    digits = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(digits <= 0.04045, digits / 12.92, ((digits + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    ratios = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one, other):
    low, high = sorted((TO_XYZ @ linear(colour))[1] for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def of_page():
    """The series' colours in page.css, light and dark."""
    css = files("counterpoint.report").joinpath("page.css").read_text("utf-8")
    found = re.findall(r"--series-\d: (#\w+);", css)
    return {"light": found[:COLOURS], "dark": found[COLOURS:]}


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize(("scheme", "paper"), [("light", "#ffffff"), ("dark", "#1b1b1e")])
def test_colours_differ_for_every_eye_and_stand_out_from_the_page(scheme, paper, eye):
    colours = of_page()[scheme]
    assert len(colours) == COLOURS
    seen = [lab(np.array(EYES[eye]) @ linear(colour)) for colour in colours]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 15
    assert min(contrast(colour, paper) for colour in colours) >= 3


def test_pictures_have_the_pages_light_colours():
    assert list(LIGHT["series"]) == of_page()["light"]


def test_no_two_groups_look_the_same_and_neighbours_differ_by_more_than_colour():
    groups = of_groups([f"g{i}" for i in range(BEGIN_AGAIN)]).values()
    assert (
        len({(series.colour, series.shape) for series in groups}) == len({(s.colour, str(s.dash)) for s in groups}) == BEGIN_AGAIN
    )
    first = list(groups)[: len(SHAPES)]
    assert len({series.shape for series in first}) == len({str(series.dash) for series in first}) == len(SHAPES) == len(DASHES)
    assert NEUTRAL not in {series.colour for series in groups}


def test_a_group_has_one_colour_and_shape_in_training_and_in_its_result():
    kinds = {"GRPO": "dqo", "DQO": "dqo"}
    groups, systems = of_groups(list(kinds)), of_systems(["start", "DQO", "other", "GRPO"], kinds)
    assert {name: systems[name] for name in kinds} == groups
    assert systems["start"].colour == NEUTRAL
    assert systems["other"].colour not in {NEUTRAL, *(series.colour for series in groups.values())}
    assert len({series.shape for series in systems.values()}) == 4
    drawn = [("GRPO", "reward"), ("DQO", "reward"), ("DQO", "floor"), ("DQO", "best")]
    both = of_both(list(kinds), drawn)
    assert {key: series.colour for key, series in both.items()} == {key: groups[key[0]].colour for key in drawn}
    assert [both[group, "reward"].shape for group in kinds] == [groups[group].shape for group in kinds]
    assert [both[group, "reward"].dash for group in kinds] == [groups[group].dash for group in kinds]
    assert len({str(series.dash) for series in both.values()}) == len({series.shape for series in both.values()}) == 4


def test_what_duet_trained_has_its_groups_colour_and_the_untrained_pair_none():
    kinds = {"run": "duet", "run-alone": "alone"}
    systems = of_systems(["M alone", "untrained pair", SOLO, "trained pair"], kinds)
    groups = of_groups(list(kinds))
    assert (systems["trained pair"].colour, systems[SOLO].colour) == (groups["run"].colour, groups["run-alone"].colour)
    assert systems["untrained pair"].colour == NEUTRAL
    assert len({series.shape for series in systems.values()}) == 4
    pairs = {"a": "duet", "b": "duet"}
    several = of_systems(["trained pair · b", "trained pair · a"], pairs)
    assert several["trained pair · b"].colour == of_groups(list(pairs))["b"].colour


def test_of_a_single_group_the_first_measure_has_its_colour_and_the_floor_none():
    series = of_measures(["aided", "floor", "unaided"], "floor")
    assert [series[name].colour for name in ("aided", "floor", "unaided")] == [1, NEUTRAL, 2]
    assert len({str(each.dash) for each in series.values()}) == 3
