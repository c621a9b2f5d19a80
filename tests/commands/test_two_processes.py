"""train.py in two processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from runs import SHORT, STEPS, TWO_PROCESSES, differences, kill_all, modified, start, wait_for

from siamese.checkpoints.reading import load


def launched(arguments, folder, environments):
    """Starts a process an environment; returns (return code, stdout, stderr) of each."""
    base = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**base, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    return [(*p.communicate(timeout=120), p.returncode) for p in processes]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun", "srun"])
def test_each_launcher_makes_one_run(tiny, tmp_path, launcher):
    """Started by Lightning, by torchrun, and with the variables that SLURM's srun sets; one run folder."""
    script = str(ROOT / "train.py")
    arguments = [*tiny, "method=simsiam", *TWO_PROCESSES]
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "siamese", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
             "SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "localhost", "SLURM_NODELIST": "127.0.0.1",
             "SLURM_NNODES": "1", "MASTER_PORT": free_port(), "MASTER_ADDR": "127.0.0.1"}  # fmt: skip
    started = {
        "lightning": ([script], [{}]),
        "torchrun": (
            ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}", script],
            [{}],
        ),
        "srun": ([script], [{**slurm, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]),
    }  # fmt: skip
    command, environments = started[launcher]
    results = launched([*command, *arguments], tmp_path, environments)
    assert all(code == 0 for _, _, code in results), results
    assert sum(out.count("run folder:") for out, _, _ in results) == 1
    (folder,) = (tmp_path / "outputs" / "digits" / "simsiam").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"]
    assert summary["steps"] == STEPS  # the batch is global


@pytest.mark.slow
def test_unreadable_files_of_both_processes_are_counted(tiny, tmp_path, photos):
    bad = sorted(photos.rglob("*.png"))[::5]
    for file in bad:
        file.write_bytes(b"no image")
    arguments = [*tiny, "method=simsiam", *TWO_PROCESSES, "epochs=2",
                 "data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small",
                 "data.resident=false", "data.workers=0", "data.on_error=skip", "run_dir=r"]  # fmt: skip
    ((_, err, code),) = launched([str(ROOT / "train.py"), *arguments], tmp_path, [{}])
    assert code == 0, err
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["skipped_images"] == len(bad)


def test_batch_size_not_divisible_by_devices_is_refused(command, tiny):
    done = command("train.py", *tiny, *TWO_PROCESSES, "batch_size=63")
    assert done.returncode == 2
    assert "batch_size=63" in done.stderr


@pytest.mark.slow
def test_interrupted_and_killed_run_resumes_bit_by_bit(tmp_path):
    """SIGTERM to the first process; then SIGKILL to both; each time continued."""
    two = [*SHORT, *TWO_PROCESSES, "epochs=6"]
    whole = start([*two, "run_dir=whole"], tmp_path)
    _, err = whole.communicate(timeout=120)
    assert whole.returncode == 0, err
    file = tmp_path / "part" / "checkpoints" / "last.ckpt"
    part = start([*two, "run_dir=part"], tmp_path)
    wait_for(part, file.exists)
    part.send_signal(signal.SIGTERM)
    out, err = part.communicate(timeout=60)
    assert part.returncode == 128 + signal.SIGTERM, err
    assert "SIGTERM at step" in out
    before = modified(file)
    part = start([*two, "run_dir=part", "resume=true"], tmp_path)
    wait_for(part, lambda: modified(file) != before)
    kill_all(part)
    part = start([*two, "run_dir=part", "resume=auto"], tmp_path)
    _, err = part.communicate(timeout=120)
    assert part.returncode == 0, err
    assert differences(*(load(tmp_path / f / "checkpoints" / "last.ckpt") for f in ("part", "whole"))) == []


@pytest.mark.slow
def test_death_of_the_second_process_is_reported(tmp_path):
    two = [*SHORT, *TWO_PROCESSES, "epochs=50", "run_dir=r"]
    process = start(two, tmp_path)
    wait_for(process, (tmp_path / "r" / "checkpoints" / "last.ckpt").exists)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (second,) = (c for c in children if "train.py" in Path(f"/proc/{c}/cmdline").read_text())
    os.kill(int(second), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "another process has ended" in err
    assert "continue with resume=true run_dir=r" in err
    assert "Traceback" not in err
