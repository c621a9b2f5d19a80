"""What long work shows: a bar or lines, at these moments, and nothing before."""

import io
import itertools
import re

import pytest
from rich.console import Console

from siamese import progress
from siamese.progress import Pace, Progress, duration, interval, muted, over, shown, within


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(progress, "clock", made)
    return made


def log():
    return Console(file=io.StringIO(), width=40)


def lines(console):
    return console.file.getvalue().splitlines()


def work(seconds, clock, count):
    """`count` units of so many seconds."""
    for i in range(count):
        clock.now += seconds
        yield i


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"), (59.4, "59 s"), (60, "1 min"), (150, "2 min"), (3600, "1 h"), (7800, "2 h 10 min"),
        (86400, "1 d"), (100000, "1 d 3 h"), (-1, "0 s"),
    ],
)  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_lines_become_rarer():
    assert [interval(s) for s in (0, 599, 600, 7199, 7200, 1e6)] == [30, 30, 300, 300, 1800, 1800]


def test_log_has_lines_with_the_time_left(clock):
    console = log()
    with Progress(console, 1000, 0, "images", "decoding") as made:
        for _ in range(100):
            clock.now += 1
            made.advance(10)
    # The first line after 5 s, then each 30 s: at 5, 35, 65, 95.
    assert lines(console) == [
        "decoding: 50 of 1,000 images, 1 min left",
        "decoding: 350 of 1,000 images, 1 min left",
        "decoding: 650 of 1,000 images, 35 s left",
        "decoding: 950 of 1,000 images, 5 s left",
    ]


def test_time_left_is_of_this_sitting(clock):
    console = log()
    with Progress(console, 100, 80, "images") as made:
        clock.now += 6
        made.advance(10)
    assert lines(console) == ["90 of 100 images, 6 s left"]


def test_bar_appears_late(clock):
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with Progress(console, 100, 0, "images", "decoding [1]") as made:
        clock.now += 4
        made.advance(10)
        assert console.file.getvalue() == ""
        clock.now += 2
        made.advance(10)
    assert "decoding [1]" in console.file.getvalue()
    assert "20/100 24 s left" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def test_quick_work_shows_nothing(clock, capsys):
    assert list(over(work(0.4, clock, 10), 10, "features", "batches")) == list(range(10))
    assert capsys.readouterr().out == ""


def test_long_work_is_named(clock, capsys):
    with within("digits"), within("linear"):
        assert sum(1 for _ in over(work(4, clock, 10), 10, "heads", "epochs")) == 10
    assert capsys.readouterr().out.splitlines() == [
        "digits, linear, heads: 2 of 10 epochs, 32 s left",
        "digits, linear, heads: 10 of 10 epochs, 0 s left",
    ]


def test_work_within_work_is_silent(clock, capsys):
    for _ in over(range(2), 2, "outer", "parts"):
        list(over(work(4, clock, 3), 3, "inner", "steps"))
    assert capsys.readouterr().out.splitlines() == ["outer: 1 of 2 parts, 12 s left"]


def test_muted_and_other_ranks_are_silent(clock, capsys, monkeypatch):
    with muted():
        list(over(work(100, clock, 3), 3, "x", "steps"))
    monkeypatch.setenv("RANK", "1")
    list(over(work(100, clock, 3), 3, "x", "steps"))
    monkeypatch.delenv("RANK")
    assert capsys.readouterr().out == ""
    list(over(work(100, clock, 1), 1, "x", "steps"))
    assert capsys.readouterr().out == "x: 1 of 1 steps, 0 s left\n"


def test_work_that_fails_is_over(clock, capsys):
    with pytest.raises(ZeroDivisionError), shown(3, "x", "steps"):
        raise ZeroDivisionError
    list(over(work(100, clock, 1), 1, "x", "steps"))
    assert capsys.readouterr().out == "x: 1 of 1 steps, 0 s left\n"


def steps(pace, clock, seconds, last, first=1):
    """The steps at which a line is due."""
    due = []
    for step in range(first, last + 1):
        clock.now += seconds
        if pace.due(step):
            due.append(step)
            pace.tell()
    return due


def test_first_line_after_ten_steps_that_count(clock):
    # Of 1 s: the ten after two of warm-up; then each 30 s.
    assert steps(Pace(1000), clock, 1, 100) == [12, 42, 72]
    # Of an eighth of a second: not before 5 s.
    assert steps(Pace(1000), clock, 0.125, 100) == [42]
    # Of 8 s: after 30 s, before ten steps; every 4 steps.
    assert steps(Pace(1000), clock, 8, 15) == [6, 10, 14]
    # Of 100 s: each.
    assert steps(Pace(1000), clock, 100, 5) == [3, 4, 5]


def test_lines_of_a_long_training_are_rare(clock):
    due = steps(Pace(10**6), clock, 1, 20_000)
    assert due[:3] == [12, 42, 72]
    assert {b - a for a, b in itertools.pairwise(due) if 700 < a < 6000} == {300}
    assert {b - a for a, b in itertools.pairwise(due) if a > 8000} == {1800}
    assert len(due) < 60


def test_first_steps_do_not_count_for_the_time_left(clock):
    pace = Pace(102)
    clock.now += 500  # compiles
    assert not pace.due(1)
    clock.now += 100
    assert not pace.due(2)
    steps(pace, clock, 2, 12, first=3)
    assert pace.left(12) == pytest.approx(2 * 90)
    assert pace.whole(12) == pytest.approx(600 + 2 * 100)


def test_resumed_training_counts_from_its_step(clock):
    pace = Pace(1000)
    assert steps(pace, clock, 1, 520, first=501) == [512]
    assert pace.left(520) == pytest.approx(480)
