"""Data sets: uint8 images with labels.

Each function below is an option of ``data=`` (conf/data). `DataSet` holds the validation split out of the training
labels.
"""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torchvision
from torch import Tensor

from siamese.data.dataset import DataSet, Split, SplitSettings, check_splits, stratified
from siamese.data.images import IMAGE_SUFFIXES, ImageFiles, TensorImages, listing, unreadable
from siamese.data.packed import PackedImages
from siamese.errors import UserError
from siamese.paths import expand_path
from siamese.schema.types import Like, Name, PathText, Pixels, ProperShare, Seed

MOST_CLASSES = 1_000_000
SplitKeys = Annotated[Any, Like(SplitSettings)]


def three_channels(images: Any, channels_first: bool = False) -> Tensor:
    """(N, H, W) or (N, H, W, C) uint8, or (N, C, H, W) with `channels_first`, C being 1 or 3, to (N, 3, H, W).
    Grey images become colour here and nowhere else."""
    x = torch.as_tensor(np.ascontiguousarray(images))
    if x.ndim == 3:
        x = x.unsqueeze(1)
    elif not channels_first:
        x = x.permute(0, 3, 1, 2)
    return x.expand(-1, 3, -1, -1).contiguous()


def digits(name: Name, test_fraction: ProperShare, test_seed: Seed, **split: SplitKeys) -> DataSet:
    """scikit-learn's handwritten digits: 1,797 images of 8x8 grey pixels (values 0 to 16), ten classes,
    with a stratified test split."""
    # scikit-learn's own file, read without importing scikit-learn, which takes two seconds.
    (package,) = importlib.util.find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr, misc]
    table = np.loadtxt(Path(package) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = three_channels(np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8))
    labels = torch.as_tensor(table[:, -1], dtype=torch.int64)
    test = stratified(labels, test_fraction, test_seed)
    train, held_out = (Split(TensorImages(images[mask]), labels[mask]) for mask in (~test, test))
    if len(held_out.labels.unique()) < 10 or len(train.labels.unique()) < 10:
        raise UserError(
            f"data.test_fraction={test_fraction:g}", "leaves a split without images of some class", "try 0.2"
        )
    return DataSet(name, train, held_out, [str(i) for i in range(10)], **split)


def torchvision_set(
    name: Name,
    source: Literal["CIFAR10", "CIFAR100", "STL10", "FashionMNIST", "MNIST", "KMNIST"],
    path: PathText,
    download: bool,
    train: dict[str, bool | str],
    test: dict[str, bool | str],
    **split: SplitKeys,
) -> DataSet:
    """One of torchvision's in-memory data sets.

    Args:
        source: the class in torchvision.datasets.
        path: the folder that holds the data set, or receives it.
        download: download the data set if it is missing.
        train, test: the arguments that select the splits.
    """
    parts = []
    for arguments in (train, test):
        try:
            data = getattr(torchvision.datasets, source)(str(path), download=download, **arguments)
        except (RuntimeError, OSError, TypeError, ValueError) as error:
            remedy = "give its folder as data.path=…, or set data.download=true" if not download else "see the message"
            raise UserError(
                f"data={name} data.path={path}", f"the data set cannot be read there ({error})", remedy
            ) from error
        labels = data.targets if hasattr(data, "targets") else data.labels
        images = three_channels(data.data, channels_first=source == "STL10")
        parts.append(Split(TensorImages(images), torch.as_tensor(labels, dtype=torch.int64)))
    return DataSet(name, parts[0], parts[1], [str(c) for c in data.classes], **split)


def npz(name: Name, path: PathText | None, **split: SplitKeys) -> DataSet:
    """One file in MedMNIST's key layout: `train_images` (uint8; N, H, W or N, H, W, C with C 1 or 3), `train_labels`
    (N or N, 1; whole numbers, -1 is unknown), optional `val_*`, `test_images`, `test_labels`. The classes are the
    labels of the training split."""
    file = _existing(path)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            held = {key: arrays[key] for key in arrays.files}
    except Exception as error:  # numpy and zip raise many kinds for a damaged file
        raise UserError(
            f"data.path={file}", f"is not a readable .npz file ({error})", "write it with numpy.savez"
        ) from error
    parts = {}
    for part in ("train", "val", "test"):
        images, labels = held.get(f"{part}_images"), held.get(f"{part}_labels")
        if images is None:
            continue
        shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
        if images.dtype != np.uint8 or not shaped or not images.size:
            raise UserError(
                f"data.path={file}",
                f"{part}_images is {images.dtype} {images.shape}",
                "store uint8 (N,H,W) or (N,H,W,3), none of them 0",
            )
        if labels is None and part != "train":
            raise UserError(
                f"data.path={file}", f"{part}_images without {part}_labels", "add the labels, or remove these images"
            )
        if labels is None:
            labels = np.full(len(images), -1)
        parts[part] = Split(TensorImages(three_channels(images)), _labels(file, part, labels, len(images)))
    if "train" not in parts:
        raise UserError(f"data.path={file}", f"no key train_images among {sorted(held)}", "use MedMNIST's key layout")
    known = parts["train"].labels[parts["train"].labels >= 0].unique()
    notes: tuple[str, ...] = ()
    if len(known) and len(known) <= known.max():
        missing = sorted(set(range(int(known.max()) + 1)) - set(known.tolist()))
        told = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        notes = (f"{len(missing)} labels below {int(known.max())} have no training image and are no class: {told}",)
        check_splits(name, parts["train"], {"validation": parts.get("val"), "test": parts.get("test")})
        for one in parts.values():
            one.labels = torch.where(one.labels < 0, -1, torch.searchsorted(known, one.labels))
    classes = [str(i) for i in known.tolist()]
    return DataSet(name, parts["train"], parts.get("test"), classes, val=parts.get("val"), notes=notes, **split)


def _labels(file: Path, part: str, labels: Any, count: int) -> Tensor:
    """Labels as (count,) int64.

    Raises:
        UserError: a label is not a whole number from -1 to MOST_CLASSES - 1, or the count differs.
    """
    key = f"{part}_labels"
    if labels.dtype.kind not in "iufb":
        raise UserError(f"data.path={file}", f"{key} holds {labels.dtype}", "store whole numbers")
    if labels.size != count:
        raise UserError(
            f"data.path={file}", f"{count} {part}_images but {labels.size} {key}", "one label an image is needed"
        )
    flat = labels.reshape(-1)
    with np.errstate(invalid="ignore"):
        good = (flat >= -1) & (flat < MOST_CLASSES) & (np.floor(flat.astype(np.float64)) == flat)
    if not good.all():
        i = int(good.argmin())
        raise UserError(
            f"data.path={file}", f"{key}[{i}] is {flat[i]}",
            f"labels are whole numbers from -1 (unknown) to {MOST_CLASSES - 1:,}",
        )  # fmt: skip
    return torch.as_tensor(flat.astype(np.int64))


def folder(
    name: Name,
    path: PathText | None,
    size: Pixels,
    on_error: Literal["stop", "skip"],
    test_path: PathText | None = None,
    packed: PathText | None = None,
    **split: SplitKeys,
) -> DataSet:
    """A folder of image files: one folder a class, or a flat folder without labels.

    Args:
        path: the folder. If it holds a folder `train` and, optionally, `val` and `test`, these are the splits.
        size: side of the square to which an image is squeezed when it is decoded, pixels. The crops undo the squeeze.
        on_error: ``stop`` or ``skip`` at a file that cannot be decoded.
        test_path: a folder with the test split, of the same classes.
        packed: a folder for packed files: the first run decodes the images of each split once, all later runs read
            the result.
    """
    root = _existing(path)
    if not root.is_dir():
        raise UserError(f"data.path={root}", "is not a folder", "give the folder that holds the images")
    train_root = root / "train" if (root / "train").is_dir() else root
    classes, files, labels = _listing(train_root)
    if not files:
        raise UserError(f"data.path={root}", "holds no image", f"put {', '.join(IMAGE_SUFFIXES[:4])}… files there")
    reason = unreadable(files[0])
    if reason and all(unreadable(file) for file in files[1:]):
        raise UserError(
            f"data.path={root}", f"none of its {len(files)} images can be read; the first: {files[0].name}: {reason}",
            "check that they are images",
        )  # fmt: skip
    train = Split(ImageFiles(files, size, on_error), labels)
    roots, splits = [("the training split", train_root)], {}
    for part, given in (("val", None), ("test", test_path)):
        where = _existing(given, "data.test_path") if given is not None else root / part
        if where.is_dir() and (given is not None or train_root != root):
            found, part_labels = _part(where, train_root, classes)
            splits[part] = Split(ImageFiles(found, size, on_error), part_labels)
            roots.append((f"data.test_path={given}" if given is not None else f"{root}/{part}", where))
        elif given is not None:
            raise UserError(f"data.test_path={given}", "is not a folder", "give the folder that holds the images")
    _apart(roots)
    for one in splits.values():
        _check_links(one.images.names() or [], files)
    if packed is not None:
        where = expand_path(packed, "data.packed")
        if where.exists() and not where.is_dir():
            raise UserError(f"data.packed={packed}", "is a file", "give a folder")
        pack = lambda s: replace(s, images=PackedImages.of(where, s.images.names(), size, on_error))  # noqa: E731
        train, splits = pack(train), {part: pack(one) for part, one in splits.items()}
    return DataSet(name, train, splits.get("test"), classes, val=splits.get("val"), **split)


def _part(where: Path, train_root: Path, classes: list[str]) -> tuple[list[Path], Tensor]:
    """Files and labels of a validation or test folder."""
    other_classes, files, labels = _listing(where)
    if other_classes != classes:
        odd = sorted(set(other_classes) ^ set(classes))
        raise UserError(
            f"data.path={train_root}",
            f"{where} has {len(other_classes)} classes, {train_root} has {len(classes)} (not in both: "
            f"{', '.join(odd[:3]) or 'none'})",
            "the splits must have class folders of the same names",
        )
    if not files:
        raise UserError(f"data.path={where}", "holds no image", "put images there, or remove the folder")
    return files, labels


def _listing(where: Path) -> tuple[list[str], list[Path], Tensor]:
    try:
        return listing(where)
    except OSError as error:
        raise UserError(f"data.path={where}", f"cannot be listed ({error.strerror})", "give another folder") from error


def _apart(roots: list[tuple[str, Path]]) -> None:
    """Refuse splits that share images: a test on training images measures nothing."""
    real = [(told, Path(os.path.realpath(where))) for told, where in roots]
    for i, (told, where) in enumerate(real):
        for other_told, other in real[:i]:
            if where == other or where in other.parents or other in where.parents:
                raise UserError(told, f"shares its images with {other_told} ({other})", "give separate folders")


def _check_links(files: list[Path], train: list[Path]) -> None:
    """Refuse a split that holds links to training images. Files are resolved only if one of them is a link."""
    if not any(os.path.islink(file) for file in files):
        return
    known = {os.path.realpath(file) for file in train}
    shared = [file for file in files if os.path.realpath(file) in known]
    if shared:
        raise UserError(
            f"data.path={shared[0]}", f"is a training image too, and so are {len(shared) - 1} others of its split",
            "remove the links",
        )  # fmt: skip


def imagenet(
    name: Name,
    path: PathText | None,
    size: Pixels,
    on_error: Literal["stop", "skip"],
    **rest: Annotated[Any, Like(folder)],
) -> DataSet:
    """ImageNet as class folders `train` and `val`. Its 50,000 validation images are the test split, as in every paper;
    the validation split is held out of the training labels."""
    root = _existing(path)
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise UserError(f"data.path={root}", f"has no folder {part}", "give the folder that holds train/ and val/")
    return folder(name, str(root / "train"), size, on_error, test_path=str(root / "val"), **rest)


def _existing(path: str | int | None, key: str = "data.path") -> Path:
    if path is None:
        raise UserError(f"{key}=null", "this data set needs a path", f"give {key}=…")
    found = expand_path(path, key)
    if not found.exists():
        raise UserError(f"{key}={path}", "does not exist", f"looked at {found.absolute()}")
    return found
