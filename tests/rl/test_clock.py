"""Laps: what a phase took, and nothing of the one before."""

import time

from counterpoint.rl.clock import Clock
from fakes import StandingTime


def test_a_lap_is_the_time_since_the_lap_before(monkeypatch):
    standing = StandingTime(monkeypatch)
    standing.now = 50.0
    clock = Clock()
    for phase, seconds in (("sample", 2.0), ("score", 0.5), ("update", 0.0)):
        standing.now += seconds
        clock.lap(phase)
    assert clock.laps == {"seconds_sample": 2.0, "seconds_score": 0.5, "seconds_update": 0.0}


def test_a_phase_that_is_named_again_goes_on(monkeypatch):
    standing, clock = StandingTime(monkeypatch), Clock()
    for phase, seconds in (("sample", 2.0), ("score", 0.5), ("sample", 3.0)):
        standing.now += seconds
        clock.lap(phase)
    assert clock.laps == {"seconds_sample": 5.0, "seconds_score": 0.5}


def test_it_goes_by_the_time_on_the_wall():
    began = time.perf_counter()
    clock = Clock()
    time.sleep(0.01)
    clock.lap("sleep")
    assert 0.01 <= clock.laps["seconds_sleep"] <= time.perf_counter() - began
