"""A run in this process: what it writes and what it must not touch."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from method_cases import METHODS, settings
from PIL import Image
from runs import STEPS, rows_of


@pytest.mark.filterwarnings("ignore:epoch .. the representation has collapsed")  # of a network of 8 features
@pytest.mark.parametrize("method", METHODS)
def test_run_folder_holds_config_summary_metrics_views_and_checkpoint(session, tmp_path, method):
    run = session(f"method={method}", *settings(method), "trainer.log_every_n_steps=5")
    run.fit()
    value = run.finish()
    folder = tmp_path / "run"
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("method", "data", "backbone", "epochs", "steps", "seconds", "train_seconds", "images_per_second",
                "peak_memory_mb", "knn_top1",
                "linear_top1", "baselines", "versions", "device", "finished"):  # fmt: skip
        assert key in summary
    assert summary["finished"] is True
    assert summary["linear_top1"] == value
    for row in (summary, summary["baselines"]["raw_pixels"], summary["baselines"]["random_init"]):
        assert 0 <= row["knn_top1"] <= 1
        assert 0 <= row["linear_top1"] <= 1
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["method"]["name"] == method
    assert "${" not in (folder / "config.yaml").read_text()
    rows = rows_of(folder / "metrics.csv")
    logged = [r for r in rows if r["loss"]]
    assert [int(r["step"]) for r in logged] == [4, 9, 14, 19][: len(logged)]
    assert len(logged) >= 3
    assert any(r["knn_top1"] for r in rows)
    assert any(r["images_per_second"] for r in rows)
    for column in ("projection_std", "feature_rank", "alpha_req", "uniformity", "alignment", "lidar"):
        assert any(r[column] for r in rows), column
    with Image.open(folder / "views.png") as picture:
        assert picture.size[0] > 300
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert any(k.startswith("backbone.") for k in state["state_dict"])
    assert state["global_step"] == summary["steps"]


def test_same_seed_gives_same_weights(session):
    weights = []
    for folder in ("a", "b"):
        run = session(folder=folder)
        run.fit()
        weights.append(run.method.state_dict())
    for key, value in weights[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, weights[1][key]), key
    other = session("seed=1", folder="c")
    other.fit()
    assert not torch.equal(other.method.backbone.layers[0].weight, weights[0]["backbone.layers.0.weight"])


def test_ema_and_queue_move_once_per_optimizer_step(session, monkeypatch):
    run = session("method=moco", "batch_size=64", "trainer.accumulate_grad_batches=2", "monitor.every=0")
    calls = []
    after_step = run.method.after_step
    monkeypatch.setattr(run.method, "after_step", lambda *a: (calls.append(a), after_step(*a)))
    before = run.method.queue.clone()
    run.fit()
    steps = run.trainer.global_step
    assert steps == STEPS
    assert [c[0] for c in calls] == list(range(steps))
    assert {c[1] for c in calls} == {steps}
    changed = (run.method.queue != before).any(0).sum()
    assert changed == steps * 64


def test_target_network_stays_in_train_mode(session):
    run = session("method=byol")
    run.fit()
    assert all(m.training for m in run.method.target.modules())


def test_flat_folder_trains_without_labels(session, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.jpg")
    for resident in ("true", "false"):
        run = session(
            "data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "augment=small/simclr",
            "batch_size=8", "backbone=small", "method=simclr", f"data.resident={resident}", "data.workers=1",
            folder=resident,
        )  # fmt: skip
        run.fit()
        assert run.finish() > 1  # RankMe
        summary = json.loads((tmp_path / resident / "summary.json").read_text())
        assert "knn_top1" not in summary
        assert summary["feature_rank"] > 1


def test_training_does_not_read_test_split(session):
    run = session()
    run.data.test = None
    run.fit()
    run.finish()


def test_loss_is_float32_in_bf16_training(session):
    run = session("trainer.precision=bf16-mixed", "method=moco_v1")  # temperature 0.07
    seen = []
    original = run.method.loss
    run.method.loss = lambda views: (seen.append(original(views)), seen[-1])[1]
    run.fit()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in seen)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler about its own doing
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_compiled_resident_run_takes_the_steps_of_a_plain_run(session):
    """Compiled networks and views, channels last and resident images, against none of these. Same views, float32.

    By SGD at a low rate: Adam makes whole steps of gradients that are nothing but rounding, and a high rate amplifies
    the rounding."""
    losses = {}
    common = ("method=simsiam", "batch_size=143", "epochs=1", "monitor.every=0", "trainer.log_every_n_steps=1",
              "backbone.widths=[16,32]", "optimizer=sgd", "optimizer.lr=0.03", "optimizer.warmup_epochs=0")  # fmt: skip
    fast = session(*common, "compile=true", "augment.compiled=true", folder="fast")
    fast.fit()
    plain = session(*common, "compile=false", "augment.compiled=false", "data.resident=false", folder="plain")
    plain.method.to(memory_format=torch.contiguous_format)
    plain.fit()
    for run in (fast, plain):
        losses[run] = [float(row["loss"]) for row in rows_of(run.folder / "metrics.csv") if row["loss"]]
    assert len(losses[fast]) == 10
    assert losses[fast] == pytest.approx(losses[plain], abs=1e-5)
    weights = [next(run.method.backbone.parameters()) for run in (fast, plain)]
    assert weights[0].is_contiguous(memory_format=torch.channels_last)
    assert not weights[1].is_contiguous(memory_format=torch.channels_last)
    assert list(fast.method.state_dict()) == list(plain.method.state_dict())
