"""Encoded images of each split, by the settings of a data set (`conf/data`)."""

import inspect
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from siamese.data.containers import Source, hugging_face, hugging_face_splits
from siamese.data.containers import webdataset as shards
from siamese.data.folders import Selection, chosen_split, existing, remarks, splits_of
from siamese.data.items import Contents, Files, Items
from siamese.data.listing import Listing
from siamese.errors import UserError


def folder_listings(
    path: str | int | None, test_path: str | int | None = None, labels: str | int = "folders",
    include: Sequence[str] = (), exclude: Sequence[str] = (), list: str | int | None = None,
) -> dict[str, Listing]:  # fmt: skip
    """The files of each split of `folder`."""
    listed = None if list is None else existing(list, "data.list")
    if listed is not None and not listed.is_file():
        raise UserError(f"data.list={list}", "is no file", "give a text file with one path a line")
    return splits_of(existing(path), Selection(str(labels), include, exclude, listed), test_path)


def imagenet_folders(path: str | int | None) -> tuple[str, str]:
    """The folders `train` and `val`."""
    root = existing(path)
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise UserError(f"data.path={root}", f"has no folder {part}", "give the folder that holds train/ and val/")
    return str(root / "train"), str(root / "val")


def hf_sources(
    path: str | int | None, train_split: str | None, val_split: str | None, test_split: str | None,
    image: str | None, label: str | None,
) -> dict[str, Source]:  # fmt: skip
    """The encoded images of each split of `hf`."""
    root = existing(path)
    have = hugging_face_splits(root)
    chosen = {
        part: chosen_split(f"data.{part}_split", given, part, have)
        for part, given in (("train", train_split), ("val", val_split), ("test", test_split))
    }
    named = {"train": train_split, "val": val_split, "test": test_split}
    for part, other in (("val", "train"), ("test", "train"), ("test", "val")):
        if chosen[part] is None or chosen[part] != chosen[other]:
            continue
        if named[part] is not None:
            raise UserError(f"data.{part}_split={named[part]}", f"is the {other} split, too", "give another one")
        chosen[part] = None  # found by its name alone
    return {part: hugging_face(root, own, image, label) for part, own in chosen.items() if own is not None}


def webdataset_sources(
    path: str | int | None, val_path: str | int | None, test_path: str | int | None, image: Sequence[str] | None,
    label: str | None,
) -> dict[str, Source]:  # fmt: skip
    """The encoded images of each split of `webdataset`."""
    if path is None:
        raise UserError("data.path=null", "this data set needs shards", "give \"data.path='DIR/train-{000..009}.tar'\"")
    given = (("train", path), ("val", val_path), ("test", test_path))
    found = {part: shards(str(where), image, label) for part, where in given if where is not None}
    real = {part: {os.path.realpath(file): file for file in one.files} for part, one in found.items()}
    for (part, own), (other, others) in itertools.combinations(reversed(real.items()), 2):
        if both := own.keys() & others.keys():
            raise UserError(
                f"data.{part}_path", f"shares {len(both)} shards with the {other} split, the first {own[min(both)]}",
                "give each shard to one split",
            )  # fmt: skip
    return found


def encoded(settings: Mapping[str, Any]) -> tuple[dict[str, Items], tuple[str, ...]]:
    """The encoded images of each split, before their kind is known, and notes; nothing for sets without files.

    Args:
        settings: `conf/data`.
    """
    target = str(settings["_target_"]).removeprefix("siamese.data.sets.")
    if target == "imagenet":
        train, val = imagenet_folders(settings["path"])
        settings, target = {**settings, "path": train, "test_path": val}, "folder"
    if target == "folder":
        listings = folder_listings(**_own(folder_listings, settings))
        return {part: Files(one.files) for part, one in listings.items()}, remarks(listings)
    makes: dict[str, Callable[..., Any]] = {"hf": hf_sources, "webdataset": webdataset_sources}
    if target not in makes:
        return {}, ()
    sources: dict[str, Source] = makes[target](**_own(makes[target], settings))
    notes = tuple(note for one in sources.values() for note in one.notes)
    return {part: Contents(one) for part, one in sources.items()}, notes


def _own(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a function takes."""
    return {k: settings[k] for k in inspect.signature(function).parameters if k in settings}
