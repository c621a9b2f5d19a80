"""Progress of long work: a bar on a terminal, in a log a line every half minute."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

EVERY = 30.0  # seconds between two lines of a log


class Progress:
    """A context in which `advance` shows what is done and the time left.

    Args:
        console: prints.
        total, done: units in all, and before the start.
        unit: their name.
    """

    def __init__(self, console: Console, total: int, done: int, unit: str):
        self.console, self.total, self.done, self.unit = console, total, done, unit
        self.first, self.start, self.told = done, time.monotonic(), time.monotonic()
        self.bar: Bar | None = None

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            columns = (TextColumn(self.unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Bar(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task(self.unit, total=self.total, completed=self.done)
            self.bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, count: int) -> None:
        """Count finished units."""
        self.done += count
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done)
        elif now - self.told > EVERY:
            left = (now - self.start) / (self.done - self.first) * (self.total - self.done)
            self.console.print(f"{self.done:,} of {self.total:,} {self.unit}, {_span(left)} left", soft_wrap=True)
            self.told = now


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
