"""Probes for several labels against scikit-learn. The labels of a digit are its bits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsRegressor

from siamese.probes import Features, knn_grid
from siamese.probes import knn as knn_module
from siamese.probes import multilabel as module
from siamese.probes.knn import neighbours
from siamese.probes.linear import Standardised
from siamese.probes.multilabel import MultilabelGrid, labelled, linear_scores, multilabel_knn, multilabel_knn_grid


@pytest.fixture(scope="module")
def bits(digits):
    """For training, for testing; four labels."""
    return tuple(Features(f.x, (f.y.unsqueeze(1) >> torch.arange(4) & 1).to(torch.uint8)) for f in digits)


def with_unknown(features):
    """The same with an unlabelled row after each third one; and which rows are labelled."""
    at = torch.arange(len(features)).repeat_interleave((torch.arange(len(features)) % 3 == 0) + 1)
    new = F.pad(at.diff() == 0, (1, 0))
    return Features(features.x[at] + new.unsqueeze(1), torch.where(new.unsqueeze(1), 255, features.y[at])), ~new


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (20, 0.07), (200, 0.5)])
def test_knn_scores_equal_scikit_learn(bits, k, temperature):
    bank, queries = bits
    weights = lambda d: np.exp((1 - d) / temperature)  # noqa: E731
    reference = KNeighborsRegressor(k, metric="cosine", weights=weights).fit(bank.x.double(), bank.y)
    ours = multilabel_knn(bank, queries, k, temperature)
    assert ours.shape == (len(queries), 4)
    np.testing.assert_allclose(ours, reference.predict(queries.x.double()), atol=2e-5)


def test_knn_blocks_and_grid_give_the_same(bits, monkeypatch):
    bank, queries = bits
    queries = queries.subset(torch.arange(100))
    ks, temperatures = [1, 10, 50], [0.07, 0.5]
    whole = multilabel_knn_grid(bank, queries, ks, temperatures)
    assert whole.shape == (3, 2, 100, 4)
    for i, k in enumerate(ks):
        for j, t in enumerate(temperatures):
            torch.testing.assert_close(whole[i, j], multilabel_knn(bank, queries, k, t))
    monkeypatch.setattr(knn_module, "BANK_ROWS", 300)
    monkeypatch.setattr(knn_module, "BLOCK", 300 * 7)
    monkeypatch.setattr(module, "BLOCK", 50 * 4 * 3)
    torch.testing.assert_close(multilabel_knn_grid(bank, queries, ks, temperatures), whole)


def test_one_label_each_is_the_vote_of_knn(digits):
    bank, queries = digits
    several = Features(bank.x, F.one_hot(bank.y).to(torch.uint8))
    ours = multilabel_knn_grid(several, queries, [5, 20], [0.07]).argmax(3)
    assert torch.equal(ours, knn_grid(bank, queries, 10, [5, 20], [0.07]))


def test_knn_at_a_low_temperature_and_a_large_k():
    bank = Features(torch.eye(3), torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.uint8))
    found = multilabel_knn(bank, Features(torch.tensor([[1.0, 0.2, 0.0]]), torch.zeros(1, 2)), 200, 1e-3)
    assert found.tolist() == [[1, 0]]


def test_unlabelled_samples_are_left_out_of_the_bank(bits):
    bank, queries = bits
    more, known = with_unknown(bank)
    assert int((~known).sum()) == 400 and torch.equal(more.x[known], bank.x)
    assert torch.equal(multilabel_knn(more, queries, 20, 0.1), multilabel_knn(bank, queries, 20, 0.1))
    assert labelled(bank) is bank


@pytest.mark.parametrize("rows", [1 << 14, 300, 7])
def test_neighbours_are_those_of_the_whole_matrix(digits, monkeypatch, rows):
    bank, queries = digits
    monkeypatch.setattr(knn_module, "BANK_ROWS", rows)
    similarity, index = (torch.cat(part) for part in zip(*neighbours(bank, queries, 9), strict=True))
    matrix = F.normalize(queries.x.double()) @ F.normalize(bank.x.double()).T
    np.testing.assert_array_equal(index, matrix.topk(9).indices)
    np.testing.assert_allclose(similarity, matrix.topk(9).values, atol=1e-6)


@pytest.mark.parametrize(("l2", "atol"), [(1e-3, 1e-2), (1e-2, 1e-3), (1.0, 1e-4)])
def test_converged_regressions_equal_scikit_learn(bits, l2, atol):
    fit, test = bits
    moments = fit.moments()
    train, held_out = Standardised(fit, moments), Standardised(test, moments)
    solution = MultilabelGrid([l2], 1000, 1e-5).solve(train, l2)
    assert solution.converged
    x, on = (next(part.blocks(10000))[0][:, :-1].double() for part in (train, held_out))
    one = LogisticRegression(C=1 / (l2 * len(fit)), max_iter=5000, tol=1e-8)
    reference = OneVsRestClassifier(one).fit(x, fit.y)
    coefficients = np.stack([e.coef_[0] for e in reference.estimators_], 1)
    np.testing.assert_allclose(solution.weight[:-1], coefficients, atol=atol)
    np.testing.assert_allclose(solution.weight[-1], [e.intercept_[0] for e in reference.estimators_], atol=atol)
    ours = linear_scores(solution.weight, held_out)
    np.testing.assert_allclose(ours.sigmoid(), reference.predict_proba(on), atol=atol)


def test_blocks_of_features_in_half_precision(bits, monkeypatch):
    """As from a file: standardised block by block."""
    fit, _ = bits
    moments = fit.moments()
    grid = MultilabelGrid([1e-2], 500, 1e-6)
    whole = grid.solve(Standardised(fit, moments), 1e-2)
    halves = Standardised(Features(fit.x.half(), fit.y), moments)
    monkeypatch.setattr(Standardised.blocks, "__defaults__", (500,))
    torch.testing.assert_close(grid.solve(halves, 1e-2).weight, whole.weight, atol=5e-3, rtol=0)


def test_the_strength_is_chosen_by_the_validation_precision(bits):
    whole, test = bits
    fit, select = whole.subset(torch.arange(150)), whole.subset(torch.arange(150, 1200))
    l2s = [1e-6, 1e-2, 1e-1, 100.0]
    found = MultilabelGrid(l2s, 2000, 1e-5).fit_and_score(fit, select, whole, test)

    def precision(train, on, l2):
        mean, std = train.moments()
        one = LogisticRegression(C=1 / (l2 * len(train)), max_iter=20000, tol=1e-6)
        model = OneVsRestClassifier(one).fit((train.x - mean).double() / std, train.y)
        scores = model.decision_function((on.x - mean).double() / std)
        return [average_precision_score(on.y.numpy(), scores, average=a) for a in ("macro", "micro")]

    validation = [precision(fit, select, l2)[0] for l2 in l2s]
    chosen = l2s[int(np.argmax(validation))]
    assert chosen not in (l2s[0], l2s[-1])
    assert found["chosen"]["l2"] == chosen
    assert found["chosen"]["validation_map"] == pytest.approx(max(validation), abs=1e-3)
    macro, micro = precision(whole, test, chosen)
    assert found["map"] == pytest.approx(macro, abs=1e-3)
    assert found["micro_map"] == pytest.approx(micro, abs=1e-3)
    assert (found["classes_left_out"], found["converged"]) == (0, True)


def test_unlabelled_samples_and_constant_labels(bits):
    """Unlabelled samples change nothing. Labels that all have, or none, change nothing of the others."""
    whole, test = bits
    parts = whole.subset(torch.arange(800)), whole.subset(torch.arange(800, 1200)), whole, test
    grid = MultilabelGrid([1e-1, 1e-2], 1000, 1e-5)
    found = grid.fit_and_score(*parts)
    more = [with_unknown(part)[0] for part in parts]
    again = grid.fit_and_score(*more)
    assert again == found
    wide = [Features(f.x, F.pad(f.y, (0, 2))) for f in parts]
    for part in wide:
        part.y[:, 4] = 1
    moments = wide[0].moments()
    solution = grid.solve(Standardised(wide[0], moments), 1e-2)
    alone = grid.solve(Standardised(parts[0], moments), 1e-2)
    assert solution.converged
    torch.testing.assert_close(solution.weight[:, :4], alone.weight, atol=1e-3, rtol=0)
    assert not solution.weight[:-1, 4:].any()
    assert solution.weight[-1, 4:].tolist() == pytest.approx([np.log(800.5 / 0.5), np.log(0.5 / 800.5)])
    last = grid.fit_and_score(*wide)
    assert last["classes_left_out"] == 1 and last["converged"]
    assert last["map"] == pytest.approx((4 * found["map"] + 1) / 5, abs=1e-3)


def test_convergence_is_reported(bits):
    whole, test = bits
    found = MultilabelGrid([1e-6], 2, 1e-7).fit_and_score(whole, test, whole, test)
    assert found["converged"] is False


def test_wrong_targets_are_refused():
    x = torch.randn(4, 3)
    for y, says in {
        (1, 0, 1, 0): r"targets \(4,\) must be \(N, K\)",
        ((1, 0), (1, 255), (255, 255), (0, 0)): "1 of 4 rows are unknown in part, 0 targets are none",
        ((1, 0), (1, 2), (3, 0), (0, 0)): "0 of 4 rows are unknown in part, 2 targets are none of 0, 1 and 255",
        ((255, 255),) * 4: "none of 4 samples has a known label",
    }.items():
        with pytest.raises(ValueError, match=says):
            labelled(Features(x, torch.tensor(y, dtype=torch.uint8)))
    one = Features(x, torch.tensor([[1], [0], [1], [0]], dtype=torch.uint8))
    none = Features(x, torch.zeros(4, 1, dtype=torch.uint8))
    with pytest.raises(ValueError, match="none of 1 labels has a positive among 4 validation samples"):
        MultilabelGrid([1.0], 10, 1e-3).fit_and_score(one, none, one, one)
