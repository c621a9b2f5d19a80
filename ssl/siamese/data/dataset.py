"""Splits of a data set, and what is held out of the training labels."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from siamese.data.images import ImageStore, TensorImages
from siamese.errors import UserError
from siamese.schema.types import AtLeastTwo, Group, ProperShare, Seed


@dataclass
class Split:
    """Images with labels.

    Args:
        images: N images; a tensor (N, C, H, W) uint8 becomes `TensorImages`.
        labels: (N,) int64; -1 is unknown.
        origin: (N,) their numbers in the training split as published, by which lists of labels name them.
    """

    images: ImageStore
    labels: Tensor
    origin: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor):
            self.images = TensorImages(self.images)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> "Split":
        """The samples at `index` (M,)."""
        origin = None if self.origin is None else self.origin[index]
        return Split(self.images.subset(index), self.labels[index], origin)

    def labelled(self) -> "Split":
        """The samples whose label is known."""
        known = self.labels >= 0
        return self if bool(known.all()) else self.subset(known.nonzero().squeeze(1))

    def concat(self, other: "Split") -> "Split":
        """Both, one after the other; their stores are of the same class."""
        origin = None
        if self.origin is not None and other.origin is not None:
            origin = torch.cat([self.origin, other.origin])
        return Split(self.images.concat(other.images), torch.cat([self.labels, other.labels]), origin)

    def at_most(self, limit: int, seed: int = 0) -> "Split":
        """A seeded choice of `limit` samples, or all of them."""
        return self if len(self) <= limit else self.subset(some_of(len(self), limit, seed))


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """A bool mask (N,), true for `fraction` of each class, drawn with `seed`. Unknown labels (-1) are never chosen."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        if label >= 0:
            members = (labels == label).nonzero().squeeze(1)
            chosen = torch.randperm(len(members), generator=generator)[: round(fraction * len(members))]
            mask[members[chosen]] = True
    return mask


def some_of(length: int, limit: int, seed: int = 0) -> Tensor:
    """Sorted indices (min(length, limit),): a choice that depends on `seed` alone, not on the run's random state."""
    if length <= limit:
        return torch.arange(length)
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed))[:limit].sort().values


class SplitSettings(Group):
    """Keys of every data set; see `DataSet`."""

    val_fraction: ProperShare
    split_seed: Seed
    train_images: AtLeastTwo | None


class DataSet:
    """A data set with its validation split.

    Args:
        name: for reports.
        train: all images that may be trained on.
        test: used by `eval_linear.py` alone; None if the data set has none.
        classes: names of the classes, empty without labels.
        val: a published validation split. Without one, `val_fraction` of each class is held out of the training
            labels, drawn with `split_seed`.
        train_images: train on about this many images, stratified by class, drawn with `split_seed`; None for all.
        notes: remarks on the data for the user, one line each.

    Attributes:
        pretrain: all training images; labels of the validation split are hidden (-1).
        train_labeled: the training images with a known label that is not held out.
        val: the validation split.

    Self-supervised methods see the images of a held-out split without their labels, as they may see any unlabelled
    image; `supervised` does not see them. Images of a published validation split are never trained on.

    Raises:
        UserError: the splits do not fit together, or one of them would be empty.
    """

    def __init__(
        self,
        name: str,
        train: Split,
        test: Split | None,
        classes: list[str],
        val: Split | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        train_images: int | None = None,
        notes: tuple[str, ...] = (),
    ):
        check_splits(name, train, {"validation": val, "test": test})
        train = replace(train, origin=torch.arange(len(train)))
        if val is not None:  # numbered after it
            val = replace(val, origin=len(train) + torch.arange(len(val)))
        if train_images is not None:
            train = _chosen(train, train_images, split_seed)
        self.published_val = val is not None
        # Images without a label cannot be scored.
        test, val = (p and p.labelled() for p in (test, val))
        labelled = len(classes) > 1 and bool((train.labels >= 0).any())
        if val is not None and not len(val) and labelled:
            raise UserError(
                f"data={name}", "no label of its validation split is known",
                "remove that split, and data.val_fraction of the training labels is held out",
            )  # fmt: skip
        self.name, self.classes, self.test, self.notes = name, classes, test, notes
        if val is not None:
            self.pretrain, self.train_labeled, self.val = train, train.labelled(), val
            return
        held_out = stratified(train.labels, val_fraction, split_seed)
        self.train_labeled = train.subset((~held_out & (train.labels >= 0)).nonzero().squeeze(1))
        self.val = train.subset(held_out.nonzero().squeeze(1))
        if labelled and not (len(self.train_labeled) and len(self.val)):
            most = int(train.labels[train.labels >= 0].bincount().max())
            what = "leaves no label to train on" if len(self.val) else "holds out no image"
            raise UserError(
                f"data.val_fraction={val_fraction:g}", f"{what}; the largest class has {most} images",
                f"give at least {0.51 / most:.2g}" if not len(self.val) else "lower it",
            )  # fmt: skip
        lost = sorted(set(self.val.labels.tolist()) - set(self.train_labeled.labels.tolist()))
        if lost:
            raise UserError(
                f"data.val_fraction={val_fraction:g}",
                f"holds out every image of {len(lost)} classes: {', '.join(classes[c] for c in lost[:3])}", "lower it",
            )  # fmt: skip
        # The same images; the held-out labels are hidden from every probe that trains.
        self.pretrain = replace(train, labels=torch.where(held_out, -1, train.labels))

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def labelled(self) -> bool:
        """Whether a probe can be trained and validated."""
        return self.num_classes > 1 and len(self.train_labeled) > 0 and len(self.val) > 0


def _chosen(train: Split, count: int, seed: int) -> Split:
    """About `count` images, stratified by class."""
    if count > len(train):
        raise UserError(f"data.train_images={count}", f"the training split has {len(train)} images", "give fewer")
    index = stratified(train.labels.clamp(min=0), count / len(train), seed).nonzero().squeeze(1)
    known = train.labels[train.labels >= 0].unique()
    kept = train.labels[index].unique()
    lost = [c for c in known.tolist() if c not in set(kept.tolist())]
    if lost or not len(index):
        raise UserError(
            f"data.train_images={count}", f"stratified by class, {len(lost)} of {len(known)} classes get no image",
            "give more",
        )  # fmt: skip
    return train.subset(index)


def check_splits(name: str, train: Split, others: dict[str, Split | None]) -> None:
    """Refuse splits of different image sizes, and labels that no training image has: no head could predict them."""
    known = train.labels[train.labels >= 0].unique()
    for part, other in others.items():
        if other is None:
            continue
        shapes = [(split.images.channels, *split.images.sizes) for split in (train, other)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"data={name}", f"images of the {part} split are {shapes[1]}, of the training split {shapes[0]}",
                "resize them to one size",
            )  # fmt: skip
        labels = other.labels[other.labels >= 0].unique()
        new = labels[~torch.isin(labels, known)]
        if len(known) and len(new):
            first = ", ".join(str(c) for c in new[:3].tolist()) + (", …" if len(new) > 3 else "")
            raise UserError(
                f"data={name}", f"the {part} split has labels that no training image has: {first}",
                "remove these images, or add training images of their classes",
            )  # fmt: skip
