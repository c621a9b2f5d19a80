"""Which images the monitors look at."""

import numpy as np
import pytest
import torch

from siamese import build
from siamese.data import some_of
from siamese.monitor import health
from siamese.monitor.probes import RANK_SAMPLES, VIEW_IMAGES, Probe


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


def test_a_choice_is_seeded_sorted_and_its_own(monkeypatch):
    before = torch.get_rng_state()
    chosen = some_of(4000, 2048)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(chosen, some_of(4000, 2048))
    assert not torch.equal(chosen, some_of(4000, 2048, seed=1))
    assert torch.equal(chosen, chosen.unique())
    assert chosen.max() < 4000
    assert some_of(5, 8).tolist() == [0, 1, 2, 3, 4]


def test_monitors_see_all_of_sorted_classes(sorted_run, monkeypatch):
    """A half of four rows a class misses one of 17 classes; the first half would hold 512 of 1,000."""
    run, seen, views = sorted_run, [], []
    monkeypatch.setattr(health, "of_features", lambda z: seen.append(z) or {})
    monkeypatch.setattr(health, "of_views", lambda z: views.append(z) or {})
    for _ in range(2):
        run.monitor.measure(run.method)
    assert torch.equal(*seen)
    assert torch.equal(*views)
    features = run.probe.features(run.method.backbone, run.method.device)["fit"]
    assert len(features) == 4000
    rows = run.probe.rows({"fit": type(features)(features.y.float().unsqueeze(1), features.y)}).squeeze(1).long()
    assert len(rows) == len(seen[0]) == RANK_SAMPLES
    assert torch.equal(seen[0], features.x[some_of(4000, RANK_SAMPLES)])
    classes = rows.bincount(minlength=1000)
    assert (classes > 0).sum() > 900  # 1,000 * (1 - 0.488^4) = 943 expected
    of_views = torch.cat([y for _, y, _ in run.probe.few])
    assert len(of_views) == VIEW_IMAGES == views[0].shape[0]
    assert len(of_views.unique()) > 200  # of the first 256 images 64
    assert of_views.max() > 950


def test_the_closing_rank_is_of_the_monitors_rows(session, tmp_path, monkeypatch):
    """Without labels."""
    np.savez(tmp_path / "x.npz", train_images=np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8))
    run = session("data=npz", f"data.path={tmp_path / 'x.npz'}", "data.crop=8", "batch_size=50", "backbone=small")
    taken = []
    original = Probe.rows
    monkeypatch.setattr(Probe, "rows", lambda self, f: taken.append(original(self, f)) or taken[-1])
    run.fit()
    rank = run.finish()
    assert rank == pytest.approx(health.rankme(taken[-1]))
    assert len(torch.cat([y for _, y, _ in run.probe.few])) == VIEW_IMAGES
    assert build.at_most(run.data.pretrain, 2048) is run.data.pretrain
