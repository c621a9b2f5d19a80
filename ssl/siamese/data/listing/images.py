"""Which files of a folder are images, and their labels: from class folders, from a CSV, or none."""

import fnmatch
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from siamese.data.listing.label_file import Row, locate, read_csv, read_list
from siamese.data.listing.tree import Tree, walk
from siamese.errors import UserError
from siamese.paths import expand_path

UNKNOWN = 255  # the row of a file without a label among multi-hot labels


@dataclass(frozen=True)
class Listing:
    """The images of a folder.

    Attributes:
        root: the folder.
        classes: names of the classes, sorted as text; empty without labels.
        files: N paths below `root`, sorted folder by folder.
        labels: (N,) int64, -1 is unknown. If a row of the CSV has several labels, (N, K) uint8: 1 where the file has
            the label, 0 where not, and a whole row of `UNKNOWN` (255) for a file without a label. For an empty label
            is unknown, files that have none of the labels need a label that says so ("No Finding").
        parts: ``train``, ``val`` or ``test`` of each file, if the CSV has a third column; a file without a row
            is in ``train``. None without that column.
        left_out: a reason -> how many files or, where a folder was not entered, folders it left out. Each counts once,
            by the first reason that applies.
        linked: whether files of the folder are links, or lie in a folder that is one.
    """

    root: Path
    classes: list[str]
    files: list[Path]
    labels: Tensor
    parts: list[str] | None
    left_out: dict[str, int]
    linked: bool = False


def list_images(
    root: Path,
    labels: str = "folders",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    files: Path | None = None,
) -> Listing:
    """Images of a folder with their labels. Files are told by their suffix, whatever its case; none is opened.

    Hidden files and folders, files that systems leave behind and macOS's `__MACOSX` are ignored. A folder of `root` may
    be a link; links to folders further below are not followed.

    Args:
        root: the folder.
        labels: ``folders``: each folder in `root` is a class; a single folder is none, and neither is a flat folder.
            ``none``: all images of the tree, no labels. Otherwise a CSV (`label_file.read_csv`), whose paths are
            relative to `root`, or all of them to the CSV's folder, or absolute; a backslash separates folders where no
            file has it in its name. Images without a row stay, with an unknown label: self-supervision wants them.
        include, exclude: globs on the path relative to `root`, with `/` on every system. As in `fnmatch`, `*` and
            `?` match `/` too, so that `*.png` means any depth, and case counts; a leading or inner `**/` matches no
            folder, too; a `/` at the end means everything below. A file must match one of `include`, if there are any,
            and none of `exclude`.
        files: a list, one path a line: only these, in the listing's order. Paths as in the CSV.

    Classes are those of the files that remain. A folder without images gives an empty listing.

    Raises:
        UserError: a folder cannot be listed, holds both images and folders of images (``folders``), the list, the CSV
            or a glob is wrong, or does not fit the folder.
    """
    tree, rows = walk(root, skip_own=labels != "folders"), None
    if labels not in ("folders", "none"):
        table = expand_path(labels, "data.labels")
        if not table.is_file():
            looked = f"is neither folders, none nor a file; looked at {table.absolute()}"
            raise UserError(f"data.labels={labels}", looked, "give folders, none or a CSV of labels")
        rows = locate(read_csv(table, "data.labels"), "data.labels", table, tree)
    others = {name for name, row in (rows or {}).items() if row.part not in (None, "train")}
    names = _chosen(tree, include, exclude, files, others)
    parts = None
    if rows is not None:
        classes, target, parts = _from_rows(names, rows, f"data.labels={labels}")
    elif labels == "folders":
        classes, target = _class_folders(root, names)
    else:
        classes, target = [], torch.full((len(names),), -1)
    return Listing(root, classes, [root / name for name in names], target, parts, dict(tree.left_out), bool(tree.links))


def _chosen(
    tree: Tree, include: Sequence[str], exclude: Sequence[str], files: Path | None, others: set[str]
) -> list[str]:
    """The names of a tree that the list and the globs keep. Those that they leave out are counted in the tree.

    Args:
        others: images of other parts than train, of which the list says nothing.
    """
    names = tree.names
    if files is not None:
        listed = locate(read_list(files, "data.list"), "data.list", files, tree)
        names = _keep(names, [name in listed or name in others for name in names], tree.left_out, "not in data.list")
    for key, globs in (("include", include), ("exclude", exclude)):
        globs = [globs] if isinstance(globs, str) else list(globs)
        if not globs or not names:
            continue
        kept, reason = _match(names, globs, key == "include"), "not named by data.include"
        if key == "exclude":
            kept, reason = [not matched for matched in kept], "excluded by data.exclude"
        if not any(kept):
            raise UserError(f"data.{key}={globs}", f"leaves none of {len(names)} images", "change the globs")
        names = _keep(names, kept, tree.left_out, reason)
    return names


def _keep(names: list[str], kept: list[bool], left_out: Counter[str], reason: str) -> list[str]:
    left_out[reason] += kept.count(False)
    return [name for name, keep in zip(names, kept, strict=True) if keep]


def _match(names: list[str], globs: list[str], each: bool) -> list[bool]:
    """Whether each name matches one of the globs.

    Raises:
        UserError: with `each`, a glob that matches no name.
    """
    out = [False] * len(names)
    for glob in globs:
        match = re.compile("|".join(fnmatch.translate(g) for g in _spellings(glob))).match
        found = [match(name) is not None for name in names]
        if each and not any(found):
            raise UserError(
                f"data.include={globs}", f"{glob!r} matches none of {len(names)} images, the first is {names[0]}",
                "paths are relative to data.path, * matches / too, case counts",
            )  # fmt: skip
        out = [a or b for a, b in zip(out, found, strict=True)]
    return out


def _spellings(glob: str) -> list[str]:
    """A glob as globs of fnmatch: `**/` stands for some folders or for none."""
    glob = glob.removeprefix("./") + ("**" if glob.endswith("/") else "")
    first, *others = re.split(r"(?:(?<=/)|^)(?:\*\*/)+", glob)
    out = [first]
    for other in others:
        out = [start + middle + other for start in out for middle in ("**/", "")]
    return out


def _class_folders(root: Path, names: list[str]) -> tuple[list[str], Tensor]:
    """Classes and labels (N,) by the first folder of each name."""
    tops = [name.partition("/")[0] if "/" in name else None for name in names]
    flat, classes = tops.count(None), sorted({top for top in tops if top is not None})
    if flat and classes:
        raise UserError(
            f"data.path={root}", f"holds {flat} images and folders of images",
            "keep either class folders or a flat folder, or give data.labels=none",
        )  # fmt: skip
    if len(classes) < 2:  # a single folder is not a class
        return [], torch.full((len(names),), -1)
    number = {name: i for i, name in enumerate(classes)}
    return classes, torch.tensor([number[top] for top in tops if top is not None], dtype=torch.int64)


def _from_rows(names: list[str], table: dict[str, Row], setting: str) -> tuple[list[str], Tensor, list[str] | None]:
    """Classes, labels and parts of files by the rows of a CSV; see `Listing`."""
    several = any(len(row.labels) > 1 for row in table.values())
    with_parts = any(row.part for row in table.values())
    rows = [table.get(name, Row(0, name, (), "train")) for name in names]
    counts = Counter(label for row in rows for label in row.labels)
    classes = sorted(counts)
    if len(classes) == 1 or not (classes or with_parts):
        found = f"one class, {classes[0]!r}, on {counts[classes[0]]}" if classes else "a label on none"
        raise UserError(setting, f"has {found} of {len(rows)} images", "give two classes, or data.labels=none")
    parts = [row.part or "train" for row in rows] if with_parts else None
    if parts is not None and "train" not in parts:
        raise UserError(setting, f"none of {len(parts)} images is in the part train", "name its part train")
    number = {name: i for i, name in enumerate(classes)}
    if not several or not classes:
        target = torch.tensor([number[row.labels[0]] if row.labels else -1 for row in rows], dtype=torch.int64)
        return classes, target, parts
    target = torch.zeros(len(rows), len(classes), dtype=torch.uint8)
    target[tuple(torch.tensor([(i, number[label]) for i, row in enumerate(rows) for label in row.labels]).T)] = 1
    target[torch.tensor([not row.labels for row in rows])] = UNKNOWN
    return classes, target, parts
