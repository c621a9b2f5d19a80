"""Average precision against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from siamese.probes import precision as precision_module
from siamese.probes.precision import average_precision, mean_average_precision


def drawn(n, k, levels=None, seed=0):
    """Scores, of so many different values, and targets that depend on them."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, k, generator=generator)
    targets = (scores + 2 * torch.randn(n, k, generator=generator) > torch.linspace(0, 3, k)).to(torch.uint8)
    if levels:
        scores = (torch.sigmoid(scores) * levels).floor() / levels
    return scores, targets


def reference(scores, targets):
    return [average_precision_score(targets[:, k].numpy(), scores[:, k].numpy()) for k in range(scores.shape[1])]


@pytest.mark.parametrize("levels", [None, 10, 2, 1])
@pytest.mark.parametrize("n", [3, 50, 2000])
def test_equals_scikit_learn(n, levels):
    scores, targets = drawn(n, 4, levels)
    targets[0] = 1  # no class without a positive
    ours = average_precision(scores, targets)
    assert ours.shape == (4,) and ours.dtype == torch.float64
    np.testing.assert_allclose(ours, reference(scores, targets), rtol=1e-12)
    for average in ("macro", "micro"):
        found = mean_average_precision(scores, targets, average=average)
        theirs = average_precision_score(targets.numpy(), scores.numpy(), average=average)
        assert found.value == pytest.approx(theirs, rel=1e-12)
        assert (found.classes, found.left_out) == (4, 0)


@pytest.mark.parametrize("score_type", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("target_type", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_types(score_type, target_type):
    scores, targets = drawn(3000, 3)
    scores = scores.to(score_type)  # of 16 bits: many ties
    ours = average_precision(scores, targets.to(target_type))
    np.testing.assert_allclose(ours, reference(scores.double(), targets), rtol=1e-12)


def test_by_hand():
    """Two samples at 0.9, one of which is positive, share the precision 1/2; the positive at 0.1 comes fourth."""
    scores = torch.tensor([[0.9], [0.9], [0.5], [0.1]])
    found = average_precision(scores, torch.tensor([[1], [0], [0], [1]])).item()
    assert found == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 4)


def test_a_class_without_a_positive_does_not_count():
    scores, targets = drawn(200, 4)
    targets[:, 2] = 0
    each = average_precision(scores, targets)
    assert each.isnan().tolist() == [False, False, True, False]
    found = mean_average_precision(scores, targets)
    assert (found.classes, found.left_out) == (3, 1)
    assert found.value == pytest.approx(np.mean(reference(scores[:, [0, 1, 3]], targets[:, [0, 1, 3]])), rel=1e-12)
    micro = mean_average_precision(scores, targets, average="micro")
    assert micro.value == pytest.approx(average_precision_score(targets.numpy(), scores.numpy(), average="micro"))
    none = mean_average_precision(scores, torch.zeros_like(targets))
    assert math.isnan(none.value) and (none.classes, none.left_out) == (0, 4)
    empty = mean_average_precision(scores[:0], targets[:0], average="micro")
    assert math.isnan(empty.value) and empty.left_out == 4


@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("filler", [0.0, 100.0, torch.nan, torch.inf, -torch.inf])
def test_unknown_rows_do_not_count(levels, filler):
    scores, targets = drawn(300, 3, levels)
    known = torch.rand(300, generator=torch.Generator().manual_seed(1)) < 0.7
    expected = reference(scores[known], targets[known])
    scores[~known], targets[~known] = filler, 255
    np.testing.assert_allclose(average_precision(scores, targets, known), expected, rtol=1e-12)
    micro = mean_average_precision(scores, targets, known, "micro").value
    assert micro == pytest.approx(
        average_precision_score(targets[known].numpy(), scores[known].numpy(), average="micro")
    )


def test_unknown_entries_do_not_count():
    scores, targets = drawn(300, 3, 20)
    known = torch.rand(300, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    expected = [average_precision_score(targets[m, k].numpy(), scores[m, k].numpy()) for k, m in enumerate(known.T)]
    np.testing.assert_allclose(average_precision(scores, targets, known), expected, rtol=1e-12)
    micro = mean_average_precision(scores, targets, known, "micro").value
    assert micro == pytest.approx(average_precision_score(targets[known].numpy(), scores[known].numpy()))


def test_blocks_of_classes_give_the_same(monkeypatch):
    scores, targets = drawn(100, 7, 10)
    whole = average_precision(scores, targets)
    monkeypatch.setattr(precision_module, "ENTRIES", 250)
    assert torch.equal(average_precision(scores, targets), whole)


def test_many_samples():
    scores, targets = drawn(100_000, 20, 1000)
    ours = average_precision(scores, targets)
    np.testing.assert_allclose(ours[[0, 19]], reference(scores[:, [0, 19]], targets[:, [0, 19]]), rtol=1e-11)


def test_what_cannot_be_scored_is_refused():
    scores, targets = drawn(10, 2)
    masked = torch.where(torch.arange(10)[:, None] == 3, 255, targets)
    for says, arguments in {
        r"scores \(10, 2\) and targets \(10, 1\) must both be": (scores, targets[:, :1]),
        r"scores \(10,\) and": (scores[:, 0], targets[:, 0]),
        r"known \(9,\) must be \(N,\) or \(N, K\)": (scores, targets, torch.ones(9)),
        "2 known targets are not 0 or 1, the first is 255": (scores, masked),
        "1 known scores are nan": (torch.where(scores == scores.max(), torch.nan, scores), targets),
        "average='weighted' must be": (scores, targets, None, "weighted"),
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=says):
            mean_average_precision(*arguments)
