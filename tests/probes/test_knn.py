"""Weighted nearest neighbours against scikit-learn and lightly."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict as lightly_knn
from sklearn.neighbors import KNeighborsClassifier

from siamese.probes import Features, knn_accuracy, knn_grid, knn_predict
from siamese.probes import knn as knn_module


@pytest.mark.parametrize("k", [1, 20])
def test_knn_equals_scikit_learn(digits, k):
    bank, queries = digits
    t = 0.1
    reference = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / t)).fit(bank.x, bank.y)
    ours = knn_predict(bank, queries.x, 10, k, t)
    np.testing.assert_array_equal(ours, reference.predict(queries.x))


def test_knn_equals_lightly(digits):
    bank, queries = digits
    theirs = lightly_knn(F.normalize(queries.x), F.normalize(bank.x).T, bank.y, 10, 200, 0.1)[:, 0]
    assert torch.equal(knn_predict(bank, queries.x, 10, 200, 0.1), theirs)


def test_knn_does_not_depend_on_block_size(digits, monkeypatch):
    bank, queries = digits
    whole = knn_predict(bank, queries.x, 10, 20, 0.1)
    monkeypatch.setattr(knn_module, "BLOCK", 1)
    assert torch.equal(knn_predict(bank, queries.x, 10, 20, 0.1), whole)


def test_grid_equals_scikit_learn_for_each_setting(digits, monkeypatch):
    bank, queries = digits
    ks, ts = [1, 5, 10, 20, 50, 100, 200], [0.07, 0.5]
    monkeypatch.setattr(knn_module, "BANK_ROWS", 300)  # the best of several blocks, the last one shorter
    grid = knn_grid(bank, queries, 10, ks, ts)
    assert grid.shape == (7, 2, len(queries))
    for i, k in enumerate(ks):
        for j, t in enumerate(ts):
            reference = KNeighborsClassifier(k, metric="cosine", weights=lambda d, t=t: np.exp((1 - d) / t))
            np.testing.assert_array_equal(grid[i, j], reference.fit(bank.x, bank.y).predict(queries.x))


def test_k_beyond_the_bank_size_is_accepted(digits):
    bank, queries = digits
    small = bank.subset(torch.arange(7))
    assert 0 <= knn_accuracy(small, queries, 10, 200, 0.1) <= 1


def test_knn_votes_do_not_overflow_at_a_low_temperature():
    bank = Features(torch.eye(2), torch.tensor([0, 1]))
    assert knn_predict(bank, torch.tensor([[1.0, 0.1]]), 2, 2, 1e-3).tolist() == [0]
