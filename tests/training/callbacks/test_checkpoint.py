"""Checkpoints are written beside the training; disk errors keep the previous one."""

import os
import signal
import threading

import pytest
import pytorch_lightning as pl
from runs import STEPS, differences

from siamese.checkpoints.reading import load
from siamese.errors import RunAborted
from siamese.training.callbacks import AtomicCheckpointIO, checkpoint


class Release(pl.Callback):
    """Lets the writer go on three steps after the checkpoint."""

    def __init__(self, event):
        self.event = event

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == STEPS + 3:
            self.event.set()


def test_a_checkpoint_holds_its_step_although_the_training_goes_on(session, monkeypatch, tmp_path):
    """Every tensor and counter is that of the step, not of the step at which it reaches the disk."""
    write, event, waited = AtomicCheckpointIO._write, threading.Event(), []

    def late(self, checkpoint, file, keep):
        if checkpoint["global_step"] == STEPS:
            waited.append(event.wait(60))
        return write(self, checkpoint, file, keep)

    common = ("method=byol", "epochs=2", "monitor.every=1")
    whole = session(*common, folder="whole")
    kept = {}
    monkeypatch.setattr(
        AtomicCheckpointIO, "_write", lambda s, c, *how: kept.setdefault(c["global_step"], write(s, c, *how))
    )
    whole.fit()
    assert list(kept) == [STEPS, 2 * STEPS]
    monkeypatch.setattr(AtomicCheckpointIO, "_write", late)
    part = session(*common, folder="part")
    part.trainer.callbacks.append(Release(event))
    part.fit()
    assert waited == [True]
    for name in ("previous", "last"):
        files = [tmp_path / folder / "checkpoints" / f"{name}.ckpt" for folder in ("part", "whole")]
        assert differences(*map(load, files)) == []


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (("checkpoint.least_seconds=0",), [1, 2, 3]),
        (("checkpoint.least_seconds=1000",), [1, 3]),
        (("checkpoint.least_seconds=1000", f"checkpoint.every_steps={2 * STEPS}"), [1, 2, 3]),
    ],
)
def test_short_epochs_are_saved_now_and_then(session, settings, steps):
    """The first and the last one always, and each multiple of `every_steps`."""
    run, saved = session("epochs=3", "monitor.every=0", *settings), []
    original = run.trainer.save_checkpoint
    run.trainer.save_checkpoint = lambda file: (saved.append(run.trainer.global_step), original(file))
    run.fit()
    assert saved == [n * STEPS for n in steps]
    assert load(run.state.checkpoint)["global_step"] == 3 * STEPS


def test_full_disk_keeps_the_last_checkpoint(session, tmp_path):
    run = session("epochs=3", "checkpoint.every_steps=30")
    original = run.checkpoints.save

    def save(trainer):
        if trainer.global_step == 30:
            run.state.settle()  # the file of step 22 is there
            os.symlink("/dev/full", run.state.checkpoint.with_suffix(".tmp"))
        original(trainer)

    run.checkpoints.save = save
    with pytest.raises(RunAborted, match=r"step 30: .*No space left.*last.ckpt of step 22 is kept.*resume=true"):
        run.fit()
    assert load(run.state.checkpoint)["global_step"] == 22
    assert os.path.exists("/dev/full")
    assert sorted(os.listdir(run.state.checkpoint.parent)) == ["last.ckpt"]


def test_disk_that_fills_during_a_write_leaves_no_file(session):
    """The first bytes fit; torch then raises an error of its own in place of the disk's."""
    run = session("epochs=2")
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        with pytest.raises(
            RunAborted,
            match=r"step 22: .*cannot be written .*there is none before it; .*start again with overwrite=true",
        ):
            run.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(run.state.checkpoint.parent) == []


def test_checkpoints_of_a_callback_are_its_own(session, tmp_path, monkeypatch):
    """They leave no previous.ckpt, and one that names the run's file by another path is the run's."""
    monkeypatch.chdir(tmp_path)
    run = session("epochs=3", "run_dir=r", "checkpoint.least_seconds=0")
    assert not run.state.checkpoint.is_absolute()
    run.trainer.callbacks += [
        pl.callbacks.ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False)
        for folder in (tmp_path / "own", tmp_path / "r" / "checkpoints")
    ]
    run.fit()
    assert sorted(os.listdir(tmp_path / "own")) == ["last.ckpt"]
    assert sorted(os.listdir(tmp_path / "r" / "checkpoints")) == ["last.ckpt", "previous.ckpt"]
    assert load(tmp_path / "r" / "checkpoints" / "last.ckpt")["global_step"] == 3 * STEPS


class TwoProcesses(pl.Callback):
    """Agreement on a signal as between two processes, and which steps looked for it."""

    def __init__(self, monkeypatch, at):
        self.at, self.looked = at, []
        monkeypatch.setattr(checkpoint, "world_size", lambda: 2)
        monkeypatch.setattr(checkpoint, "any_rank", self.any_rank)
        self.step = -1

    def any_rank(self, flag, device):
        self.looked.append(self.step)
        return flag

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.step = trainer.global_step
        if self.step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("at", "saved"), [(3, 10), (13, 20), (21, STEPS)])
def test_several_processes_act_on_a_signal_soon(session, monkeypatch, at, saved):
    run = session("epochs=2", "trainer.log_every_n_steps=1000", "monitor.every=0")
    run.trainer.callbacks.insert(0, TwoProcesses(monkeypatch, at))
    with pytest.raises(SystemExit) as stop:
        run.fit()
    assert stop.value.code == 128 + signal.SIGTERM
    assert load(run.state.checkpoint)["global_step"] == saved
    assert {1, 2, 11} & set(run.trainer.callbacks[0].looked) == set()
