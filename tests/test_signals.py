"""Signals without a training: which handlers there are, and what a command makes of SIGTERM."""

import signal
import sys

import pytest

from siamese.commands import embed, eval, export
from siamese.errors import Interrupted
from siamese.signals import SignalWatch, ended_by_sigterm


def is_killed(*_):
    """As torch's handler of dead workers."""
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")


def test_dead_workers_raise_nothing_once_the_run_is_ending():
    """A signal to every process ends the workers, too; torch's handler of SIGCHLD would raise for each of them, at any
    moment. Before a signal it is left as it is."""
    signal.signal(signal.SIGCHLD, is_killed)
    watch = SignalWatch()
    watch.install()
    with pytest.raises(RuntimeError, match="is killed"):
        signal.raise_signal(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, is_killed)  # torch's, as its first loader with workers sets it
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGCHLD)
    assert watch.signum == signal.SIGTERM
    watch.release()
    signal.raise_signal(signal.SIGCHLD)  # while Python ends


def test_error_without_a_signal_leaves_the_handler_of_dead_workers():
    """To the next run of this process."""
    reached, watch = [], SignalWatch()
    signal.signal(signal.SIGCHLD, lambda *_: (reached.append(1), is_killed()))
    before = signal.getsignal(signal.SIGCHLD)
    watch.install()
    watch.ignore_workers()
    signal.raise_signal(signal.SIGCHLD)
    assert reached  # a caller's own handler is called all the same
    watch.release()
    assert signal.getsignal(signal.SIGCHLD) == before


def test_handler_that_a_loader_sets_meanwhile_is_kept():
    """torch sets its handler of dead workers once for a process, and calls the one that it has found."""
    reached, watch = [], SignalWatch()

    def once_for_a_process(*arguments):
        reached.append("torch")
        found(*arguments)

    signal.signal(signal.SIGCHLD, lambda *_: reached.append("caller"))
    watch.install()
    found = signal.getsignal(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, once_for_a_process)
    for _ in range(2):  # as before the training and in it
        watch.release()
        watch.install()
        reached.clear()
        signal.raise_signal(signal.SIGCHLD)
        assert reached[:2] == ["torch", "caller"]
    watch.release()
    assert signal.getsignal(signal.SIGCHLD) is once_for_a_process


def terminated():
    signal.raise_signal(signal.SIGTERM)


def exit_code_of(command):
    with pytest.raises(SystemExit) as stop:
        command()
    return stop.value.code


def test_sigterm_ends_a_command():
    """Workers that end, or a second signal, do not cut what it does last, as to remove temporary files."""
    removed = []

    @ended_by_sigterm()
    def command():
        try:
            terminated()
        finally:
            terminated()
            signal.raise_signal(signal.SIGCHLD)
            removed.append(1)

    signal.signal(signal.SIGCHLD, is_killed)
    before = signal.getsignal(signal.SIGTERM)
    assert exit_code_of(command) == 128 + signal.SIGTERM
    assert removed
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_ends_a_command_whose_workers_have_received_it_before(soon_terminated):
    @ended_by_sigterm()
    def command():
        soon_terminated()
        try:
            is_killed()
        except RuntimeError as error:  # as where features are stored
            raise OSError("cannot be stored") from error

    signal.signal(signal.SIGCHLD, is_killed)
    assert exit_code_of(command) == 128 + signal.SIGTERM


def test_sigterm_that_python_passes_over(monkeypatch):
    class Passing:
        def __del__(self):
            terminated()

    @ended_by_sigterm()
    def command():
        Passing()

    passed_over = []
    monkeypatch.setattr(sys, "unraisablehook", passed_over.append)
    assert exit_code_of(command) == 128 + signal.SIGTERM
    assert [one.exc_type for one in passed_over] == [Interrupted]


@pytest.mark.parametrize("module", [eval, embed, export], ids=lambda m: m.__name__)
def test_commands_end_by_sigterm(module, monkeypatch):
    for name in ("siamese.commands.eval.evaluate", "siamese.commands.embed.embed", "siamese.handoff.export.export"):
        monkeypatch.setattr(name, lambda cfg: terminated())
    assert exit_code_of(lambda: module.main(None)) == 128 + signal.SIGTERM


def test_errors_leave_a_command_as_they_are():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGCHLD)]
    with pytest.raises(ValueError, match="Caught"), ended_by_sigterm():
        raise ValueError("Caught ValueError in DataLoader worker process 0.")
    with pytest.raises(RuntimeError, match="is killed"), ended_by_sigterm():
        is_killed()
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGCHLD)] == before
