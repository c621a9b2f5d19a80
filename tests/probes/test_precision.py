"""Mean average precision: what is left to scikit-learn's, by hand-computed cases."""

import math

import pytest
import torch

from siamese.probes.precision import mean_average_precision

# Two samples at 0.9, one of which is positive, share the precision 1/2; the positive at 0.1 comes fourth.
TIED = torch.tensor([0.9, 0.9, 0.5, 0.1]), torch.tensor([1, 0, 0, 1]), 0.5 * 1 / 2 + 0.5 * 2 / 4
FIRST = torch.tensor([0.1, 0.9, 0.5, 0.2]), torch.tensor([0, 1, 0, 0]), 1.0
LAST = torch.tensor([9.0, 8.0, 7.0, -6.0]), torch.tensor([0, 0, 0, 1]), 1 / 4


def stacked(*cases):
    return torch.stack([c[0] for c in cases], 1), torch.stack([c[1] for c in cases], 1)


@pytest.mark.parametrize("case", [TIED, FIRST, LAST])
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_one_class_by_hand(case, average):
    found = mean_average_precision(*stacked(case), average)
    assert found.value == pytest.approx(case[2]) and found.left_out == 0


@pytest.mark.parametrize("score_type", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("target_type", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_macro_is_the_mean_over_the_classes(score_type, target_type):
    scores, targets = stacked(TIED, FIRST, LAST)
    found = mean_average_precision(scores.to(score_type), targets.to(target_type))
    assert found.value == pytest.approx((0.5 + 1 + 0.25) / 3)


def test_micro_ranks_all_entries_together():
    """Ranks 1 (9.0), 2, 3 are negatives, then the pair at 0.9 of TIED and the 0.9 of FIRST: 2 of 3 positive; the
    positive at 0.1 shares the tenth and eleventh place with a negative; -6.0 is the twelfth."""
    found = mean_average_precision(*stacked(TIED, FIRST, LAST), "micro").value
    assert found == pytest.approx(2 / 4 * 2 / 6 + 1 / 4 * 3 / 11 + 1 / 4 * 4 / 12)


def test_a_class_without_a_positive_does_not_count():
    scores, targets = stacked(TIED, FIRST)
    targets[:, 1] = 0
    found = mean_average_precision(scores, targets)
    assert found.value == pytest.approx(0.5) and found.left_out == 1
    assert mean_average_precision(scores, targets, "micro").left_out == 1
    none = mean_average_precision(scores, torch.zeros_like(targets))
    assert math.isnan(none.value) and none.left_out == 2


def test_what_cannot_be_scored_is_refused():
    scores, targets = stacked(TIED, FIRST)
    for says, arguments in {
        r"scores \(4, 2\) and targets \(4, 1\) must both be": (scores, targets[:, :1]),
        r"scores \(4,\) and": (scores[:, 0], targets[:, 0]),
        "targets must be 0 or 1": (scores, targets.masked_fill(targets == 1, 255)),
        "NaN": (scores.masked_fill(scores == 0.5, torch.nan), targets),
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=says):
            mean_average_precision(*arguments)
