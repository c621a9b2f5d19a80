"""`siamese list`: the options of the groups that a person chooses from, a line each."""

import re
from collections.abc import Sequence

from siamese.errors import UserError
from siamese.options import options, roots
from siamese.output import console

GROUPS = {"method": "methods", "backbone": "backbones", "data": "data sets", "experiment": "experiments"}


def main(words: Sequence[str]) -> None:
    """Print the options of the groups that are named, or of all.

    Raises:
        UserError: there is no such group.
    """
    out = console()
    for word in words:
        if word not in GROUPS:
            raise UserError(word, "is not a group that is listed", f"choose from {', '.join(GROUPS)}")
    for group in words or GROUPS:
        names = options(group)
        width = max(map(len, names))
        out.print(f"{GROUPS[group]}: {group}=NAME")
        for name in names:
            line = f"  {name:{width}}  {described(group, name)}"
            if out.is_terminal:
                out.print(line, no_wrap=True, overflow="ellipsis")
            else:
                out.print(line, soft_wrap=True)


def described(group: str, name: str) -> str:
    """The first sentence of an option's file."""
    file = next(root / group / f"{name}.yaml" for root in roots() if (root / group / f"{name}.yaml").is_file())
    comment: list[str] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return re.split(r"\.(?: |$)", " ".join(comment), maxsplit=1)[0]
