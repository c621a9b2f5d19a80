"""Standard output that cannot be written does not end a run: other encodings, closed pipes, full disks."""

import os
import subprocess

import processes
import pytest
from paths import ROOT

RUN = [ROOT / "train.py", "epochs=1", "backbone.widths=[4,8]", "probe.linear.epochs=1",
       "trainer=cpu", "run_dir=run"]  # fmt: skip


def finished(folder):
    return '"finished": true' in (folder / "run" / "summary.json").read_text()


@pytest.mark.slow
def test_ascii_terminal(tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = processes.run(RUN, cwd=tmp_path, env=environment, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr
    done.stdout.decode("ascii")
    assert finished(tmp_path)


@pytest.mark.slow
def test_full_disk_and_closed_pipe(tmp_path):
    with open("/dev/full", "w") as full:
        done = processes.run(RUN, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("standard output cannot be written ([Errno 28] No space left on device); the run") == 1
    assert finished(tmp_path)
    read, write = os.pipe()
    os.close(read)
    again = [*RUN, "overwrite=true"]
    done = processes.run(again, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, timeout=240)
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "standard output cannot be written ([Errno 32] Broken pipe); the run goes on without it\n"
    assert finished(tmp_path)
