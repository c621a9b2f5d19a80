"""What ends a run early: a mistake of the user's, a run that cannot go on, a signal."""

from collections.abc import Sequence

SEEDS = 2**32 - 1  # the largest one


class UserError(Exception):
    """A wrong path, an impossible value, an unknown option: one line on the screen, exit code 2.

    Args:
        setting: what was given, as it is written on the command line, e.g. ``"data.path=photos"``.
        problem: what is wrong with it, with the numbers that show it.
        remedy: what to do instead.
    """

    def __init__(self, setting: str, problem: str, remedy: str):
        self.setting, self.problem, self.remedy = setting, problem, remedy
        super().__init__(" ".join(f"{setting}: {problem}; {remedy}".split()))


class Stopped(Exception):
    """A run that cannot go on (not finite, collapsed, disk full): one line on the screen, exit code 1."""


class Interrupted(BaseException):
    """A run that was asked to end by a signal, and has saved its state. No `Exception`: nothing may take it
    for a failure to recover from.

    Args:
        signum: which one; the exit code is 128 more.
    """

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


def check_number(
    setting: str, value: object, low: float, high: float = float("inf"), above: bool = False, whole: bool = False
) -> None:
    """Refuse what is no number in [low, high], or in (low, high] with `above`; no whole one with `whole`.

    Raises:
        UserError: names `setting`, e.g. "optimizer.lr", and the value.
    """
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if number and low <= value <= high and value != float("inf") and not (above and value == low):  # type: ignore[operator]
        return
    bound = "" if high == float("inf") else f" and at most {high:g}"
    word = "above" if above else "at least"
    raise UserError(
        f"{setting}={value}", "not a possible value", f"give a {'whole ' if whole else ''}number {word} {low:g}{bound}"
    )


def check_numbers(setting: str, values: object, low: float, above: bool = False, whole: bool = False) -> None:
    """Refuse what is no list of numbers as in `check_number`, or an empty one."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise UserError(f"{setting}={values}", "a list of numbers is needed", "give one, as in [1,2]")
    for value in values:
        check_number(setting, value, low, above=above, whole=whole)
