"""train.py interrupted by signals at any moment."""

import json
import os
import random
import signal
import stat
import time
from pathlib import Path

import pytest
from runs import SHORT, STEPS, differences, kill_all, modified, start, wait_for

from siamese.checkpoints.reading import load, newest


def test_ctrl_c_keeps_the_checkpoint_and_prints_how_to_resume(tiny, tmp_path):
    file = tmp_path / "r" / "checkpoints" / "last.ckpt"
    process = start([*tiny, "epochs=1000", "run_dir=r"], tmp_path)
    wait_for(process, file.exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "resume=true run_dir=r" in out
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["finished"] is False
    load(file)


@pytest.mark.slow
def test_run_killed_six_times_at_random_moments_resumes_bit_by_bit(tmp_path):
    whole = start([*SHORT, "run_dir=whole"], tmp_path)
    file = tmp_path / "part" / "checkpoints" / "last.ckpt"
    dice, steps, kills = random.Random(0), [], 0
    part = start([*SHORT, "run_dir=part"], tmp_path)
    while kills < 6:
        before = modified(file)
        wait_for(part, lambda before=before: modified(file) != before)
        # Some steps further, or while a checkpoint is written; two more at most: a fast machine must not be done first.
        moment, seen = time.monotonic() + dice.uniform(0, 0.25), {modified(file)}
        while time.monotonic() < moment and len(seen) < 3:
            time.sleep(0.001)
            seen.add(modified(file))
        kill_all(part)
        kills += 1
        _, saved = newest(file.parent)
        steps.append(saved["global_step"])
        part = start([*SHORT, "run_dir=part", "resume=true"], tmp_path)
    _, err = part.communicate(timeout=120)
    assert part.returncode == 0, err
    assert whole.wait(timeout=120) == 0
    whole.communicate()
    assert steps == sorted(steps)
    assert len(set(steps)) >= 5  # it went on in between
    assert steps[-1] < 440
    assert differences(*(load(tmp_path / f / "checkpoints" / "last.ckpt") for f in ("part", "whole"))) == []


def test_slurm_warning_requeues_the_job(tmp_path, tiny):
    tools = tmp_path / "bin"
    tools.mkdir()
    scontrol = tools / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\n")
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IEXEC)
    arguments = [*tiny, "method=simsiam", "epochs=500", "run_dir=r", "resume=auto"]
    process = start(arguments, tmp_path, SLURM_JOB_ID="4711", PATH=f"{tools}:{os.environ['PATH']}")
    wait_for(process, (tmp_path / "r" / "checkpoints" / "last.ckpt").exists)
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR1, err
    assert "SLURM job 4711 is requeued" in out
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    step = load(tmp_path / "r" / "checkpoints" / "last.ckpt")["global_step"]
    again = start([*arguments[:-3], f"epochs={step // STEPS + 2}", "run_dir=r", "resume=auto"], tmp_path)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"continued from r/checkpoints/last.ckpt, step {step}" in out


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signal_to_the_process_group_does_not_kill_workers(tmp_path, tiny, photos, signum):
    """As SLURM and systemd send it."""
    process = start(
        [*tiny, "data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small",
         "method=simsiam", "data.resident=false", "data.workers=2", "epochs=500", "run_dir=r"], tmp_path,
    )  # fmt: skip
    wait_for(process, (tmp_path / "r" / "checkpoints" / "last.ckpt").exists)
    os.killpg(process.pid, signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, err
    assert "saved at step" in out


@pytest.mark.parametrize("first", ["run", "workers"])
def test_signal_to_each_process_ends_the_run_without_a_traceback(tmp_path, tiny, photos, first):
    """As scancel may send it: to workers, too, in any order."""
    process = start(
        [*tiny, "data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small",
         "method=simsiam", "data.resident=false", "data.workers=2", "epochs=500", "run_dir=r"], tmp_path,
    )  # fmt: skip
    wait_for(process, (tmp_path / "r" / "checkpoints" / "last.ckpt").exists)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) >= 2
    ids = [process.pid, *map(int, workers)]
    for pid in ids if first == "run" else reversed(ids):
        os.kill(pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    assert "saved at step" in out
