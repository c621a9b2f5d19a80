"""Helpers of tests: start, interrupt and compare runs of train.py."""

import csv
import os
import signal
import subprocess
import time

import processes
import pytest
import pytorch_lightning as pl
import torch
from paths import ROOT

STEPS = 1438 // 64  # optimiser steps of an epoch on the digits
TWO_PROCESSES = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
# A run of seconds that saves often.
SHORT = ("method=moco", "epochs=20", "backbone.widths=[4,8]", "monitor.every=5", "probe.linear.epochs=2",
         "trainer=cpu", "checkpoint.every_steps=7")  # fmt: skip


class CallAt(pl.Callback):
    """Calls `action` before batch `at` is trained, counted over epochs."""

    def __init__(self, at, action):
        self.at, self.action, self.count = at, action, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.count += 1
        if self.count == self.at:
            self.action()


class SignalAt(CallAt):
    """Sends this process a signal."""

    def __init__(self, at, signum=signal.SIGTERM):
        super().__init__(at, lambda: os.kill(os.getpid(), signum))


def interrupt(run, at, signum=signal.SIGTERM):
    """Train until a signal at batch `at` ends the run."""
    run.trainer.callbacks.insert(0, SignalAt(at, signum))
    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as stop:
        run.fit()
    assert stop.value.code == 128 + signum
    assert signal.getsignal(signum) == before


def differences(ours, expected, path=""):
    """Where two checkpoints differ, except for times and folders."""
    if isinstance(expected, dict):
        out = [f"{path}.{k} only in one" for k in set(ours) ^ set(expected)]
        for k in set(ours) & set(expected) - {"run_id", "run_dir", "resume", "overwrite", "train_seconds"}:
            out += differences(ours[k], expected[k], f"{path}.{k}")
        return out
    if isinstance(expected, (list, tuple)):
        if len(ours) != len(expected):
            return [f"{path}: lengths"]
        pairs = enumerate(zip(ours, expected, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}[{i}]")]
    same = torch.equal(ours, expected) if isinstance(expected, torch.Tensor) else ours == expected
    return [] if same else [f"{path}: {str(ours)[:60]} instead of {str(expected)[:60]}"]


def rows_of(file):
    """The rows of metrics.csv."""
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def timeless_rows(file):
    """The rows of metrics.csv that do not depend on the clock."""
    return [
        {k: v for k, v in row.items() if k != "images_per_second"}
        for row in rows_of(file)
        if not row.get("images_per_second")
    ]


def start(arguments, folder, **environment):
    """train.py in a process group of its own."""
    return processes.start(
        [ROOT / "train.py", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hears_ctrl_c,
    )


def _hears_ctrl_c():
    """A shell lets its background jobs, such as this test suite, ignore Ctrl-C, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(process, condition):
    """Wait until the condition holds; a process that ends before has failed."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def modified(file):
    """Time of the last change, 0 without a file."""
    return file.stat().st_mtime_ns if file.exists() else 0


def kill_all(process):
    """SIGKILL to the group of a process that `start` started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
