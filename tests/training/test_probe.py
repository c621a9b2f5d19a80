"""Which images online evaluation and closing table look at."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from siamese.data import some_of
from siamese.probes import metrics
from siamese.training.probe import RANK_SAMPLES, VIEW_IMAGES, Probe, _that_choose


@pytest.fixture
def sorted_run(session, tmp_path):
    """A run on 1,000 classes, four images each, one class after the other as in a folder; an image's grey level is
    its class modulo 256."""
    labels = np.arange(4000) // 4
    images = np.broadcast_to((labels % 256).astype(np.uint8)[:, None, None], (4000, 8, 8))
    np.savez(
        tmp_path / "x.npz", train_images=images, train_labels=labels, val_images=images[::40], val_labels=labels[::40],
        test_images=images[::40], test_labels=labels[::40],
    )  # fmt: skip
    return session("data=npz", f"data.path={tmp_path / 'x.npz'}", "data.crop=8", "batch_size=200", "backbone=small")


def test_choice_of_samples_is_seeded_and_sorted():
    before = torch.get_rng_state()
    chosen = some_of(4000, 2048)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(chosen, some_of(4000, 2048))
    assert not torch.equal(chosen, some_of(4000, 2048, seed=1))
    assert torch.equal(chosen, chosen.unique())
    assert chosen.max() < 4000
    assert some_of(5, 8).tolist() == [0, 1, 2, 3, 4]


def test_probe_covers_the_classes_of_a_sorted_data_set(sorted_run, monkeypatch):
    """A random half of four rows per class misses one class in 17; the first half would hold 512 of 1,000."""
    run, seen, views = sorted_run, [], []
    monkeypatch.setattr(metrics, "of_features", lambda z: seen.append(z) or {})
    monkeypatch.setattr(metrics, "of_views", lambda z: views.append(z) or {})
    for _ in range(2):
        run.online.measure(run.method)
    assert torch.equal(*seen)
    assert torch.equal(*views)
    features = run.probe.features(run.method.backbone, run.method.device)["train_labeled"]
    assert len(features) == 4000
    rows = (
        run.probe.rows({"train_labeled": type(features)(features.y.float().unsqueeze(1), features.y)}).squeeze(1).long()
    )
    assert len(rows) == len(seen[0]) == RANK_SAMPLES
    assert torch.equal(seen[0], features.x[some_of(4000, RANK_SAMPLES)])
    classes = rows.bincount(minlength=1000)
    assert (classes > 0).sum() > 900  # 1,000 * (1 - 0.488^4) = 943 expected
    of_views = torch.cat([y for _, y, _ in run.probe.few])
    assert len(of_views) == VIEW_IMAGES == views[0].shape[0]
    assert len(of_views.unique()) > 200  # of the first 256 images 64
    assert of_views.max() > 950


def test_closing_rank_is_of_the_rows_of_online_evaluation(session, tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", train_images=np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8))
    run = session("data=npz", f"data.path={tmp_path / 'x.npz'}", "data.crop=8", "batch_size=50", "backbone=small")
    taken = []
    original = Probe.rows
    monkeypatch.setattr(Probe, "rows", lambda self, f: taken.append(original(self, f)) or taken[-1])
    run.fit()
    rank = run.finish()
    assert rank == pytest.approx(metrics.rankme(taken[-1]))
    assert len(torch.cat([y for _, y, _ in run.probe.few])) == VIEW_IMAGES
    assert run.data.pretrain.at_most(2048) is run.data.pretrain


@pytest.mark.parametrize(
    "y", [torch.arange(500) % 10, torch.arange(500) % 20, torch.arange(40) % 20], ids=["period 10", "20", "few"]
)
def test_the_images_that_choose_a_head_have_all_classes_where_labels_cycle(y):
    mask = _that_choose(y)
    assert len(y[~mask].unique()) == len(y.unique())
    assert len(y[mask].unique()) == len(y.unique())
    assert mask.sum() == {(500, 10): 50, (500, 20): 40, (40, 20): 20}[len(y), len(y.unique())]


def test_every_tenth_image_chooses_a_head():
    y = torch.randint(0, 10, (1000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(_that_choose(y), torch.arange(1000) % 10 == 0)
    assert torch.equal(_that_choose(F.one_hot(torch.arange(500) % 10)), torch.arange(500) % 10 == 0)  # several labels
