"""The image files of a folder and of the folders below it."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from siamese.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".npy")
LITTER = ("thumbs.db", "desktop.ini", ".ds_store")


@dataclass
class Tree:
    """What a folder holds.

    Attributes:
        root: the folder.
        names: its images: paths relative to it, with `/` on every system, sorted folder by folder.
        held: the same as a set.
        links: those that are links, and those in a folder that is one.
        left_out: a reason -> how many files, or folders that were not entered.
    """

    root: Path
    names: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)


def walk(root: Path, skip_own: bool) -> Tree:
    """All images below `root`.

    A folder in `root` may be a link; links to folders further below are not followed, so that no loop of links is
    endless. With `skip_own` a link that leads into the tree of `root`, or to a folder that holds it, is not followed
    either: its images would stand twice.

    Raises:
        UserError: a folder cannot be listed.
    """
    tree = Tree(root)
    pending = [("", False)]  # folders: prefix of the names in it, whether it is, or lies in, a link
    while pending:
        prefix, linked = pending.pop()
        for entry in _entries(root, prefix):
            name, link = prefix + entry.name, entry.is_symlink()
            kind = _kind(entry)
            if kind == "folder" and link and (prefix or (skip_own and _own(root, entry.path))):
                kind = "link to a folder"
            if kind == "image":
                tree.names.append(name)
                if link or linked:
                    tree.links.add(name)
            elif kind == "folder":
                pending.append((f"{name}/", link or linked))
            else:
                tree.left_out[kind] += 1
    tree.names.sort(key=lambda name: name.replace("/", "\0"))  # as paths compare: a/x before a-b/x
    tree.held = set(tree.names)
    return tree


def _entries(root: Path, prefix: str) -> Iterator["os.DirEntry[str]"]:
    where = os.path.join(root, prefix)
    try:
        with os.scandir(where) as entries:
            yield from entries
    except OSError as error:
        raise UserError(
            f"data.path={root}", f"the folder {where} cannot be listed ({error.strerror})",
            "make it readable, or give another folder",
        ) from error  # fmt: skip


def _kind(entry: "os.DirEntry[str]") -> str:
    """``image``, ``folder``, or the reason why an entry is neither. A file system that tells types asks for no stat."""
    lower = entry.name.lower()
    if lower in LITTER:
        return "Thumbs.db, desktop.ini, .DS_Store"
    if lower.startswith("."):
        return "hidden"
    if entry.name == "__MACOSX":
        return "__MACOSX"
    try:
        if lower.endswith(SUFFIXES) and entry.is_file():
            return "image"
        if entry.is_dir():
            return "folder"
    except OSError:  # a link to itself, or into a folder that may not be read
        return "broken link"
    return "broken link" if entry.is_symlink() and not os.path.exists(entry.path) else "no image format"


def _own(root: Path, link: str) -> bool:
    top, real = os.path.realpath(root), os.path.realpath(link)
    return os.path.commonpath([top, real]) in (top, real)
