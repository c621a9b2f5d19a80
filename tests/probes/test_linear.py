"""The grid of linear heads against autograd and scikit-learn."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from siamese.errors import UserError
from siamese.probes import Features, LinearGrid
from siamese.probes.linear import Standardised, best_head


def test_linear_head_matches_scikit_learn_regression(digits):
    fit, test = digits
    grid = LinearGrid([0.1, 0.3], [0.0, 1e-3], epochs=100, batch_size=256, seed=0)
    chosen = grid.choose(fit.subset(torch.arange(1000)), fit.subset(torch.arange(1000, 1200)), 10)
    ours = grid.score(fit, test, 10, chosen).top1
    scaler = StandardScaler().fit(fit.x)
    reference = LogisticRegression(C=1.0, max_iter=2000).fit(scaler.transform(fit.x), fit.y)
    assert ours == pytest.approx(reference.score(scaler.transform(test.x), test.y), abs=0.02)


def test_grid_trains_each_head_as_autograd_does(digits):
    """Heads trained together equal heads trained apart by torch.optim.SGD on nn.Linear."""
    fit = digits[0].subset(torch.arange(200))
    x = F.pad((fit.x - fit.x.mean(0)) / fit.x.std(0).clamp(min=1e-3), (0, 1), value=1.0)
    grid = LinearGrid([0.05, 0.2], [0.0, 0.01], epochs=3, batch_size=64, seed=5)
    as_they_are = torch.zeros(64), torch.ones(64)  # mean and std
    together = grid.train(Standardised(Features(x[:, :-1], fit.y), as_they_are), 10, grid.settings())
    for (lr, wd), weight in zip(grid.settings(), together, strict=True):
        head = nn.Linear(x.shape[1], 10, bias=False)
        nn.init.zeros_(head.weight)
        optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9, weight_decay=wd)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * 4)
        generator = torch.Generator().manual_seed(5)
        for _ in range(3):
            for index in torch.randperm(200, generator=generator).split(64):
                optimizer.zero_grad()
                F.cross_entropy(head(x[index]), fit.y[index]).backward()
                optimizer.step()
                schedule.step()
        torch.testing.assert_close(weight.T, head.weight.detach(), atol=1e-5, rtol=1e-4)


def test_nonfinite_head_is_never_best():
    nan = float("nan")
    assert best_head(torch.tensor([0.9, 0.5, 0.5]), torch.tensor([nan, 2.0, 1.0])) == 2


def test_ties_are_broken_by_cross_entropy():
    x = torch.tensor([[1.0], [-1.0]]).repeat(20, 1)
    f = Features(x, (x[:, 0] < 0).long())  # every head separates it; the better trained one is surer
    chosen = LinearGrid([1e-4, 0.1], [0.0], epochs=5, batch_size=40, seed=0).choose(f, f, 2)
    assert chosen.lr == 0.1
    assert chosen.top1 == 1


def test_choice_is_deterministic(digits):
    fit, _ = digits
    select = fit.subset(torch.arange(100))
    grid = LinearGrid([0.01, 0.1], [0.0], epochs=3, batch_size=256, seed=0)
    assert grid.choose(fit, select, 10) == grid.choose(fit, select, 10)  # the test part is no argument of it


def test_impossible_grid_is_refused(built):
    good = {"lrs": [0.1], "weight_decays": [0.0], "epochs": 1, "batch_size": 1, "seed": 0}
    for key, value in (("lrs", []), ("lrs", [0]), ("weight_decays", [-1]), ("epochs", 0), ("seed", -1)):
        with pytest.raises(UserError, match=f"eval.linear.{key}="):
            built("eval.linear", "siamese.probes.linear.LinearGrid", **{**good, key: value})
