"""A run that a signal interrupts continues to the same state, bit by bit."""

import json
import multiprocessing
import signal
import sys
import threading

import pytest
import pytorch_lightning as pl
import torch
from runs import STEPS, CallAt, SignalAt, differences, interrupt, timeless_rows

from siamese.checkpoints.reading import load

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


def is_killed(*_):
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")


def test_signal_while_lightning_sets_up(session, capsys):
    run = session()
    run.trainer.callbacks.append(pl.callbacks.LambdaCallback(setup=terminated))
    ends_by_sigterm(run)
    assert "SIGTERM at step 0; nothing was saved yet" in capsys.readouterr().out


@pytest.mark.parametrize("when", ["on_fit_start", "on_train_start"])
def test_signal_before_the_first_step(session, capsys, when):
    """While Lightning begins. At the second moment it answers SIGTERM, too, after the step."""
    run = session()
    at = len(run.trainer.callbacks) if when == "on_fit_start" else 0  # after ours, before ours
    run.trainer.callbacks.insert(at, pl.callbacks.LambdaCallback(**{when: terminated}))
    ends_by_sigterm(run)
    assert "SIGTERM at step 1; saved at step 1; to continue" in capsys.readouterr().out


def test_signal_while_lightning_ends_a_failed_training(session, monkeypatch, capsys):
    run = session("checkpoint.every_steps=7")
    run.trainer.callbacks.insert(0, CallAt(9, is_killed))
    connector, restore = run.trainer._signal_connector, run.trainer._signal_connector.teardown
    monkeypatch.setattr(connector, "teardown", lambda: (restore(), terminated()))
    ends_by_sigterm(run)
    said = (
        "SIGTERM at step 8 (DataLoader worker (pid 7) is killed by signal: Terminated.); saved at step 7; to continue"
    )
    assert said in capsys.readouterr().out


def terminated(*_, **__):
    signal.raise_signal(signal.SIGTERM)


def ends_by_sigterm(run):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        run.fit()
    assert stop.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def broken():
    """As where a worker ends while it hands over a tensor."""
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    ours.recv()


def killed():
    """As torch's handler of SIGCHLD, which raises for each worker that ends."""
    threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGCHLD)).start()
    is_killed()


def broken_in_the_pinning_thread():
    """That thread ends, too; torch's loader then misses it."""
    raise RuntimeError("Pin memory thread exited unexpectedly")


@pytest.mark.parametrize("first", ["signal", "workers"])
@pytest.mark.parametrize("reading", [broken, killed, broken_in_the_pinning_thread])
def test_workers_that_a_signal_ends_are_no_error(session, tmp_path, capsys, soon_terminated, reading, first):
    """It is sent to every process, in any order; what reading from a worker raises depends on the moment."""

    def read():
        terminated() if first == "signal" else soon_terminated()
        reading()

    run = session("checkpoint.every_steps=7")
    signal.signal(signal.SIGCHLD, is_killed if reading is killed else signal.SIG_DFL)
    run.trainer.callbacks.insert(0, CallAt(9, read))
    ends_by_sigterm(run)
    assert f"saved at step 7; to continue, add resume=true run_dir={tmp_path / 'run'}" in capsys.readouterr().out


def test_workers_that_a_signal_ends_before_the_training(session, monkeypatch, capsys, soon_terminated):
    monkeypatch.setattr(sys.modules[RUN], "raw_pixels", lambda *_: (soon_terminated(), broken()))
    with pytest.raises(SystemExit) as stop:
        session()
    assert stop.value.code == 128 + signal.SIGTERM
    assert "SIGTERM at step 0; nothing was saved yet" in capsys.readouterr().out


def test_signal_while_an_error_before_the_training_is_looked_at(session, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules[RUN], "raw_pixels", is_killed)
    monkeypatch.setattr("siamese.signals.of_dead_workers", terminated)
    with pytest.raises(SystemExit) as stop:
        session()
    assert stop.value.code == 128 + signal.SIGTERM
    assert "SIGTERM at step 0; nothing was saved yet" in capsys.readouterr().out


def test_signal_while_the_figures_are_written_leaves_them_to_the_next_start(session, tmp_path, monkeypatch):
    run = session()
    run.fit()
    write = sys.modules[RUN].write_json
    monkeypatch.setattr(sys.modules[RUN], "write_json", lambda *a: (monkeypatch.undo(), terminated(), write(*a)))
    with pytest.raises(SystemExit):
        run.finish()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"] is False


def test_workers_that_a_signal_ends_after_the_figures_keep_them(session, tmp_path, monkeypatch):
    run = session()
    run.fit()
    monkeypatch.setattr(sys.modules[RUN], "print_table", lambda *_: (terminated(), broken()))
    with pytest.raises(SystemExit):
        run.finish()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["finished"] is True and "linear_top1" in summary


def test_process_that_a_signal_has_ended_is_no_error(session, monkeypatch, capsys):
    """Another one, whose workers have ended; this one has received the signal, too."""

    def lose():
        terminated()
        monkeypatch.setattr(pl.Trainer, "world_size", 2)
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1")

    run = session("checkpoint.every_steps=7")
    run.trainer.callbacks.insert(0, CallAt(9, lose))
    ends_by_sigterm(run)
    assert "(another process has ended: Connection closed by peer" in capsys.readouterr().out


@pytest.mark.parametrize("reading", [broken, killed])
def test_workers_that_end_without_a_signal_are_an_error(session, reading):
    run, before = session(), signal.getsignal(signal.SIGTERM)
    run.trainer.callbacks.insert(0, CallAt(9, reading))
    with pytest.raises((EOFError, RuntimeError)):
        run.fit()
    assert signal.getsignal(signal.SIGTERM) == before


def test_error_of_a_file_beside_a_signal_is_an_error(session):
    """torch names the worker that has met it, which has not ended."""

    def fail():
        signal.raise_signal(signal.SIGTERM)
        raise OSError("Caught OSError in DataLoader worker process 0.")

    run = session()
    run.trainer.callbacks.insert(0, CallAt(9, fail))
    with pytest.raises(OSError, match="Caught"):
        run.fit()


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
