"""Means over seeds, and tests of differences."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import stats


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean, half width of its 95 % interval (Student's t; None for a single value), and the values."""
    half = None
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": statistics.fmean(values), "interval95": half, "values": list(values)}


def exceeds(a: Sequence[float], b: Sequence[float]) -> bool | None:
    """Whether the difference of the means exceeds the spread over seeds: Welch's t-test (unequal variances),
    two-sided, at 5 %. None if one of them has a single seed."""
    if len(a) < 2 or len(b) < 2:
        return None
    if statistics.pvariance(a) == statistics.pvariance(b) == 0:
        return statistics.fmean(a) != statistics.fmean(b)
    return bool(stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05)
