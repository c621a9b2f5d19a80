"""Means over seeds, and tests of differences."""

import math
import statistics
from collections.abc import Sequence
from typing import Any


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean, half width of its 95 % interval (Student's t; None for a single value), and the values."""
    half = None
    if len(values) > 1:
        from scipy import special  # scipy.stats takes its time to import

        half = float(special.stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": statistics.fmean(values), "interval95": half, "values": list(values)}


def exceeds(a: Sequence[float], b: Sequence[float]) -> bool | None:
    """Whether the difference of the means exceeds the spread over seeds: Welch's t-test (unequal variances),
    two-sided, at 5 %. None if one of them has a single seed."""
    if len(a) < 2 or len(b) < 2:
        return None
    if statistics.pvariance(a) == statistics.pvariance(b) == 0:
        return statistics.fmean(a) != statistics.fmean(b)
    from scipy import stats

    return bool(stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05)


def proportion_interval(share: float, count: int) -> float:
    """Half the width of Wilson's 95 % interval of a share of `count` independent images (E. B. Wilson 1927)."""
    z = 1.959964
    return z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
