"""Lines of a chart: seeds drawn together, and thinned without losing an extreme."""

import math
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from counterpoint.report.series import median_and_range, of_how_many, pieces, rounded, stacked, thin

numbers = st.integers(1, 400).flatmap(lambda count: st.lists(st.floats(-1e6, 1e6), min_size=count, max_size=count))


def line(values, low=None, high=None):
    """A line of one run, or with the range of several."""
    return {"step": list(range(len(values))), "value": values, "low": low or values, "high": high or values}


@given(numbers, st.booleans(), st.integers(6, 100), st.integers(0, 999))
def test_a_thinned_line_keeps_its_ends_and_its_extremes_and_never_has_too_many_points(values, band, most, seed):
    random = Random(seed)
    low, high = ([value + sign * random.random() * 1e6 for value in values] for sign in (-1, 1))
    whole = line(values, low, high) if band else line(values)
    kept = thin(whole, most)
    assert len(kept["step"]) <= most
    assert [kept["step"][0], kept["step"][-1]] == [whole["step"][0], whole["step"][-1]]
    assert (min(kept["value"]), max(kept["value"])) == (min(values), max(values))
    assert (min(kept["low"]), max(kept["high"])) == (min(whole["low"]), max(whole["high"]))
    rows = set(zip(*whole.values(), strict=True))
    assert set(zip(*kept.values(), strict=True)) <= rows
    assert kept["step"] == sorted(set(kept["step"]))


def test_the_extremes_of_every_stretch_are_kept():
    values = [0.0] * 10_000
    for at in range(500, 10_000, 1000):
        values[at] = float(at)
    kept = thin(line(values), 200)
    assert set(range(500, 10_000, 1000)) <= set(kept["step"])


def test_a_line_that_is_short_enough_is_left_as_it_is():
    whole = line([3.0, 1.0, 2.0])
    assert thin(whole, 3) == whole


def as_lists(line):
    return {name: values.tolist() for name, values in line.items()}


def test_seeds_of_different_length_and_without_a_number_are_drawn_as_median_and_range():
    seeds = [{1: 1.0, 2: 5.0, 3: 7.0}, {1: 3.0, 2: math.nan}, {1: 8.0, 2: math.inf, 4: math.nan}]
    assert as_lists(median_and_range(seeds)) == {
        "step": [1, 2, 3], "value": [3.0, 5.0, 7.0], "low": [1.0, 5.0, 7.0], "high": [8.0, 5.0, 7.0],
    }  # fmt: skip
    assert as_lists(median_and_range([{1: 1.0}, {1: 2.0}]))["value"] == [1.5]
    assert as_lists(median_and_range([{3: 1, 1: None, 2: 0.5}])) == {name: [0.5, 1.0] for name in ("value", "low", "high")} | {
        "step": [2, 3]
    }
    assert as_lists(median_and_range([])) == {"step": [], "value": [], "low": [], "high": []}


def test_numbers_keep_six_digits_and_whole_numbers_and_texts_all():
    columns = {"step": [1234567], "value": [0.123456789], "series": ["a"], "none": [None]}
    assert rounded(columns) == {"step": [1234567], "value": [0.123457], "series": ["a"], "none": [None]}


def test_tables_are_stacked():
    assert stacked([{"a": [1], "b": [2]}, {"a": [3], "b": [4]}]) == {"a": [1, 3], "b": [2, 4]}
    assert stacked([]) == {}


def test_it_is_said_of_how_many_each_is():
    assert of_how_many({"a": 1, "b": 1}, "seed") == []
    assert of_how_many({"a": 5, "b": 5}, "seed") == ["median and range of 5 seeds"]
    assert of_how_many({"a": 1, "b": 5, "c": 1}, "seed") == ["b: median and range of 5 seeds", "a, c: one seed"]
    many = {"a": 2, **{f"x{i}": 1 for i in range(4)}}
    assert of_how_many(many, "evaluation") == ["a: median and range of 2 evaluations", "the others: one evaluation"]


def test_a_line_is_in_pieces_where_no_seed_has_a_number():
    nan = math.nan
    one = [{1: 1.0, 2: nan, 3: 2.0, 5: 3.0}]
    assert pieces(one, median_and_range(one)).tolist() == [0, 1, 1]
    two = [{1: 1.0, 2: nan, 3: nan, 4: 1.0}, {1: 1.0, 2: 2.0, 3: nan, 4: 1.0}]
    assert pieces(two, median_and_range(two)).tolist() == [0, 0, 1]
    assert pieces([{1: nan}], median_and_range([{1: nan}])).tolist() == []
