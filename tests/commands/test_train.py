"""train.py, then eval_linear.py, as a user runs them on a tiny network."""

import hashlib
import json
import os

import torch

from siamese.checkpoints.reading import backbone_state, load


def test_train_then_evaluate(command, tiny, tmp_path):
    """The evaluation does not change the checkpoint."""
    done = command("train.py", *tiny, "method=simsiam")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "raw_pixels" in done.stdout
    assert "resident on cpu" in done.stdout
    (folder,) = (tmp_path / "outputs" / "digits" / "simsiam").iterdir()
    file = folder / "checkpoints" / "last.ckpt"
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "report.html",
        "report.json",
        "summary.json",
        "views.png",
    ]
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    done = command("eval_linear.py", f"ckpt={file}", "eval.linear.epochs=2", "run_dir=e")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["results"]["digits"]["images"] == {"fit": 1295, "val": 143, "test": 359}
    assert results["ckpt_sha256"] == before == hashlib.sha256(file.read_bytes()).hexdigest()
    assert set(results["baselines"]) == {"raw_pixels", "random_init"}
    assert sorted(os.listdir(tmp_path)) == ["e", "outputs"]


def test_evaluation_does_not_change_the_backbone(session, evaluation):
    run = session()
    run.fit()
    made = evaluation(run.state.checkpoint, "eval.linear.epochs=2")
    backbone = made.rows[-1].network
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    assert len(before) > 10
    made.run()
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert not any(m.training for m in backbone.modules())
    trained = backbone_state(load(run.state.checkpoint))
    assert all(torch.equal(v, after[k]) for k, v in trained.items())


def test_train_returns_the_validation_figure(config, tiny, tmp_path):
    from siamese.commands import train

    value = train.main(config(*tiny, f"run_dir={tmp_path / 'r'}"))
    assert value == json.loads((tmp_path / "r" / "summary.json").read_text())["linear_top1"]
