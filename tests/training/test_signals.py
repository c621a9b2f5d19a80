"""A run that a signal interrupts continues to the same state, bit by bit."""

import json
import signal

import pytest
import torch
from runs import STEPS, differences, interrupt, timeless_rows

from siamese.checkpoints.reading import load
from siamese.training.signals import SignalWatch


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=simsiam", "trainer.precision=bf16-mixed"),
        ("method=moco", "method.bn_splits=2"),
        ("method=byol", "trainer.accumulate_grad_batches=2"),
        ("method=simclr", "optimizer=lars", "optimizer.warmup_epochs=1"),
    ],
    ids=lambda o: o[0],
)
def test_interrupted_run_resumes_bit_by_bit(session, tmp_path, overrides):
    """In mid-epoch, in an epoch's last batch, in the third epoch."""
    common = (*overrides, "epochs=3", "trainer.log_every_n_steps=1", "monitor.every=2")
    whole = session(*common, folder="whole")
    whole.fit()
    for at in (9, 2 * STEPS, 51):
        part = session(*common, folder=f"part{at}")
        interrupt(part, at, signal.SIGINT if at == 9 else signal.SIGTERM)
        folders = [tmp_path / name for name in (f"part{at}", "whole")]
        assert json.loads((folders[0] / "summary.json").read_text())["finished"] is False
        spent = torch.load(folders[0] / "checkpoints" / "last.ckpt", weights_only=True)["progress"]
        again = session(*common, "resume=true", folder=f"part{at}")
        again.fit()
        assert again.state.images == whole.state.images  # of all sittings
        assert again.state.train_seconds > spent["train_seconds"] > 0
        assert differences(*(load(f / "checkpoints" / "last.ckpt") for f in folders)) == []
        assert timeless_rows(folders[0] / "metrics.csv") == timeless_rows(folders[1] / "metrics.csv")


def test_dead_workers_raise_nothing_once_the_run_is_ending():
    """A signal to every process ends the workers, too; torch's handler of SIGCHLD would raise for each of them, at any
    moment. Before a signal it is left as it is."""

    def raises(*_):
        raise RuntimeError("DataLoader worker is killed")

    before, watch = signal.signal(signal.SIGCHLD, raises), SignalWatch()
    watch.install()
    try:
        with pytest.raises(RuntimeError, match="is killed"):
            signal.raise_signal(signal.SIGCHLD)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGCHLD)
        assert watch.signum == signal.SIGTERM
    finally:
        watch.release()
        signal.signal(signal.SIGCHLD, before)
