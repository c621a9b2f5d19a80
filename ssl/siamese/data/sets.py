"""Data sets: uint8 images with labels, split into what trains, what validates and what tests.

Each function below is a choice of ``data=`` (conf/data). It returns the training part as published and
the test part; `DataSet` holds the validation part out of the training labels.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from siamese.data.packed import Packed, Store
from siamese.errors import UserError, check_number

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass
class Part:
    """Images with labels.

    Args:
        images: (N, 3, H, W) uint8, the paths of N image files, or N images of a packed file.
        labels: (N,) int64; -1 is unknown.
        size: side of the square that image files are squeezed to when they are decoded.
        on_error: what an unreadable file does: ``stop`` or ``skip``.
        origin: (N,) their numbers in the training part as it was published, which lists of labels use.
    """

    images: Tensor | list[Path] | Packed
    labels: Tensor
    size: int = 0
    on_error: str = "stop"
    origin: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> "Part":
        """The samples at `index` (M,)."""
        images: Tensor | list[Path] | Packed
        if isinstance(self.images, list):
            images = [self.images[i] for i in index.tolist()]
        else:
            images = self.images[index] if isinstance(self.images, Tensor) else self.images.subset(index)
        origin = None if self.origin is None else self.origin[index]
        return replace(self, images=images, labels=self.labels[index], origin=origin)

    def plus(self, other: "Part") -> "Part":
        """Both, one after the other; images of the same kind, packed ones of the same file."""
        images: Tensor | list[Path] | Packed
        if isinstance(self.images, list) and isinstance(other.images, list):
            images = self.images + other.images
        elif isinstance(self.images, Packed) and isinstance(other.images, Packed):
            images = self.images.plus(other.images)
        else:
            assert isinstance(self.images, Tensor) and isinstance(other.images, Tensor)
            images = torch.cat([self.images, other.images])
        known = self.origin is not None and other.origin is not None
        origin = torch.cat([self.origin, other.origin]) if known else None  # type: ignore[list-item]
        return replace(self, images=images, labels=torch.cat([self.labels, other.labels]), origin=origin)

    @property
    def nbytes(self) -> int:
        """Of all images as uint8."""
        if isinstance(self.images, Tensor):
            return self.images.numel()
        return len(self) * 3 * self.size * self.size


def three_channels(images: Any) -> Tensor:
    """(N, H, W), (N, 1, H, W), (N, H, W, 1), (N, H, W, 3) or (N, 3, H, W) uint8 to (N, 3, H, W). Grey
    images become colour here and nowhere else."""
    x = torch.as_tensor(np.ascontiguousarray(images))
    if x.ndim == 3:
        x = x.unsqueeze(1)
    if x.shape[1] not in (1, 3):
        x = x.permute(0, 3, 1, 2)
    return x.expand(-1, 3, -1, -1).contiguous()


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """A bool mask (N,) that is true for `fraction` of each class, drawn with `seed`; unknown labels (-1)
    are never chosen."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        if label >= 0:
            members = (labels == label).nonzero().squeeze(1)
            chosen = torch.randperm(len(members), generator=generator)[: round(fraction * len(members))]
            mask[members[chosen]] = True
    return mask


class DataSet:
    """A data set with its validation part.

    Args:
        name: for reports.
        train: all images that may be trained on.
        test: touched by `eval_linear.py` alone; None where the data set has none.
        classes: names of the classes, empty without labels.
        val: a published validation part; without one `val_fraction` of each class is held out of the
            training labels, with `split_seed`.
        train_images: train on a choice of about so many images, each class alike (all together where there are no
            labels), drawn with `split_seed`; None for all.

    Pretraining sees the images of a held-out part without their labels, as it may see any unlabelled
    image; `supervised` does not see them at all. A published validation part is no training image.
    """

    def __init__(
        self,
        name: str,
        train: Part,
        test: Part | None,
        classes: list[str],
        val: Part | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        train_images: int | None = None,
    ):
        train = replace(train, origin=torch.arange(len(train)))
        if val is not None:  # numbered behind it
            val = replace(val, origin=len(train) + torch.arange(len(val)))
        if train_images is not None:
            check_number("data.train_images", train_images, 2, len(train))
            chosen = stratified(train.labels.clamp(min=0), train_images / len(train), split_seed)
            train = train.subset(chosen.nonzero().squeeze(1))
        self.published_val = val is not None
        # What has no label cannot be scored.
        test, val = (
            p if p is None or bool((p.labels >= 0).all()) else p.subset((p.labels >= 0).nonzero().squeeze(1))
            for p in (test, val)
        )
        if val is not None and not len(val) and bool((train.labels >= 0).any()):
            raise UserError(
                f"data={name}", "its validation part has no label that is known",
                "drop that part, and data.val_fraction of the training labels is held out",
            )  # fmt: skip
        self.name, self.classes, self.test = name, classes, test
        if val is not None:
            self.pretrain, self.fit, self.val = train, train.subset((train.labels >= 0).nonzero().squeeze(1)), val
            return
        if not 0 < val_fraction < 1:
            raise UserError(f"data.val_fraction={val_fraction}", "a part of the training labels, in (0, 1)", "try 0.1")
        held_out = stratified(train.labels, val_fraction, split_seed)
        self.fit = train.subset((~held_out & (train.labels >= 0)).nonzero().squeeze(1))
        self.val = train.subset(held_out.nonzero().squeeze(1))
        # The same images, the held-out labels hidden from every monitor that trains.
        self.pretrain = replace(train, labels=torch.where(held_out, -1, train.labels))

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def labelled(self) -> bool:
        """Can a probe be trained and validated?"""
        return self.num_classes > 1 and len(self.fit) > 0 and len(self.val) > 0


def digits(name: str, test_fraction: float, test_seed: int, **split: Any) -> DataSet:
    """scikit-learn's handwritten digits: 1,797 images of 8x8 grey pixels (values 0 to 16), ten classes,
    with a stratified test part."""
    # scikit-learn's own file, read without importing scikit-learn, which takes two seconds.
    (package,) = importlib.util.find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr, misc]
    table = np.loadtxt(Path(package) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = three_channels(np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8))
    labels = torch.as_tensor(table[:, -1], dtype=torch.int64)
    test = stratified(labels, test_fraction, test_seed)
    parts = [Part(images[mask], labels[mask]) for mask in (~test, test)]
    return DataSet(name, parts[0], parts[1], [str(i) for i in range(10)], **split)


def torchvision_set(
    name: str,
    source: Callable[..., Any],
    path: str,
    download: bool,
    train: dict[str, Any],
    test: dict[str, Any],
    **split: Any,
) -> DataSet:
    """One of torchvision's in-memory data sets.

    Args:
        source: its class.
        path: the folder that holds it, or receives it.
        download: fetch it if it is not there.
        train, test: the arguments that name the parts.
    """
    parts = []
    for arguments in (train, test):
        try:
            data = source(path, download=download, **arguments)
        except (RuntimeError, OSError) as error:
            remedy = "give its folder as data.path=…, or set data.download=true" if not download else "see the message"
            raise UserError(
                f"data={name} data.path={path}", f"the data set cannot be read there ({error})", remedy
            ) from error
        labels = data.targets if hasattr(data, "targets") else data.labels
        parts.append(Part(three_channels(data.data), torch.as_tensor(labels, dtype=torch.int64)))
    return DataSet(name, parts[0], parts[1], [str(c) for c in data.classes], **split)


def npz(name: str, path: str | None, **split: Any) -> DataSet:
    """One file in MedMNIST's key layout: `train_images` (uint8; N, H, W or N, H, W, C), `train_labels`
    (N or N, 1), optional `val_*`, `test_images`, `test_labels`."""
    file = _existing(path)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            held = {key: arrays[key] for key in arrays.files}
    except Exception as error:  # numpy and zip have many words for a damaged file
        raise UserError(
            f"data.path={file}", f"is not a readable .npz file ({error})", "write it with numpy.savez"
        ) from error
    parts: dict[str, Part] = {}
    for part in ("train", "val", "test"):
        images, labels = held.get(f"{part}_images"), held.get(f"{part}_labels")
        if images is None:
            continue
        shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
        if images.dtype != np.uint8 or not shaped or not len(images):
            raise UserError(
                f"data.path={file}",
                f"{part}_images is {images.dtype} {images.shape}",
                "store uint8 (N,H,W) or (N,H,W,3), N > 0",
            )
        if labels is None and part != "train":
            raise UserError(
                f"data.path={file}", f"{part}_images without {part}_labels", "add the labels, or drop the part"
            )
        if labels is None:
            labels = np.full(len(images), -1)
        if labels.size != len(images):
            raise UserError(
                f"data.path={file}",
                f"{len(images)} {part}_images but {labels.size} {part}_labels",
                "one label an image is needed",
            )
        parts[part] = Part(three_channels(images), torch.as_tensor(labels.reshape(-1).astype(np.int64)))
    if "train" not in parts:
        raise UserError(f"data.path={file}", f"no key train_images among {sorted(held)}", "use MedMNIST's key layout")
    classes = int(max(int(p.labels.max()) for p in parts.values())) + 1
    return DataSet(
        name, parts["train"], parts.get("test"), [str(i) for i in range(classes)], val=parts.get("val"), **split
    )


def decode(file: Path, size: int) -> tuple[Tensor, float]:
    """An image file to ((3, size, size) uint8, width / height of the original).

    The image is squeezed into the square with antialiasing; the aspect lets the crops undo it, so that
    they cover the whole photograph as the papers' do. A JPEG is decoded at a reduced scale where that
    suffices.
    """
    with Image.open(file) as image:
        aspect = image.width / image.height
        image.draft("RGB", (size, size))
        square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1), aspect


def folder(
    name: str, path: str | None, size: int, on_error: str, test_path: str | None = None, packed: str | None = None,
    **split: Any,
) -> DataSet:  # fmt: skip
    """A folder of image files: one folder a class, or a flat folder without labels.

    Args:
        path: the folder. With `train` and, optionally, `val` and `test` folders inside, these are the parts.
        size: side of the square to which an image is squeezed when it is decoded. The crops undo the squeeze.
        on_error: ``stop`` or ``skip``, at a file that cannot be decoded.
        test_path: a folder with the test part, of the same classes.
        packed: a folder for packed files: the images of each part are decoded once, at the first run, and read
            from there by all later ones.
    """
    if on_error not in ("stop", "skip"):
        raise UserError(f"data.on_error={on_error}", "not known", "choose stop or skip")
    root = _existing(path)
    if not root.is_dir():
        raise UserError(f"data.path={root}", "is not a folder", "give the folder that holds the images")
    train_root = root / "train" if (root / "train").is_dir() else root
    classes, files, labels = _listing(train_root)
    if not files:
        raise UserError(f"data.path={root}", "holds no image", f"put {', '.join(IMAGE_SUFFIXES[:4])}… files there")
    if not any(_readable(file) for file in files):
        raise UserError(
            f"data.path={root}", f"none of its {len(files)} images can be read", "check that they are images"
        )
    train = Part(files, labels, size, on_error)
    parts: dict[str, Part | None] = {"val": None, "test": None}
    for part, given in (("val", None), ("test", test_path)):
        where = _existing(given, "data.test_path") if given else root / part
        if where.is_dir() and (given or train_root != root):
            other_classes, other_files, other_labels = _listing(where)
            if other_classes != classes:
                raise UserError(
                    f"data.path={root}",
                    f"{where} has {len(other_classes)} classes, {train_root} has {len(classes)}",
                    "the folders of the parts must have the same names",
                )
            parts[part] = Part(other_files, other_labels, size, on_error)
    if packed is not None:
        where = Path(packed).expanduser()
        train = _packed(where, train)
        parts = {name: part and _packed(where, part) for name, part in parts.items()}
    return DataSet(name, train, parts["test"], classes, val=parts["val"], **split)


def _packed(where: Path, part: Part) -> Part:
    assert isinstance(part.images, list)
    store = Store(where, part.images, part.size, part.on_error, decode)
    return replace(part, images=Packed(store, torch.arange(len(part))))


def imagenet(name: str, path: str | None, size: int, on_error: str, **split: Any) -> DataSet:
    """ImageNet as class folders `train` and `val`. Its 50,000 validation images are the test part, as in
    every paper; the validation part is held out of the training labels."""
    root = _existing(path)
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise UserError(f"data.path={root}", f"has no folder {part}", "give the folder that holds train/ and val/")
    return folder(name, str(root / "train"), size, on_error, test_path=str(root / "val"), **split)


def _existing(path: str | None, key: str = "data.path") -> Path:
    if path is None:
        raise UserError(f"{key}=null", "this data set needs a path", f"give {key}=…")
    found = Path(path).expanduser()
    if not found.exists():
        raise UserError(f"{key}={path}", "does not exist", f"looked at {found.absolute()}")
    return found


def _listing(root: Path) -> tuple[list[str], list[Path], Tensor]:
    """Classes, files and labels of a folder, in sorted order; no class and labels of -1 if it is flat."""

    def images(where: Path) -> list[Path]:
        return sorted(f for f in where.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())

    flat = sorted(f for f in root.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())
    if flat and any(images(d) for d in root.iterdir() if d.is_dir()):
        raise UserError(
            f"data.path={root}",
            f"holds {len(flat)} images and folders of images",
            "keep either class folders or a flat folder",
        )
    if flat:
        return [], flat, torch.full((len(flat),), -1)
    by_class = {d.name: images(d) for d in sorted(root.iterdir()) if d.is_dir()}
    by_class = {name: found for name, found in by_class.items() if found}
    files = [f for found in by_class.values() for f in found]
    labels = [label for label, found in enumerate(by_class.values()) for _ in found]
    if len(by_class) == 1:  # one folder is a place, not a class
        return [], files, torch.full((len(files),), -1)
    return list(by_class), files, torch.tensor(labels, dtype=torch.int64)


def _readable(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            image.load()
        return True
    except Exception:  # Pillow has many words for a damaged file
        return False
