"""Linear top-1 from few labels a class, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from siamese.probes import Features
from siamese.probes.few import choice, few_label_top1


def made(count, seed, classes=4, dim=6):
    random = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = 2 * random.standard_normal((count, dim)) + np.eye(classes, dim)[y] * 3 + 5
    return Features(torch.from_numpy(x).float(), torch.from_numpy(y))


@pytest.mark.parametrize("per_class", [1, 10])
def test_equals_scikit_learn(per_class):
    train, test = made(200, 0), made(300, 1)
    ours = few_label_top1(train, test, 4, per_class, 3)
    scale = StandardScaler().fit(train.x.numpy())
    scale.scale_ = train.x.std(0).numpy()  # ours has N - 1
    expected = []
    for seed in range(3):
        index = choice(train.y, per_class, seed)
        head = LogisticRegression(C=1, max_iter=2000, tol=1e-8)
        head.fit(scale.transform(train.x[index].numpy()), train.y[index])
        expected.append(head.score(scale.transform(test.x.numpy()), test.y.numpy()))
    assert ours == pytest.approx(expected, abs=1 / 300 + 1e-9)
    assert len(set(ours)) > 1


def test_choice_is_stratified_and_seeded():
    y = torch.tensor([0] * 20 + [1] * 3 + [2] * 20 + [-1] * 5)
    chosen = choice(y, 10, seed=1)
    assert y[chosen].bincount().tolist() == [10, 3, 10]
    assert torch.equal(chosen, choice(y, 10, seed=1)) and not torch.equal(chosen, choice(y, 10, seed=2))
    assert torch.equal(chosen, chosen.unique())
