"""Progress of long work: a bar on a terminal, elsewhere a line every so often; nothing about what takes seconds."""

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from siamese.distributed import is_rank_zero
from siamese.output import console

clock = time.monotonic
QUIET = 5.0  # seconds of work about which nothing is shown
# Seconds of work -> seconds between two lines of a log from then on.
EVERY = {0: 30, 600: 300, 7200: 1800}
EVERY_TOLD = "a line each 30 s, after 10 min each 5 min, after 2 h each 30 min"
WARM_UP, FIRST = 2, 10  # steps of a training whose time says nothing about the others; steps before its first line
T = TypeVar("T")

_within: list[str] = []  # what the work at hand belongs to
_busy = False  # something is shown already, or nothing is to be


def interval(seconds: float) -> float:
    """Seconds between two lines of a log after so many seconds of work."""
    return EVERY[max(start for start in EVERY if start <= seconds)]


def duration(seconds: float) -> str:
    """A time in the one or two units that matter, such as "2 h 10 min"."""
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    whole = max(0, round(seconds))
    for (length, unit), (part, smaller) in itertools.pairwise(units):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {smaller}" if rest and smaller != "s" else "")
    return f"{whole} s"


class Progress:
    """A context in which `advance` shows what is done and the time left, once the work has taken `QUIET` seconds.

    Args:
        console: prints.
        total, done: units in all, and before the start.
        unit: their name.
        what: the work, in front of the line; "" for none.
    """

    def __init__(self, console: Console, total: int, done: int, unit: str, what: str = ""):
        self.console, self.total, self.done, self.unit, self.what = console, total, done, unit, what
        self.first, self.start = done, clock()
        self.told: float | None = None
        self.bar: Bar | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, count: int = 1) -> None:
        """Count finished units."""
        self.done += count
        now = clock()
        if now - self.start < QUIET:
            return
        left = duration((now - self.start) / max(1, self.done - self.first) * (self.total - self.done))
        if self.console.is_terminal:
            if self.bar is None:
                columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
                self.bar = Bar(*columns, TextColumn("{task.fields[left]} left"), console=self.console, transient=True)
                self.task = self.bar.add_task(self.what or self.unit, total=self.total, left=left)
                self.bar.start()
            self.bar.update(self.task, completed=self.done, left=left)
        elif self.told is None or now - self.told >= interval(now - self.start):
            name = f"{self.what}: " if self.what else ""
            self.console.print(f"{name}{self.done:,} of {self.total:,} {self.unit}, {left} left", soft_wrap=True)
            self.told = now


class _Silent(Progress):
    def advance(self, count: int = 1) -> None:
        pass


@contextlib.contextmanager
def shown(total: int, what: str, unit: str) -> Iterator[Progress]:
    """A `Progress` on standard output; a silent one on other ranks than 0, within another one, and where `muted`."""
    global _busy
    if _busy or not is_rank_zero():
        yield _Silent(console(), total, 0, unit)
        return
    _busy = True
    try:
        with Progress(console(), total, 0, unit, ", ".join([*_within, what])) as progress:
            yield progress
    finally:
        _busy = False


def over(items: Iterable[T], total: int, what: str, unit: str) -> Iterator[T]:
    """The items, and how many of them are done, by `shown`."""
    with shown(total, what, unit) as progress:
        for item in items:
            yield item
            progress.advance()


@contextlib.contextmanager
def within(what: str) -> Iterator[None]:
    """Puts a name in front of what is shown meanwhile."""
    _within.append(what)
    try:
        yield
    finally:
        _within.pop()


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Within it `shown` and `over` show nothing: something else is on the screen."""
    global _busy
    before, _busy = _busy, True
    try:
        yield
    finally:
        _busy = before


class Pace:
    """The speed of a training, and when its log is due a line.

    The first `WARM_UP` steps of a sitting do not count: they compile, and fill caches.

    Args:
        total: optimiser steps of the whole training.
    """

    def __init__(self, total: int):
        self.total = total
        self.begun = clock()
        self.seen: int | None = None  # the step at the first call
        self.start, self.first = 0.0, -1  # of what counts
        self.told: float | None = None

    def due(self, step: int) -> bool:
        """Whether a line is due after this optimiser step: first after `FIRST` steps and `QUIET` seconds, or after 30
        seconds of slower ones; then as `EVERY` says."""
        now = clock()
        if self.seen is None:
            self.seen = step
        if self.first < 0:
            if step >= self.seen + WARM_UP - 1:
                self.start, self.first = now, step
            return False
        steps, seconds = step - self.first, now - self.start
        if self.told is None:
            return steps > 0 and seconds >= (QUIET if steps >= FIRST else EVERY[0])
        return now - self.told >= interval(now - self.begun)

    def tell(self) -> None:
        """A line was printed."""
        self.told = clock()

    def left(self, step: int) -> float:
        """Seconds to the end of the training, evaluations on the way included."""
        return (clock() - self.start) / max(1, step - self.first) * (self.total - step)

    def whole(self, step: int) -> float:
        """Seconds of this sitting, from its start to its end."""
        return clock() - self.begun + self.left(step)
