"""Signals that ask a run to end, and SLURM's queue."""

import os
import signal
import subprocess
import threading
from typing import Any

from siamese.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class SignalWatch:
    """Records Ctrl-C, SIGTERM and SIGUSR1 (SLURM's warning before its time limit). A second Ctrl-C raises
    KeyboardInterrupt.

    Attributes:
        signum: the signal received, or 0.
        at_once: a signal raises `Interrupted` where it comes; else it is only recorded.
    """

    def __init__(self) -> None:
        self.signum, self.at_once = 0, False
        self.handlers: dict[int, Any] = {}

    def install(self, at_once: bool = False) -> None:
        """Replace the handlers of the main thread."""
        self.at_once = at_once
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                self.handlers[signum] = signal.signal(signum, self._on_signal)
            if self.signum:  # Lightning's end of the training has put torch's handler back
                _ignore_dead_workers()

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        _ignore_dead_workers()
        if self.at_once:
            self.at_once = False  # further ones find the run ending
            raise Interrupted(signum)

    def release(self) -> None:
        """Restore the previous handlers."""
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self.handlers = {}


def _ignore_dead_workers() -> None:
    """Take away torch's handler of dead workers. The signal may have been sent to every process, which ends the workers
    that read images. torch's handler would raise for each at any moment; its loader finds out by itself when it waits
    for one."""
    signal.signal(signal.SIGCHLD, _leave)


def _leave(signum: int, frame: Any) -> None:
    """A handler that does nothing. Python reports a pending signal whose handler has become the default one."""


def requeue() -> str:
    """Ask SLURM to queue this job again. Returns one line with the outcome."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"SLURM job {job} could not be requeued ({error})"
    return f"SLURM job {job} is requeued" if done.returncode == 0 else f"scontrol requeue {job}: {done.stderr.strip()}"
