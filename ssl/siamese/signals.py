"""Signals that ask a command to end, and SLURM's queue."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from siamese.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class SignalWatch:
    """Records Ctrl-C, SIGTERM and SIGUSR1 (SLURM's warning before its time limit). A second Ctrl-C raises
    KeyboardInterrupt.

    Args:
        watched: the signals.

    Attributes:
        signum: the signal received, or 0.
        at_once: a signal raises `Interrupted` where it comes; else it is only recorded.
    """

    def __init__(self, watched: Sequence[int] = SIGNALS) -> None:
        self.watched = watched
        self.signum, self.at_once, self.ending = 0, False, False
        self.handlers: dict[int, Any] = {}  # those before

    def install(self) -> None:
        """Replace the handlers of the main thread.

        It is called before Lightning does the same, because Lightning restores at the end what it has found, and again
        afterwards.
        """
        if threading.current_thread() is threading.main_thread():
            for signum in self.watched:
                self.handlers.setdefault(signum, signal.getsignal(signum))
                signal.signal(signum, self._on_signal)
            self._guard()

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        self.ignore_workers()
        if self.at_once:
            self.at_once = False  # further ones find the run ending
            raise Interrupted(signum)

    def ignore_workers(self) -> None:
        """Do without torch's handler of dead workers. A signal that was sent to every process ends the workers that
        read images; the handler would raise for each of them, at any moment. torch's loader finds out by itself when it
        waits for one."""
        self.ending = True
        if self.handlers:
            self._guard()

    def _guard(self) -> None:
        """Put a handler of dead workers around the present one, which is torch's once a loader has set it."""
        handler = signal.getsignal(signal.SIGCHLD)
        if not self._is_guard(handler):
            signal.signal(signal.SIGCHLD, partial(self._on_child, handler))

    def _is_guard(self, handler: Any) -> bool:
        return isinstance(handler, partial) and handler.func == self._on_child

    def _on_child(self, guarded: Any, signum: int, frame: Any) -> None:
        if callable(guarded):
            try:
                guarded(signum, frame)
            except RuntimeError:  # torch's
                if not self.ending:
                    raise

    def has_ended_workers(self, error: Exception) -> bool:
        """Whether the error is that of workers of a loader that a signal to every process has ended. They may have
        received it before this process: it is waited for."""
        if not of_dead_workers(error):
            return False
        self.at_once, end = False, time.monotonic() + 1
        while not self.signum and time.monotonic() < end:
            time.sleep(0.01)
        return self.signum != 0

    @contextlib.contextmanager
    def ending_at_once(self) -> Iterator[None]:
        """Let a signal raise `Interrupted` where it comes, and in place of the error of workers that it has ended, too.
        The handlers stay until `release`."""
        self.at_once = True
        self.install()
        try:
            yield
        except Exception as error:
            self.ignore_workers()
            if self.has_ended_workers(error):
                raise Interrupted(self.signum) from error
            raise
        finally:
            self.at_once = False

    def release(self) -> None:
        """Restore the previous handlers. After a signal torch's is kept from raising while Python ends."""
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        guard: Any = signal.getsignal(signal.SIGCHLD)
        if self.handlers and self._is_guard(guard) and not self.signum:
            signal.signal(signal.SIGCHLD, guard.args[0] or signal.SIG_DFL)
        self.handlers = {}


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises `Interrupted`, so that temporary files are removed and positions noted. The exit code is 143."""
    watch = SignalWatch([signal.SIGTERM])
    try:
        with watch.ending_at_once():
            yield
        if watch.signum:  # came where Python passes over exceptions, as in `__del__`
            raise Interrupted(watch.signum)
    finally:
        watch.release()


def of_dead_workers(error: BaseException | None) -> bool:
    """Whether reading from the workers of a loader has failed, as where one has ended meanwhile. torch's loader says so
    itself only where it sees the end; before that its queues and sockets raise errors of any type. What a living worker
    has met comes as an error that quotes its traceback, and is none of these."""
    while error is not None:
        modules = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)}
        reading = not modules.isdisjoint({"multiprocessing.queues", "multiprocessing.connection"})
        if reading or re.search(r"DataLoader worker \(pid|Pin memory thread exited", str(error)):
            return True
        error = error.__cause__
    return False


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
