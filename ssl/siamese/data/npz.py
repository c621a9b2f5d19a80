"""Arrays of images and labels in a file of NumPy: read, checked, made into splits."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamese.data.dataset import Split, check_splits
from siamese.data.images import TensorImages
from siamese.errors import UserError
from siamese.schema.types import MOST_CHANNELS

MOST_CLASSES = 1_000_000


def channels_first(images: Any, already: bool = False) -> Tensor:
    """(N, H, W), (N, H, W, C) or, with `already`, (N, C, H, W) to (N, C, H, W)."""
    x = torch.as_tensor(np.ascontiguousarray(images))
    if x.ndim == 3:
        return x.unsqueeze(1)
    return x.contiguous() if already else x.permute(0, 3, 1, 2).contiguous()


def read_splits(name: str, file: Path) -> tuple[dict[str, Split], list[str], tuple[str, ...]]:
    """The splits of a .npz file in MedMNIST's key layout, or of a .npy file, which holds training images; the classes,
    which are the labels of the training split; notes.

    Raises:
        UserError: the file cannot be read, or its arrays do not fit.
    """
    if not file.is_file():
        raise UserError(f"data.path={file}", "is no file", "give a .npz or .npy file")
    try:
        read = np.load(file, allow_pickle=False)
        held = {"train_images": read} if isinstance(read, np.ndarray) else {key: read[key] for key in read.files}
    except Exception as error:  # numpy and zip raise many kinds for a damaged file
        raise UserError(
            f"data.path={file}", f"is not a readable .npz file ({error})", "write it with numpy.savez"
        ) from error
    splits = {}
    for part in ("train", "val", "test"):
        images, labels = held.get(f"{part}_images"), held.get(f"{part}_labels")
        if images is None:
            continue
        if labels is None and part != "train":
            raise UserError(
                f"data.path={file}", f"{part}_images without {part}_labels", "add the labels, or remove these images"
            )
        pixels = channels_first(_images(file, part, images))
        if labels is None:
            labels = np.full(len(pixels), -1)
        splits[part] = Split(TensorImages(pixels), _labels(file, part, labels, len(pixels)))
    if "train" not in splits:
        raise UserError(f"data.path={file}", f"no key train_images among {sorted(held)}", "use MedMNIST's key layout")
    known = splits["train"].labels[splits["train"].labels >= 0].unique()
    notes: tuple[str, ...] = ()
    if len(known) and len(known) <= known.max():
        missing = sorted(set(range(int(known.max()) + 1)) - set(known.tolist()))
        told = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        notes = (f"{len(missing)} labels below {int(known.max())} have no training image and are no class: {told}",)
        check_splits(name, splits["train"], {"validation": splits.get("val"), "test": splits.get("test")})
        for one in splits.values():
            one.labels = torch.where(one.labels < 0, -1, torch.searchsorted(known, one.labels))
    return splits, [str(i) for i in known.tolist()], notes


def _images(file: Path, part: str, images: Any) -> Any:
    """Images as uint8, uint16 or float32; float64 is rounded to float32.

    Raises:
        UserError: another type, shape or number of channels, or a value that is not finite.
    """
    shaped = images.ndim == 3 or (images.ndim == 4 and 1 <= images.shape[3] <= MOST_CHANNELS)
    if images.dtype.kind == "f":
        with np.errstate(over="ignore"):
            images = images.astype(np.float32)
    kind = images.dtype.newbyteorder("=")
    if kind not in (np.uint8, np.uint16, np.float32) or not shaped or not images.size:
        raise UserError(
            f"data.path={file}", f"{part}_images is {images.dtype} {images.shape}",
            f"store uint8, uint16 or float32, (N,H,W) or (N,H,W,C) with C from 1 to {MOST_CHANNELS}, none of them 0",
        )  # fmt: skip
    if kind == np.float32:
        bad = ~np.isfinite(images).reshape(len(images), -1).all(1)
        if bad.any():
            raise UserError(
                f"data.path={file}", f"{part}_images[{int(bad.argmax())}] and {int(bad.sum()) - 1} others hold NaN, "
                "infinity or values beyond float32", "replace these values, or leave the images out",
            )  # fmt: skip
    return images.astype(kind, copy=False)


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
