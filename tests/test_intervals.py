import numpy as np
import pytest
from scipy import stats

from siamese.intervals import exceeds, interval, proportion_interval


def test_the_interval_is_students():
    values = [0.9, 0.92, 0.97, 0.91]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    found = interval(values)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["interval95"] == pytest.approx((high - low) / 2)
    assert interval([0.5])["interval95"] is None


def test_which_differences_exceed_the_spread():
    assert exceeds([0.90, 0.91, 0.92], [0.80, 0.81, 0.82]) is True
    assert exceeds([0.90, 0.80, 0.70], [0.82, 0.79, 0.75]) is False
    assert exceeds([0.9], [0.8, 0.7]) is None
    assert exceeds([0.9, 0.9], [0.9, 0.9]) is False
    few, many = [0.90, 0.84], [0.800, 0.801, 0.799, 0.802, 0.798, 0.800, 0.801, 0.799]
    assert stats.ttest_ind(few, many).pvalue < 0.001  # a pooled variance would be sure
    assert exceeds(few, many) is False


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (139, 143), (143, 143), (500, 1000)])
def test_proportion_interval_is_wilsons(right, count):
    from scipy.stats import binomtest

    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert proportion_interval(right / count, count) == pytest.approx((expected.high - expected.low) / 2, abs=1e-6)
