"""Checkpoints are written beside the training; disk errors keep the previous one."""

import os
import threading

import pytest
import pytorch_lightning as pl
from runs import STEPS, differences

from siamese.checkpoints.reading import load
from siamese.errors import RunAborted
from siamese.training.callbacks import AtomicCheckpointIO


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

    def late(self, checkpoint, file):
        if checkpoint["global_step"] == STEPS:
            waited.append(event.wait(60))
        return write(self, checkpoint, file)

    common = ("method=byol", "epochs=2", "monitor.every=1")
    whole = session(*common, folder="whole")
    kept = {}
    monkeypatch.setattr(AtomicCheckpointIO, "_write", lambda s, c, f: kept.setdefault(c["global_step"], write(s, c, f)))
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
