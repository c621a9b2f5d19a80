"""What ends a run early: a mistake of the user's, a run that cannot go on, a signal."""


def printable(text: str) -> str:
    """One line without control characters, which could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


class UserError(Exception):
    """A wrong path, an impossible value, an unknown option: one line on the screen, exit code 2.

    Args:
        setting: what was given, as it is written on the command line, e.g. ``"data.path=photos"``.
        problem: what is wrong with it, with the numbers that show it.
        remedy: what to do instead.
    """

    def __init__(self, setting: str, problem: str, remedy: str):
        self.setting, self.problem, self.remedy = setting, problem, remedy
        super().__init__(printable(f"{setting}: {problem}; {remedy}"))


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
