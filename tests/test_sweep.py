"""Sweeps: a run folder a trial, a failing trial does not end them, one table."""

import json

import pytest
from rich.console import Console

from siamese import sweep


def outcome(setting, seed, knn, linear, error=None):
    summary = None if error else {"knn_top1": knn, "linear_top1": linear, "images_per_second": 100.0}
    return {"overrides": [setting, f"seed={seed}"], "summary": summary, "error": error}


def test_the_table_has_mean_and_spread_over_seeds():
    rows = [
        outcome("method=byol", 0, 0.90, 0.91), outcome("method=byol", 1, 0.92, 0.91),
        outcome("method=simclr", 0, 0.5, 0.6), outcome("method=simclr", 1, 0, 0, "boom"),
    ]  # fmt: skip
    console = Console(record=True, width=200)
    console.print(sweep.table(rows))
    lines = console.export_text().splitlines()
    (byol,) = [line for line in lines if "method=byol" in line]
    assert "91.00 ± 1.41" in byol  # the sample standard deviation of 90 and 92
    assert "91.00 ± 0.00" in byol
    (simclr,) = [line for line in lines if "method=simclr" in line]
    assert "50.00" in simclr
    assert simclr.split("│")[-2].strip() == "1"  # one failed


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failed_trial(command, tiny, tmp_path):
    done = command(
        "train.py", "-m", *tiny, "method=simclr,moco", "seed=0,1", "method.temperature=-1,0.5", "batch_size=64"
    )
    assert done.returncode == 1, done.stderr
    trials = [json.loads(f.read_text()) for f in sorted(tmp_path.glob("outputs/sweeps/*/trials/*.json"))]
    assert len(trials) == 8
    failed = [t for t in trials if t["error"]]
    assert len(failed) == 4
    assert all("method.temperature=-1" in t["error"] for t in failed)
    assert done.stdout.count("failed: ") == 4
    folders = {t["run_dir"] for t in trials if not t["error"]}
    assert len(folders) == 4
    assert "mean ± standard deviation over seeds" in done.stdout


def test_trials_of_a_given_run_dir_are_apart(command, tiny, tmp_path):
    arguments = ("seed=0,1", "run_dir=here", "monitor.every=0", "logger=wandb")
    done = command("train.py", "-m", *tiny, *arguments, WANDB_MODE="offline", WANDB_SILENT="true")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["00", "01"]
    for trial in ("00", "01"):
        assert len(list((tmp_path / "here" / trial).rglob("run-*.wandb"))) == 1


def test_train_returns_the_validation_figure(config, tiny, tmp_path):
    import train

    value = train.train(config(*tiny, f"run_dir={tmp_path / 'r'}"))
    assert value == json.loads((tmp_path / "r" / "summary.json").read_text())["linear_top1"]
