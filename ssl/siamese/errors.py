"""The one exception for mistakes of the user's."""


class UserError(Exception):
    """A wrong path, an impossible value, an unknown option: one line on the screen, exit code 2.

    Args:
        setting: what was given, as it is written on the command line, e.g. ``"data.path=photos"``.
        problem: what is wrong with it, with the numbers that show it.
        remedy: what to do instead.
    """

    def __init__(self, setting: str, problem: str, remedy: str):
        super().__init__(" ".join(f"{setting}: {problem}; {remedy}".split()))
