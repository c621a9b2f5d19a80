"""Converged logistic regression against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from siamese.probes.linear import Standardised
from siamese.probes.logistic import LogisticGrid


@pytest.mark.parametrize(("l2", "tolerance"), [(1e-4, 1e-6), (1e-2, 1e-5), (1.0, 1e-5)])
def test_converged_regression_equals_scikit_learn(digits, l2, tolerance):
    fit, test = digits
    moments = fit.moments()
    train, held_out = Standardised(fit, moments), Standardised(test, moments)
    solution = LogisticGrid([l2], 500, tolerance).solve(train, 10, l2)
    assert solution.converged
    x, on = next(train.blocks(10000))[0][:, :-1], next(held_out.blocks(10000))[0][:, :-1]
    reference = LogisticRegression(C=1 / (l2 * len(fit)), max_iter=5000, tol=1e-6).fit(x.double(), fit.y)
    ours = (on @ solution.weight[:-1] + solution.weight[-1]).softmax(1)
    np.testing.assert_allclose(ours, reference.predict_proba(on.double()), atol=0.02)
    assert (ours.argmax(1) == test.y).float().mean() == pytest.approx(reference.score(on.double(), test.y), abs=0.002)


def test_convergence_is_reported(digits):
    fit, test = digits
    parts = fit.subset(torch.arange(1000)), fit.subset(torch.arange(1000, 1200)), fit, test
    found = LogisticGrid([1e-6, 1e-2], 2, 1e-7).fit_and_score(*parts, 10)
    assert found["converged"] is False
    found = LogisticGrid([10.0, 1e-2], 500, 1e-4).fit_and_score(*parts, 10)
    assert found["converged"] is True
    assert found["chosen"]["l2"] == 1e-2
    assert found["top1"] > 0.85
