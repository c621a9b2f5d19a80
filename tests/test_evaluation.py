import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict as lightly_knn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

from siamese.augment import CleanView
from siamese.errors import UserError
from siamese.evaluation import Features, LinearGrid, extract, knn_accuracy, knn_predict
from siamese.evaluation import knn as knn_module
from siamese.evaluation.knn import knn_grid
from siamese.evaluation.linear import Standardised, best_head
from siamese.evaluation.logistic import Logistic


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    x += 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))  # no ties
    return Features(x[:1200], y[:1200]), Features(x[1200:], y[1200:])


@pytest.mark.parametrize("k", [1, 20])
def test_knn_is_scikit_learns(digits, k):
    bank, queries = digits
    t = 0.1
    reference = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / t)).fit(bank.x, bank.y)
    ours = knn_predict(bank, queries.x, 10, k, t)
    np.testing.assert_array_equal(ours, reference.predict(queries.x))


def test_knn_is_lightlys(digits):
    bank, queries = digits
    theirs = lightly_knn(F.normalize(queries.x), F.normalize(bank.x).T, bank.y, 10, 200, 0.1)[:, 0]
    assert torch.equal(knn_predict(bank, queries.x, 10, 200, 0.1), theirs)


def test_knn_in_blocks_is_the_same(digits, monkeypatch):
    bank, queries = digits
    whole = knn_predict(bank, queries.x, 10, 20, 0.1)
    monkeypatch.setattr(knn_module, "BLOCK", 1)
    assert torch.equal(knn_predict(bank, queries.x, 10, 20, 0.1), whole)


def test_a_grid_of_neighbours_is_each_of_them(digits, monkeypatch):
    bank, queries = digits
    ks, ts = [1, 5, 10, 20, 50, 100, 200], [0.07, 0.5]
    monkeypatch.setattr(knn_module, "BANK_ROWS", 300)  # the best of several blocks, the last one shorter
    grid = knn_grid(bank, queries, 10, ks, ts)
    assert grid.shape == (7, 2, len(queries))
    for i, k in enumerate(ks):
        for j, t in enumerate(ts):
            reference = KNeighborsClassifier(k, metric="cosine", weights=lambda d, t=t: np.exp((1 - d) / t))
            np.testing.assert_array_equal(grid[i, j], reference.fit(bank.x, bank.y).predict(queries.x))


def test_knn_with_more_neighbours_than_the_bank(digits):
    bank, queries = digits
    small = bank.subset(torch.arange(7))
    assert 0 <= knn_accuracy(small, queries, 10, 200, 0.1) <= 1


def test_knn_votes_do_not_overflow_at_a_low_temperature():
    bank = Features(torch.eye(2), torch.tensor([0, 1]))
    assert knn_predict(bank, torch.tensor([[1.0, 0.1]]), 2, 2, 1e-3).tolist() == [0]


def test_linear_head_is_scikit_learns_regression(digits):
    fit, test = digits
    grid = LinearGrid([0.1, 0.3], [0.0, 1e-3], epochs=100, batch_size=256, seed=0)
    chosen = grid.choose(fit.subset(torch.arange(1000)), fit.subset(torch.arange(1000, 1200)), 10)
    ours = grid.score(fit, test, 10, chosen).top1
    scaler = StandardScaler().fit(fit.x)
    reference = LogisticRegression(C=1.0, max_iter=2000).fit(scaler.transform(fit.x), fit.y)
    assert ours == pytest.approx(reference.score(scaler.transform(test.x), test.y), abs=0.02)


def test_the_grid_trains_each_head_as_autograd_would(digits):
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


@pytest.mark.parametrize(("l2", "tolerance"), [(1e-4, 1e-6), (1e-2, 1e-5), (1.0, 1e-5)])
def test_the_converged_regression_is_scikit_learns(digits, l2, tolerance):
    fit, test = digits
    moments = fit.moments()
    train, held_out = Standardised(fit, moments), Standardised(test, moments)
    solution = Logistic([l2], 500, tolerance).solve(train, 10, l2)
    assert solution.converged
    x, on = next(train.blocks(10000))[0][:, :-1], next(held_out.blocks(10000))[0][:, :-1]
    reference = LogisticRegression(C=1 / (l2 * len(fit)), max_iter=5000, tol=1e-6).fit(x.double(), fit.y)
    ours = (on @ solution.weight[:-1] + solution.weight[-1]).softmax(1)
    np.testing.assert_allclose(ours, reference.predict_proba(on.double()), atol=0.02)
    assert (ours.argmax(1) == test.y).float().mean() == pytest.approx(reference.score(on.double(), test.y), abs=0.002)


def test_a_regression_that_has_not_converged_says_so(digits):
    fit, test = digits
    parts = fit.subset(torch.arange(1000)), fit.subset(torch.arange(1000, 1200)), fit, test
    found = Logistic([1e-6, 1e-2], 2, 1e-7).evaluate(*parts, 10)
    assert found["converged"] is False
    found = Logistic([10.0, 1e-2], 500, 1e-4).evaluate(*parts, 10)
    assert found["converged"] is True
    assert found["chosen"]["l2"] == 1e-2
    assert found["top1"] > 0.85


def test_the_best_head_is_a_finite_one():
    nan = float("nan")
    assert best_head(torch.tensor([0.9, 0.5, 0.5]), torch.tensor([nan, 2.0, 1.0])) == 2


def test_the_choice_breaks_ties_by_cross_entropy():
    x = torch.tensor([[1.0], [-1.0]]).repeat(20, 1)
    f = Features(x, (x[:, 0] < 0).long())  # every head separates it; the better trained one is surer
    chosen = LinearGrid([1e-4, 0.1], [0.0], epochs=5, batch_size=40, seed=0).choose(f, f, 2)
    assert chosen.lr == 0.1
    assert chosen.top1 == 1


def test_permuted_test_labels_change_no_choice(digits):
    fit, _ = digits
    select = fit.subset(torch.arange(100))
    grid = LinearGrid([0.01, 0.1], [0.0], epochs=3, batch_size=256, seed=0)
    assert grid.choose(fit, select, 10) == grid.choose(fit, select, 10)  # the test part is no argument of it


def test_features_in_a_file_give_what_features_in_memory_give(digits, tmp_path):
    fit, test = digits
    stored = []
    for i, f in enumerate((fit, test)):
        np.save(tmp_path / f"{i}.npy", f.x.half().numpy())
        stored.append(
            Features(torch.from_numpy(np.load(tmp_path / f"{i}.npy", mmap_mode="c")), f.y, torch.device("cpu"))
        )
    memory = [Features(f.x.half().float(), f.y) for f in (fit, test)]
    for a, b in zip(fit.moments(), (fit.x.mean(0), fit.x.std(0)), strict=True):
        torch.testing.assert_close(a[b > 1e-3], b[b > 1e-3])
    assert stored[0].x.dtype == torch.float16
    grid = LinearGrid([0.1], [0.0], epochs=5, batch_size=256, seed=0)
    heads = [grid.train(Standardised(f, f.moments()), 10, grid.settings()) for f in (stored[0], memory[0])]
    torch.testing.assert_close(*heads, atol=1e-4, rtol=1e-3)
    assert knn_accuracy(stored[0], stored[1], 10, 20, 0.1) == knn_accuracy(*memory, 10, 20, 0.1)
    both, expected = stored[0].plus(stored[1]), memory[0].plus(memory[1])
    assert both.x.dtype == torch.float16
    assert [p.data_ptr() for p in both.x.parts] == [f.x.data_ptr() for f in stored]  # no copy of them
    assert torch.equal(torch.cat([x for x, _ in both.blocks(500)]), expected.x)  # blocks over the seam
    assert torch.equal(both.y, expected.y)
    index = torch.randperm(len(expected), generator=torch.Generator().manual_seed(0))
    assert torch.equal(both.rows(index), expected.x[index])
    assert torch.equal(both.subset(expected.y == 3).x, expected.x[expected.y == 3])
    assert torch.equal(both.subset(torch.tensor([3, 1500])).x, expected.x[[3, 1500]])


def test_impossible_grids(built):
    good = {"lrs": [0.1], "weight_decays": [0.0], "epochs": 1, "batch_size": 1, "seed": 0}
    for key, value in (("lrs", []), ("lrs", [0]), ("weight_decays", [-1]), ("epochs", 0), ("seed", -1)):
        with pytest.raises(UserError, match=f"eval.linear.{key}="):
            built("eval.linear", "siamese.evaluation.LinearGrid", **{**good, key: value})


class Net(nn.Module):
    feature_dim = 4

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.bn(self.conv(x))).mean((2, 3))


def test_extraction_changes_no_tensor_and_no_mode():
    net = Net().train()
    net.conv.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([0, 1, -1, 0, 1, 0, 1, 0, 1, 0])
    view = CleanView(8, 1.0, [0.5] * 3, [0.2] * 3)
    batches = [(images[:6], labels[:6], None), (images[6:], labels[6:], None)]
    features = extract(net, batches, view, "cpu")
    assert len(features) == 9  # the sample without a label is left out
    assert len(extract(net, batches, view, "cpu", keep_unlabelled=True)) == 10
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert net.training
    assert net.bn.training
    assert not net.conv.training
    expected = net.eval()(((images.float() / 255) - 0.5) / 0.2)[labels >= 0]
    torch.testing.assert_close(features.x, expected.detach())
