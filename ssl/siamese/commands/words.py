"""The words of a command line: options of Hydra and settings, in any order."""

from collections.abc import Sequence
from difflib import get_close_matches

from siamese.errors import UserError
from siamese.options import options

# Options of Hydra 1.3, with the values that are possible; () is any value.
MODES = ("job", "hydra", "all")
FLAGS = (
    *("-h", "--help", "--hydra-help", "--version", "--resolve", "-r", "--run", "-m", "--multirun"),
    *("-sc", "--shell-completion"),
)
VALUES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("-c", "--cfg"), MODES),
    **dict.fromkeys(("-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"), ()),
    "--experimental-rerun": (),
}
INFO = ("-i", "--info")  # the value may be missing
ABOUT = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# Of these Hydra does one.
TASKS = (("-r", "--run"), ("-m", "--multirun"), ("-c", "--cfg"), INFO, ("-sc", "--shell-completion"))
SHELLS = ("bash", "zsh", "fish")
SHOWN = "--help lists settings, --hydra-help options"


def options_first(words: Sequence[str]) -> list[str]:
    """The words with options before settings, as Python's argparse wants them: it refuses settings that follow an
    option which follows settings.

    Raises:
        UserError: an option does not exist, has no value or an impossible one, or excludes another; or a word is
            neither an option nor a setting.
    """
    front: list[str] = []
    settings: list[str] = []
    rest = [word for word in words if word != "--"]
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            _check_setting(word)
            settings.append(word)
            continue
        name, equals, value = word.partition("=")
        if name in FLAGS:
            if equals:
                raise UserError(word, f"{name} takes no value", f"write {name}")
            front.append(name)
        elif name in INFO:
            if not equals:
                value = rest.pop(0) if rest and rest[0] in ABOUT else "all"
            front += [f"--info={_among(name, value, ABOUT)}"]
        elif name in VALUES:
            value = value if equals else rest.pop(0) if rest else ""
            front += [name, _among(name, value, VALUES[name])]
        else:
            _refuse(word, name)
    _check_together(front, settings)
    return [*front, *settings]


def _among(option: str, value: str, possible: tuple[str, ...]) -> str:
    if not value or (possible and value not in possible):
        wanted = f"give one of {', '.join(possible)}, as in {option} {possible[0]}" if possible else "give one"
        raise UserError(f"{option} {value}".strip(), "is not a value of it" if value else "needs a value", wanted)
    return value


def _refuse(word: str, name: str) -> None:
    near = get_close_matches(name, [*FLAGS, *VALUES, *INFO], n=1, cutoff=0.75)
    if near and ("=" not in word or word.startswith("--")):
        remedy = f"did you mean {near[0]}?"
    elif "=" in word and word.lstrip("-")[:1] != "=":
        remedy = f"settings have no dashes: {word.lstrip('-')}"
    else:
        remedy = SHOWN
    raise UserError(word, "no such option", remedy)


def _check_setting(word: str) -> None:
    """Refuse a word without a value; ~KEY has none."""
    if "=" in word or word.startswith("~"):
        return
    groups = [g for g in ("method", "data", "backbone", "optimizer", "experiment", "eval") if word in options(g)]
    remedy = f"did you mean {' or '.join(f'{g}={word}' for g in groups)}?" if groups else "--help lists settings"
    raise UserError(word or "''", "is not KEY=VALUE", remedy)


def _check_together(front: Sequence[str], settings: Sequence[str]) -> None:
    given = {word.partition("=")[0] for word in front}
    tasks = [task[1] for task in TASKS if given & set(task)]
    if len(tasks) > 1:
        raise UserError(" ".join(tasks), "exclude each other", "give one of them")
    if "--resolve" in given and "--cfg" not in tasks:
        raise UserError("--resolve", "belongs to --cfg", "give --cfg job --resolve")
    wanted = [f"{what}={shell}" for what in ("install", "uninstall", "query") for shell in SHELLS]
    if "--shell-completion" in tasks and not set(settings) & set(wanted):
        raise UserError("--shell-completion", "needs a shell", "give install=bash or uninstall=bash")
