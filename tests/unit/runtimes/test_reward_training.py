import pytest
from scipy.stats import binomtest

from wavetune.runtimes.reward_training import Accuracy


@pytest.mark.parametrize(("correct", "total"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 12), (430, 700), (9999, 10000)])
def test_the_interval_of_an_accuracy_is_wilsons(correct, total):
    expected = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert Accuracy(correct, total).interval == pytest.approx((expected.low, expected.high), abs=1e-12)
