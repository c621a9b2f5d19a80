"""Splits of a folder of image files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from siamese.data.listing import Listing, list_images
from siamese.errors import UserError
from siamese.paths import expand_path

PARTS = ("train", "val", "test")
NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}  # of splits


@dataclass(frozen=True)
class Selection:
    """Which files of a folder are taken, and where their labels are; see `list_images`.

    Args:
        labels: ``folders``, ``none`` or a CSV.
        include, exclude: globs.
        listed: a file that names the training images, or None.
    """

    labels: str = "folders"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    listed: Path | None = None

    def of(self, root: Path, part: str = "train") -> Listing:
        """The images of a folder."""
        return list_images(root, self.labels, self.include, self.exclude, self.listed if part == "train" else None)


def existing(path: str | int | None, key: str = "data.path") -> Path:
    """The path of a setting.

    Raises:
        UserError: it is null, or nothing is there.
    """
    if path is None:
        raise UserError(f"{key}=null", "this data set needs a path", f"give {key}=…")
    found = expand_path(path, key)
    if not found.exists():
        raise UserError(f"{key}={path}", "does not exist", f"looked at {found.absolute()}")
    return found


def splits_of(root: Path, selection: Selection, test_path: str | int | None) -> dict[str, Listing]:
    """A listing for each of `PARTS` that is there: of the folders train, val and test in `root`, by the third column of
    a CSV, or all in train.

    Args:
        test_path: a folder with the test split, or None.

    Raises:
        UserError: a folder holds no image, or the splits share images or have other classes.
    """
    if not root.is_dir():
        raise UserError(f"data.path={root}", "is not a folder", "give the folder that holds the images")
    folders = selection.labels == "folders" and (root / "train").is_dir()
    train_root = root / "train" if folders else root
    listings = by_part(selection.of(train_root))
    if not listings["train"].files:
        left = ", ".join(f"{n} {reason}" for reason, n in listings["train"].left_out.items() if n)
        raise UserError(
            f"data.path={root}",
            f"holds no image{f' ({left})' if left else ''}",
            "put .jpg, .png, .tif, .npy… files there",
        )
    roots = [("the training split", train_root)]
    for part, given in (("val", None), ("test", test_path)):
        where = existing(given, "data.test_path") if given is not None else root / part
        if given is not None and not where.is_dir():
            raise UserError(f"data.test_path={given}", "is not a folder", "give the folder that holds the images")
        if not where.is_dir() or (given is None and not folders):
            continue
        if part in listings:
            raise UserError(f"data.{part}_path={given}", f"data.labels names {part} images, too", "give one of them")
        listings[part] = _like(selection.of(where, part), listings["train"])
        roots.append((f"data.test_path={given}" if given is not None else f"{root}/{part}", where))
    _check_apart(roots)
    for part in PARTS[1:]:
        if part in listings:
            _check_links(listings[part], listings["train"])
    return listings


def by_part(listing: Listing) -> dict[str, Listing]:
    """A listing for each part that a CSV names."""
    if listing.parts is None:
        return {"train": listing}
    out = {}
    for part in PARTS:
        index = [i for i, own in enumerate(listing.parts) if own == part]
        if index or part == "train":
            files = [listing.files[i] for i in index]
            left_out = listing.left_out if part == "train" else {}  # counted once
            out[part] = replace(listing, files=files, labels=listing.labels[index], parts=None, left_out=left_out)
    return out


def _like(other: Listing, train: Listing) -> Listing:
    """The listing of another split, whose classes must be those of the training split."""
    if other.classes != train.classes:
        odd = sorted(set(other.classes) ^ set(train.classes))
        raise UserError(
            f"data.path={train.root}",
            f"{other.root} has {len(other.classes)} classes, {train.root} has {len(train.classes)} (not in both: "
            f"{', '.join(odd[:3]) or 'none'})",
            "the splits must have class folders of the same names",
        )
    if not other.files:
        raise UserError(f"data.path={other.root}", "holds no image", "put images there, or remove the folder")
    return other


def _check_apart(roots: list[tuple[str, Path]]) -> None:
    """Refuse splits that share images: a test on training images measures nothing."""
    real = [(told, Path(os.path.realpath(where))) for told, where in roots]
    for i, (told, where) in enumerate(real):
        for other_told, other in real[:i]:
            if where == other or where in other.parents or other in where.parents:
                raise UserError(told, f"shares its images with {other_told} ({other})", "give separate folders")


def _check_links(other: Listing, train: Listing) -> None:
    """Refuse a split that shares files with the training split by links. Files are resolved only if there are links."""
    if not (other.linked or train.linked):
        return
    known = {os.path.realpath(file) for file in train.files}
    shared = [file for file in other.files if os.path.realpath(file) in known]
    if shared:
        raise UserError(
            f"data.path={shared[0]}", f"is a training image too, and so are {len(shared) - 1} others of its split",
            "remove the links",
        )  # fmt: skip


def remarks(listings: dict[str, Listing]) -> tuple[str, ...]:
    """Notes for the user: which files were left out, and which folders are trained on though they are called as other
    splits are."""
    train = listings["train"]
    others = [train.root / part for part in PARTS[1:] if (train.root / "train").is_dir()]
    told = [str(o) for o in others if o.is_dir() and any(str(f).startswith(f"{o}{os.sep}") for f in train.files)]
    if told:
        only = "only data.labels=folders, or the third column of a CSV, makes other splits"
        return (*_left_out(listings), f"the images of {' and '.join(told)} are trained on, too; {only}")
    return _left_out(listings)


def _left_out(listings: dict[str, Listing]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for listing in listings.values():
        for reason, count in listing.left_out.items():
            counts[reason] = counts.get(reason, 0) + count
    told = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
    return (f"left out: {told}",) if told else ()


def chosen_split(key: str, given: str | None, part: str, have: Sequence[str]) -> str | None:
    """The name of a data set's split that is `part`; None if there is none.

    Args:
        key: the setting; `given` is its value.
        have: names of the data set's splits.

    Raises:
        UserError: there is no such split, or none to train on.
    """
    if given is not None and given not in have:
        raise UserError(f"{key}={given}", "is no split of the data set", f"choose from {', '.join(have)}")
    if given is not None:
        return given
    found = [name for name in have if name in NAMES[part]]
    if part == "train" and not found:
        if len(have) != 1:
            raise UserError(f"{key}=null", f"the data set has the splits {', '.join(have)}", f"give {key}=NAME")
        return have[0]
    return found[0] if found else None
