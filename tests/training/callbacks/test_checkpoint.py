"""Disk errors while a checkpoint is written keep the previous one."""

import os

import pytest

from siamese.checkpoints.reading import load
from siamese.errors import RunAborted


def test_full_disk_keeps_the_last_checkpoint(session, tmp_path):
    run = session("epochs=3", "checkpoint.every_steps=30")
    original = run.checkpoints.save

    def save(trainer):
        if trainer.global_step == 30:
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
