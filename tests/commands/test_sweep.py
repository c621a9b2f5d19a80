"""train.py -m: a run folder for each trial, a failed trial does not end the sweep."""

import json

import pytest


@pytest.mark.slow
def test_sweep_continues_after_a_failed_trial(command, tiny, tmp_path):
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


def test_trials_have_subfolders_of_run_dir(command, tiny, tmp_path):
    arguments = ("seed=0,1", "run_dir=here", "monitor.every=0", "logger=wandb")
    done = command("train.py", "-m", *tiny, *arguments, WANDB_MODE="offline", WANDB_SILENT="true")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["00", "01"]
    for trial in ("00", "01"):
        assert len(list((tmp_path / "here" / trial).rglob("run-*.wandb"))) == 1
