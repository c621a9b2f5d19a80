"""Parts of a data set, and what is held out of the training labels."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from siamese.data.packed import Packed
from siamese.errors import UserError
from siamese.schema.types import AtLeastTwo, Group, ProperShare, Seed


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

    def labelled(self) -> "Part":
        """The samples whose label is known."""
        known = self.labels >= 0
        return self if bool(known.all()) else self.subset(known.nonzero().squeeze(1))

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


def some_of(length: int, limit: int, seed: int = 0) -> Tensor:
    """Indices (min(length, limit),) in order: a choice that follows from `seed` alone, not from the run's
    randomness; the same at every call."""
    if length <= limit:
        return torch.arange(length)
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed))[:limit].sort().values


class SplitSettings(Group):
    """Keys of every data set: see `DataSet`."""

    val_fraction: ProperShare
    split_seed: Seed
    train_images: AtLeastTwo | None


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
        notes: what a user should know about the data, a line each.

    Pretraining sees the images of a held-out part without their labels, as it may see any unlabelled
    image; `supervised` does not see them at all. A published validation part is no training image.

    Raises:
        UserError: the parts do not fit together, or one of them would be empty.
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
        notes: tuple[str, ...] = (),
    ):
        check_parts(name, train, {"validation": val, "test": test})
        train = replace(train, origin=torch.arange(len(train)))
        if val is not None:  # numbered behind it
            val = replace(val, origin=len(train) + torch.arange(len(val)))
        if train_images is not None:
            train = _chosen(train, train_images, split_seed)
        self.published_val = val is not None
        # What has no label cannot be scored.
        test, val = (p and p.labelled() for p in (test, val))
        labelled = len(classes) > 1 and bool((train.labels >= 0).any())
        if val is not None and not len(val) and labelled:
            raise UserError(
                f"data={name}", "its validation part has no label that is known",
                "drop that part, and data.val_fraction of the training labels is held out",
            )  # fmt: skip
        self.name, self.classes, self.test, self.notes = name, classes, test, notes
        if val is not None:
            self.pretrain, self.fit, self.val = train, train.labelled(), val
            return
        held_out = stratified(train.labels, val_fraction, split_seed)
        self.fit = train.subset((~held_out & (train.labels >= 0)).nonzero().squeeze(1))
        self.val = train.subset(held_out.nonzero().squeeze(1))
        if labelled and not (len(self.fit) and len(self.val)):
            most = int(train.labels[train.labels >= 0].bincount().max())
            what = "leaves no label to train on" if len(self.val) else "holds out no image"
            raise UserError(
                f"data.val_fraction={val_fraction:g}", f"{what}; the largest class has {most} images",
                f"give at least {0.51 / most:.2g}" if not len(self.val) else "lower it",
            )  # fmt: skip
        lost = sorted(set(self.val.labels.tolist()) - set(self.fit.labels.tolist()))
        if lost:
            raise UserError(
                f"data.val_fraction={val_fraction:g}",
                f"holds out every image of {len(lost)} classes: {', '.join(classes[c] for c in lost[:3])}", "lower it",
            )  # fmt: skip
        # The same images, the held-out labels hidden from every monitor that trains.
        self.pretrain = replace(train, labels=torch.where(held_out, -1, train.labels))

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def labelled(self) -> bool:
        """Can a probe be trained and validated?"""
        return self.num_classes > 1 and len(self.fit) > 0 and len(self.val) > 0


def _chosen(train: Part, count: int, seed: int) -> Part:
    """About `count` images, each class alike."""
    if count > len(train):
        raise UserError(f"data.train_images={count}", f"the training part has {len(train)} images", "give fewer")
    index = stratified(train.labels.clamp(min=0), count / len(train), seed).nonzero().squeeze(1)
    known = train.labels[train.labels >= 0].unique()
    kept = train.labels[index].unique()
    lost = [c for c in known.tolist() if c not in set(kept.tolist())]
    if lost or not len(index):
        raise UserError(
            f"data.train_images={count}", f"each class alike, {len(lost)} of {len(known)} classes get no image",
            "give more",
        )  # fmt: skip
    return train.subset(index)


def check_parts(name: str, train: Part, others: dict[str, Part | None]) -> None:
    """Images of one size, and no label that the training part lacks: a head could never say it."""
    known = train.labels[train.labels >= 0].unique()
    for part, other in others.items():
        if other is None:
            continue
        if isinstance(train.images, Tensor) and isinstance(other.images, Tensor):
            sizes = tuple(train.images.shape[1:]), tuple(other.images.shape[1:])
            if sizes[0] != sizes[1]:
                raise UserError(
                    f"data={name}", f"images of the {part} part are {sizes[1]}, of the training part {sizes[0]}",
                    "bring them to one size",
                )  # fmt: skip
        labels = other.labels[other.labels >= 0].unique()
        new = labels[~torch.isin(labels, known)]
        if len(known) and len(new):
            first = ", ".join(str(c) for c in new[:3].tolist()) + (", …" if len(new) > 3 else "")
            raise UserError(
                f"data={name}", f"the {part} part has labels that no training image has: {first}",
                "remove these images, or add training images of their classes",
            )  # fmt: skip
