"""A run that a signal interrupts continues to the same state, bit by bit."""

import json
import signal
import sys

import pytest
import torch
from runs import STEPS, SignalAt, differences, interrupt, timeless_rows

from siamese.checkpoints.reading import load
from siamese.training.signals import SignalWatch

RUN = "siamese.training.run"  # the module; the package has a function of this name


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
        watch.release()
        signal.signal(signal.SIGCHLD, raises)  # as Lightning's end of the training, which restores every handler
        watch.install()
        signal.raise_signal(signal.SIGCHLD)
    finally:
        watch.release()
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal_during_the_closing_table(session, tmp_path, monkeypatch, capsys, signum):
    """All is saved; SLURM queues the job again, and the next start makes the table."""
    whole = session(folder="whole")
    whole.fit()
    value = whole.finish()
    part = session()
    part.fit()
    asked = []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    # As SLURM does, which ends the job that it requeues.
    monkeypatch.setattr(
        sys.modules[RUN], "requeue", lambda: asked.append(signal.raise_signal(signal.SIGTERM)) or "asked"
    )
    monkeypatch.setattr(sys.modules[RUN], "closing_figures", lambda *a: signal.raise_signal(signum))
    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as stop:
        part.finish()
    assert stop.value.code == 128 + signum
    assert signal.getsignal(signum) == before
    assert f"saved at step {STEPS}; to continue, add resume=true run_dir={tmp_path / 'run'}" in capsys.readouterr().out
    assert len(asked) == (signum == signal.SIGUSR1)
    monkeypatch.undo()
    again = session("resume=true")
    again.fit()
    assert again.finish() == value


def test_signal_before_the_training(session, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules[RUN], "raw_pixels", lambda *a: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        session()
    assert stop.value.code == 128 + signal.SIGTERM
    assert "SIGTERM at step 0; nothing was saved yet" in capsys.readouterr().out
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("swept", [False, True])
def test_signal_in_the_last_step_ends_a_sweep_after_the_trial(session, tmp_path, monkeypatch, swept):
    run = session()
    run.trainer.callbacks.insert(0, SignalAt(STEPS))
    run.fit()
    monkeypatch.setattr(sys.modules[RUN], "in_sweep", lambda: swept)
    if swept:
        with pytest.raises(SystemExit) as stop:
            run.finish()
        assert stop.value.code == 128 + signal.SIGTERM
    else:
        run.finish()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"] is True


def test_signal_after_the_figures_keeps_them(session, tmp_path, monkeypatch):
    run = session()
    run.fit()
    monkeypatch.setattr(sys.modules[RUN], "print_table", lambda *a: signal.raise_signal(signal.SIGTERM))
    assert run.finish() > 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["finished"] is True and "linear_top1" in summary


def test_second_signal_does_not_cut_the_end(session, tmp_path, monkeypatch):
    """At a parent's death the kernel sends its signal once for each thread of the parent, milliseconds apart."""
    reached, write = [], sys.modules[RUN].write_json

    def interrupted_write(*arguments):
        signal.raise_signal(signal.SIGTERM)
        write(*arguments)

    before = signal.signal(signal.SIGTERM, lambda *_: reached.append(1))  # else it would end this process
    try:
        monkeypatch.setattr(sys.modules[RUN], "write_json", interrupted_write)
        interrupt(session(), 9)
        assert not reached
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"] is False
    finally:
        signal.signal(signal.SIGTERM, before)
