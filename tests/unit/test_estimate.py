"""Means with their intervals."""

import math
import sys

from wavetune.estimate import Estimate


def test_one_draw_has_no_interval_and_imports_nothing_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    found = Estimate.of([2.5])
    assert (found.mean, found.count) == (2.5, 1)
    assert math.isnan(found.half_width)
