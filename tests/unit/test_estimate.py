"""Means with their intervals."""

import math
import sys

import pytest
from scipy.special import stdtrit

from wavetune.estimate import Estimate, t_of_95_percent


def test_one_draw_has_no_interval():
    found = Estimate.of([2.5])
    assert (found.mean, found.count) == (2.5, 1)
    assert math.isnan(found.half_width)


def test_intervals_import_no_scipy(monkeypatch):
    t_of_95_percent.cache_clear()
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    assert Estimate.of([1.0, 2.0, 3.0]).half_width == pytest.approx(2.484, abs=1e-3)


def test_half_widths_are_those_of_scipy():
    for freedom in (*range(1, 60), 99, 100, 1_000, 100_001):
        assert t_of_95_percent(freedom) == pytest.approx(float(stdtrit(freedom, 0.975)), rel=1e-9), freedom
