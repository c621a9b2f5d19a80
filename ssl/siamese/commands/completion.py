"""What may follow on a command line, for the shell's completion. Hydra's script asks by `-sc query=SHELL`."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from siamese.commands.usage import HELP
from siamese.options import NESTED, is_group, options, roots


def asked(arguments: Sequence[str]) -> bool:
    """Whether the shell asks."""
    installs = any(a in ("-sc", "--shell-completion") for a in arguments)
    return installs and any(a.startswith("query=") for a in arguments)


def line() -> list[str]:
    """The words up to the cursor; the last one, which may be empty, is to be completed."""
    text = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    text = text[: int(point)] if point.isdecimal() else text
    return [*text.split(), ""] if not text or text[-1].isspace() else text.split()


def answer(command: str, words: Sequence[str], known_keys: Callable[[Sequence[str]], Sequence[str]]) -> list[str]:
    """Words that may stand in the place of the last one.

    Args:
        command: a key of `usage.HELP`.
        words: settings; the last one is incomplete.
        known_keys: gives the keys of the config that the other settings choose.
    """
    *before, word = words or [""]
    mark = word[: len(word) - len(word.lstrip("+~"))]
    name, equals, value = word[len(mark) :].partition("=")
    if not equals:
        groups = [f"{group}=" for group in (*HELP[command].groups, *_nested(command))]
        found = [*groups, *_next_level(name, _keys(known_keys, before))]
    elif is_group(name):
        listed, comma, _ = value.rpartition(",")  # of a sweep
        found = [f"{name}={listed}{comma}{option}" for option in options(name)]
    else:
        found = [f"{name}={file}" for file in _files(value)]
    return sorted({f"{mark}{one}" for one in found if f"{mark}{one}".startswith(word)})


def _keys(known_keys: Callable[[Sequence[str]], Sequence[str]], before: Sequence[str]) -> Sequence[str]:
    try:
        return known_keys(before)
    except Exception:  # the line is not finished; a message would be printed into it
        return []


def _nested(command: str) -> list[str]:
    """Groups within an option of another group."""
    held = {(group, inner) for group in HELP[command].groups for inner in NESTED}
    return sorted(f"{group}/{inner}" for group, inner in held if any((r / group / inner).is_dir() for r in roots()))


def _next_level(start: str, keys: Sequence[str]) -> list[str]:
    """Keys up to their next dot; a whole key ends with the sign that a value follows."""
    nodes = {key.rpartition(".")[0] for key in keys}
    out = []
    for key in keys:
        if key.startswith(start) and key not in nodes:
            head, dot, _ = key[len(start) :].partition(".")
            out.append(f"{start}{head}{dot or '='}")
    return out


def _files(start: str) -> list[str]:
    """Files and folders whose names have no blanks, which would end the word."""
    folder, slash, begun = start.rpartition("/")
    try:
        held = sorted(Path(folder + slash or ".").expanduser().iterdir())
    except (OSError, RuntimeError):
        return []
    shown = [file for file in held if file.name.startswith(begun) and " " not in file.name]
    return [
        f"{folder}{slash}{file.name}{'/' if file.is_dir() else ''}"
        for file in shown
        if begun.startswith(".") or not file.name.startswith(".")
    ]
