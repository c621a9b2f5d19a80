"""Exceptions that end a run: a user's mistake, a run that cannot continue, a signal."""


def printable(text: str) -> str:
    """One line without control characters, which could change a terminal's state."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


class UserError(Exception):
    """A wrong path, an impossible value, an unknown option: one line on the screen, exit code 2.

    Args:
        setting: the setting as it is written on the command line, e.g. ``"data.path=photos"``.
        problem: what is wrong with it, with the numbers that show it.
        remedy: what to do instead.
    """

    def __init__(self, setting: str, problem: str, remedy: str):
        self.setting, self.problem, self.remedy = setting, problem, remedy
        super().__init__(printable(f"{setting}: {problem}; {remedy}"))


class RunAborted(Exception):
    """A run that cannot continue (not finite, collapsed, disk full): one line on the screen, exit code 1."""


class Interrupted(SystemExit):
    """A signal asks the command to end. It is no `Exception`, so that no handler of failures catches it.

    Args:
        signum: the signal; the exit code is 128 + signum.
    """

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum
