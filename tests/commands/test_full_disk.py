"""train.py on a full disk: one line, exit code 1, and what was written stays."""

import json
import os
import subprocess
import sys

import processes
import pytest
from paths import ROOT
from runs import SHORT

# torch 2.6 writes a module to the temporary folder when it is imported, so the limit is set after that.
LIMITED = """
import resource, runpy, sys
import siamese.training
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_config_survives_a_failed_write(session, tmp_path):
    run = session()
    run.fit()
    run.close()
    before = (tmp_path / "run" / "config.yaml").read_text()
    done = processes.run(
        ["-c", LIMITED, str(ROOT / "train.py"), "run_dir=run", "resume=true", "epochs=2", "trainer=cpu",
         "backbone.widths=[4,8]"],
        cwd=tmp_path, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: run/config.yaml cannot be written")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "run" / "config.yaml").read_text() == before


@pytest.mark.slow
def test_both_processes_end_if_the_first_cannot_write(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), *SHORT, "trainer=ddp", "trainer.accelerator=cpu",
               "trainer.devices=2", "run_dir=r"]  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", *command],
        cwd=tmp_path, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: step 7: the checkpoint r/checkpoints/last.ckpt cannot be written") == 1
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["finished"] is False
