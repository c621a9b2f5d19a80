"""Printing that cannot end a run: not by a character that the terminal lacks, a closed pipe or a full disk."""

import contextlib
import os
import sys
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table


class Unfailing:
    """A text stream that ignores failed writes: after the first failure its output is dropped.

    Args:
        stream: the target.
        told: receives one line about the first failure; None for none.
    """

    def __init__(self, stream: TextIO, told: TextIO | None):
        self.stream, self.told = stream, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Like a text stream's, but never raises OSError."""
        with self._lossy():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Like a text stream's, but never raises OSError."""
        with self._lossy():
            self.stream.flush()

    @contextlib.contextmanager
    def _lossy(self) -> Any:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: closed
            with contextlib.suppress(OSError, ValueError):
                # Discard what is still in the buffers, now and at the interpreter's end.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)
            if self.told is not None:
                with contextlib.suppress(OSError, ValueError):
                    print(f"standard output cannot be written ({error}); the run goes on without it", file=self.told)
                self.told = None


def protect() -> None:
    """Make the standard streams of this process unfailing. Further calls do nothing."""
    for name in ("stderr", "stdout"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the start, as by >&-
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            if name == "stdout":
                print("standard output is closed; the run goes on without it", file=sys.stderr)
        if isinstance(stream, Unfailing):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
        setattr(sys, name, Unfailing(stream, sys.stderr if name == "stdout" else None))


def print_table(out: Console, table: Table) -> None:
    """Print a table below its title. The title is a line of its own, which does not wrap to the width of the table."""
    title, table.title = table.title, None
    if title:
        out.print(title, soft_wrap=True)
    out.print(table)
    table.title = title


def console() -> Console:
    """A console that prints text unchanged; brackets and colons are not markup."""
    return Console(markup=False, emoji=False, highlight=False)
