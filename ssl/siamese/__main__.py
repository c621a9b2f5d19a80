"""The command `siamese`, also `python -m siamese`: siamese COMMAND [KEY=VALUE …]."""

import importlib
import sys
from difflib import get_close_matches

from siamese import __version__, cli
from siamese.commands import completion, usage

# Command -> config, module of its `main`, settings in front of the user's, and what it does.
COMMANDS = {
    "train": ("train", "train", [], "pretrain a backbone: siamese train method=simsiam data=digits"),
    "eval": ("eval_linear", "eval", [], "judge the features of a checkpoint: siamese eval ckpt=FILE"),
    "embed": ("embed", "embed", [], "write features of images: siamese embed ckpt=FILE out=f.parquet"),
    "export": ("export", "export", [], "hand a backbone on: siamese export ckpt=FILE to=timm out=FOLDER"),
    "report": (None, "report", [], "write report.html of runs, side by side: siamese report RUN [RUN …]"),
    "list": (None, "listing", [], "methods, backbones, data sets, experiments: siamese list [GROUP]"),
    "check": ("train", "train", ["mode=check"], "look at images and settings: siamese check data=digits"),
}  # fmt: skip
USAGE = "\n".join(
    ["usage: siamese COMMAND [KEY=VALUE …]", "", *(f"  {name:8}{told}" for name, (*_, told) in COMMANDS.items()), "",
     "siamese COMMAND --help lists groups, settings and examples"]
)  # fmt: skip


def main() -> None:
    """Exit codes as `cli.run`."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(f"siamese {__version__}")
        return
    if words[0] in ("-sc", "--shell-completion"):
        _complete(words)
        return
    if words[0] not in COMMANDS:
        near = get_close_matches(words[0], COMMANDS, n=2)
        told = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(COMMANDS)}"
        print(f"error: {words[0]}: no such command; {told}", file=sys.stderr)
        sys.exit(2)
    config, module, first, told = COMMANDS[words[0]]
    if {"-h", "--help"} & set(words[1:]):
        print(told if config is None else usage.text(words[0], f"siamese {words[0]}"))
        return

    def task(given):  # type: ignore[no-untyped-def] # a config, or the words of a command that has none
        # torch and Lightning take seconds to import: Hydra reports its errors first.
        return importlib.import_module(f"siamese.commands.{module}").main(given)

    if config is None:
        cli.run_words(task, words[1:])
    else:
        cli.run(task, config, [*first, *words[1:]])


def _complete(words: list[str]) -> None:
    """Install the shell's completion for all commands, or answer it."""
    line = completion.line()
    if not completion.asked(words):
        cli.run(lambda cfg: None, "train", words)
    elif len(line) == 2:
        print("\n".join(name for name in COMMANDS if name.startswith(line[1])))
    elif len(line) > 2 and COMMANDS.get(line[1], (None,))[0] is not None:
        cli.run(lambda cfg: None, str(COMMANDS[line[1]][0]), words)
    elif line[1:2] == ["list"]:
        from siamese.commands.listing import GROUPS

        print("\n".join(group for group in GROUPS if group.startswith(line[-1])))


if __name__ == "__main__":
    main()
