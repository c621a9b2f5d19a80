"""Data sets: images with labels.

Each function below is an option of ``data=`` (conf/data). `DataSet` holds the validation split out of the training
labels.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torchvision

from siamese.data.containers import Source, share_classes
from siamese.data.dataset import DataSet, Split, SplitSettings
from siamese.data.encoded import folder_listings, hf_sources, imagenet_folders, webdataset_sources
from siamese.data.files import ImageFiles, check_kind, kind_of
from siamese.data.folders import existing, remarks
from siamese.data.images import ImageStore, TensorImages
from siamese.data.items import Contents, Files, Items
from siamese.data.labels import stratified
from siamese.data.listing import Listing
from siamese.data.npz import channels_first, read_splits
from siamese.data.packed import PackedFile, PackedImages
from siamese.errors import UserError
from siamese.paths import expand_path
from siamese.schema.types import Channels, Globs, Like, MostPixels, Name, PathText, Pixels, ProperShare, Seed

SplitKeys = Annotated[Any, Like(SplitSettings)]


def digits(name: Name, test_fraction: ProperShare, test_seed: Seed, **split: SplitKeys) -> DataSet:
    """scikit-learn's handwritten digits: 1,797 images of 8x8 grey pixels (values 0 to 16), ten classes,
    with a stratified test split."""
    # scikit-learn's own file, read without importing scikit-learn, which takes two seconds.
    (package,) = importlib.util.find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr, misc]
    table = np.loadtxt(Path(package) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = channels_first(np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8))
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
        images = channels_first(data.data, already=source == "STL10")
        parts.append(Split(TensorImages(images), torch.as_tensor(labels, dtype=torch.int64)))
    return DataSet(name, parts[0], parts[1], [str(c) for c in data.classes], **split)


def npz(name: Name, path: PathText | None, **split: SplitKeys) -> DataSet:
    """One file in MedMNIST's key layout: `train_images` (N, H, W or N, H, W, C with C from 1 to 32; uint8, uint16 or
    float), `train_labels` (N or N, 1; whole numbers, -1 is unknown), optional `val_*`, `test_images`, `test_labels`.
    The classes are the labels of the training split. A .npy file holds unlabelled training images."""
    splits, classes, notes = read_splits(name, existing(path))
    return DataSet(name, splits["train"], splits.get("test"), classes, val=splits.get("val"), notes=notes, **split)


def folder(
    name: Name,
    path: PathText | None,
    size: Pixels,
    on_error: Literal["stop", "skip"],
    test_path: PathText | None = None,
    packed: PathText | None = None,
    labels: PathText = "folders",
    include: Globs = (),
    exclude: Globs = (),
    list: PathText | None = None,
    channels: Channels = "auto",
    max_pixels: MostPixels = 300_000_000,
    **split: SplitKeys,
) -> DataSet:
    """A folder of image files.

    Args:
        path: the folder. With ``labels=folders``, and if it holds a folder `train` and, optionally, `val` and `test`,
            these are the splits.
        size: side of the square to which an image is squeezed for a store in memory or a packed file, pixels. The crops
            undo the squeeze. Streamed files are cropped at their own resolution.
        on_error: ``stop`` or ``skip`` at a file that cannot be decoded.
        test_path: a folder with the test split, of the same classes.
        packed: a folder for packed files: the first run decodes the images of each split once, all later runs read
            the result.
        labels, include, exclude: see `siamese.data.listing.list_images`; of each split's folder.
        list: a file that names the training images, relative to their folder.
        channels: of the images; "auto" is what the headers of some files say.
        max_pixels: an image of more pixels counts as one that cannot be decoded.
    """
    listings = folder_listings(path, test_path, labels, include, exclude, list)
    train = listings["train"]
    return _encoded_set(
        name, {part: Files(one.files) for part, one in listings.items()}, listings,
        {part: f"data.path={one.root}" for part, one in listings.items()},
        None if packed is None else _packing_folder(packed), size, on_error, channels, max_pixels,
        classes=train.classes, notes=remarks(listings), **split,
    )  # fmt: skip


def _packing_folder(packed: str | int | None) -> Path:
    if packed is None:
        raise UserError("data.packed=null", "this data set is read from packed files", "give data.packed=FOLDER")
    where = expand_path(packed, "data.packed")
    if where.exists() and not where.is_dir():
        raise UserError(f"data.packed={packed}", "is a file", "give a folder")
    return where


def imagenet(
    name: Name,
    path: PathText | None,
    size: Pixels,
    on_error: Literal["stop", "skip"],
    **rest: Annotated[Any, Like(folder)],
) -> DataSet:
    """ImageNet as class folders `train` and `val`. Its 50,000 validation images are the test split, as in every paper;
    the validation split is held out of the training labels."""
    train, val = imagenet_folders(path)
    return folder(name, train, size, on_error, test_path=val, **rest)


def hf(
    name: Name,
    path: PathText | None,
    size: Pixels,
    on_error: Literal["stop", "skip"],
    packed: PathText | None,
    train_split: Name | None = None,
    val_split: Name | None = None,
    test_split: Name | None = None,
    image: str | None = None,
    label: str | None = None,
    channels: Channels = "auto",
    max_pixels: MostPixels = 300_000_000,
    **split: SplitKeys,
) -> DataSet:
    """A Hugging Face data set on disk (Arrow or Parquet), packed at the first use. No network.

    Args:
        path: what `save_to_disk` wrote, a folder of the Hub, or a single table.
        size, on_error, packed, channels, max_pixels: as of `folder`.
        train_split, val_split, test_split: names of splits; None takes those that are named so.
        image, label: columns; None takes the only ones of their type, `label=""` none.
    """
    sources = hf_sources(path, train_split, val_split, test_split, image, label)
    return _packed_set(name, sources, packed, size, on_error, channels, max_pixels, split)


def webdataset(
    name: Name,
    path: PathText | None,
    size: Pixels,
    on_error: Literal["stop", "skip"],
    packed: PathText | None,
    val_path: PathText | None = None,
    test_path: PathText | None = None,
    image: Sequence[str] | None = None,
    label: str | None = None,
    channels: Channels = "auto",
    max_pixels: MostPixels = 300_000_000,
    **split: SplitKeys,
) -> DataSet:
    """Tar shards of WebDataset, packed at the first use. No network.

    Args:
        path, val_path, test_path: shards: a folder, a glob, or a pattern with braces, as in
            ``train-{000..146}.tar``.
        size, on_error, packed, channels, max_pixels: as of `folder`.
        image: suffixes of images; None is all known ones.
        label: suffix of labels (``cls``, ``txt``, ``json:KEY``); None takes ``cls`` if there is one, "" none.
    """
    sources = webdataset_sources(path, val_path, test_path, image, label)
    return _packed_set(name, sources, packed, size, on_error, channels, max_pixels, split)


def _packed_set(
    name: str, sources: dict[str, Source], packed: str | int | None, size: int, on_error: str, channels: int | str,
    max_pixels: int, split: dict[str, Any],
) -> DataSet:  # fmt: skip
    """The data set of containers, in packed files."""
    share_classes(sources["train"], {part: one for part, one in sources.items() if part != "train"})
    return _encoded_set(
        name, {part: Contents(one) for part, one in sources.items()}, sources,
        {part: one.setting for part, one in sources.items()}, _packing_folder(packed), size, on_error, channels,
        max_pixels, classes=sources["train"].classes,
        notes=tuple(note for one in sources.values() for note in one.notes), **split,
    )  # fmt: skip


def _encoded_set(
    name: str, items: Mapping[str, Items], labelled: Mapping[str, Listing | Source], settings: Mapping[str, str],
    packed: Path | None, size: int, on_error: str, channels: int | str, max_pixels: int, **rest: Any,
) -> DataSet:  # fmt: skip
    """The data set of encoded images: files that are decoded at each read, or packed files.

    Args:
        items, labelled, settings: of each split: the images, what holds their labels, and the setting that names them.
        rest: of `DataSet`.
    """
    kind = kind_of(items["train"], channels, max_pixels, settings["train"], on_error)
    splits = {}
    for part, one in items.items():
        if part != "train":
            check_kind(one, kind, settings[part], on_error)
        store: ImageStore
        if packed is None:
            assert isinstance(one, Files)
            store = ImageFiles(one.files, size, kind, on_error)
        else:
            store = PackedImages(PackedFile(packed, one, size, kind, on_error))
        splits[part] = Split(store, labelled[part].labels)
    return DataSet(name, splits["train"], splits.get("test"), val=splits.get("val"), **rest)
