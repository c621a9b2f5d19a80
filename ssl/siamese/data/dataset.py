"""Splits of a data set, and what is held out of the training labels."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from siamese.data.images import ImageStore, TensorImages
from siamese.data.labels import hide, is_known, most_frequent, present, stratified, stratified_several
from siamese.errors import UserError
from siamese.schema.types import AtLeastTwo, Group, ProperShare, Seed


@dataclass
class Split:
    """Images with labels.

    Args:
        images: N images; a tensor (N, C, H, W) becomes `TensorImages`.
        labels: (N,) int64, -1 is unknown; or several an image, (N, K) uint8 multi-hot, a row of 255 is unknown.
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
        known = is_known(self.labels)
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
            labels, drawn with `split_seed`; of several labels an image see `labels.stratified_several`. None holds
            nothing out: for those who judge nothing.
        train_images: train on about this many images, stratified by class, drawn with `split_seed`; None for all.
        notes: remarks on the data for the user, one line each.

    Attributes:
        pretrain: all training images; labels of the validation split are hidden (unknown).
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
        val_fraction: float | None = 0.1,
        split_seed: int = 0,
        train_images: int | None = None,
        notes: tuple[str, ...] = (),
    ):
        check_splits(name, train, {"validation": val, "test": test}, classes)
        train = replace(train, origin=torch.arange(len(train)))
        if val is not None:  # numbered after it
            val = replace(val, origin=len(train) + torch.arange(len(val)))
        if train_images is not None:
            train = _chosen(train, train_images, split_seed)
        self.published_val = val is not None
        # Images without a label cannot be scored.
        test, val = (p and p.labelled() for p in (test, val))
        labelled = len(classes) > 1 and bool(is_known(train.labels).any())
        if val is not None and not len(val) and labelled:
            raise UserError(
                f"data={name}", "no label of its validation split is known",
                "remove that split, and data.val_fraction of the training labels is held out",
            )  # fmt: skip
        self.name, self.classes, self.test, self.notes = name, classes, test, notes
        if val is not None:
            self.pretrain, self.train_labeled, self.val = train, train.labelled(), val
            return
        if val_fraction is None:
            self.pretrain, self.train_labeled, self.val = train, train.labelled(), train.subset(torch.arange(0))
            return
        held_out = stratified(train.labels, val_fraction, split_seed)
        self.train_labeled = train.subset((~held_out & is_known(train.labels)).nonzero().squeeze(1))
        self.val = train.subset(held_out.nonzero().squeeze(1))
        if labelled and not (len(self.train_labeled) and len(self.val)):
            most = most_frequent(train.labels)
            what = "leaves no label to train on" if len(self.val) else "holds out no image"
            raise UserError(
                f"data.val_fraction={val_fraction:g}", f"{what}; the largest class has {most} images",
                f"give at least {0.51 / most:.2g}" if not len(self.val) else "lower it",
            )  # fmt: skip
        lost = sorted(set(present(self.val.labels).tolist()) - set(present(self.train_labeled.labels).tolist()))
        if lost:
            raise UserError(
                f"data.val_fraction={val_fraction:g}",
                f"holds out every image of {len(lost)} classes: {', '.join(classes[c] for c in lost[:3])}", "lower it",
            )  # fmt: skip
        # The same images; the held-out labels are hidden from every probe that trains.
        self.pretrain = replace(train, labels=hide(train.labels, held_out))

    @property
    def labels_digest(self) -> str:
        """Sixteen hexadecimal digits: equal if classes, labels, the validation split and the names of files below their
        common folder are the same."""
        digest = hashlib.blake2b("\n".join(self.classes).encode(errors="surrogateescape"), digest_size=8)
        for split in (self.pretrain, self.val):
            names = [str(name) for name in split.images.names() or []]
            root = len(os.path.commonpath({os.path.dirname(name) for name in names})) if names else 0
            digest.update("\n".join(name[root:] for name in names).encode(errors="surrogateescape"))
            digest.update(split.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def largest_bytes(self) -> int:
        """Size of the images of the largest split; training and published validation images are used together."""
        training = self.pretrain.images.nbytes + (self.val.images.nbytes if self.published_val else 0)
        return max(training, 0 if self.test is None else self.test.images.nbytes)

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.pretrain.labels.ndim == 2

    @property
    def labelled(self) -> bool:
        """Whether a probe can be trained and validated."""
        return self.num_classes > 1 and len(self.train_labeled) > 0 and len(self.val) > 0


def _chosen(train: Split, count: int, seed: int) -> Split:
    """About `count` images, stratified by class."""
    if count > len(train):
        raise UserError(f"data.train_images={count}", f"the training split has {len(train)} images", "give fewer")
    share = count / len(train)
    if train.labels.ndim == 1:
        unknown = train.labels.max() + 1  # a group of their own
        groups = torch.where(train.labels < 0, unknown, train.labels)
        index = stratified(groups, share, seed).nonzero().squeeze(1)
    else:  # what is left out is held out, so that every label stays
        index = (~stratified_several(train.labels, 1 - share, seed, unknown=True)).nonzero().squeeze(1)
    known = present(train.labels)
    kept = set(present(train.labels[index]).tolist())
    lost = [c for c in known.tolist() if c not in kept]
    if lost or not len(index):
        raise UserError(
            f"data.train_images={count}", f"stratified by class, {len(lost)} of {len(known)} classes get no image",
            "give more",
        )  # fmt: skip
    return train.subset(index)


def check_splits(name: str, train: Split, others: dict[str, Split | None], classes: Sequence[str] = ()) -> None:
    """Refuse splits of different image sizes, and labels that no training image has: no head could predict them.

    Args:
        classes: names of labels, for messages; used where images have several.
    """
    known = present(train.labels)
    for part, other in others.items():
        if other is None:
            continue
        kinds = [
            f"({split.images.channels}, {split.images.sizes[0]}, {split.images.sizes[1]}) {split.images.dtype}"
            for split in (train, other)
        ]
        if kinds[0] != kinds[1]:
            raise UserError(
                f"data={name}", f"images of the {part} split are {kinds[1]}, of the training split {kinds[0]}",
                "convert them to one size and type",
            )  # fmt: skip
        if train.labels.shape[1:] != other.labels.shape[1:]:
            shapes = [tuple(split.labels.shape) for split in (other, train)]
            raise UserError(
                f"data={name}", f"labels of the {part} split are {shapes[0]}, of the training split {shapes[1]}",
                "give both one label an image, or both several",
            )  # fmt: skip
        labels = present(other.labels)
        new = labels[~torch.isin(labels, known)].tolist()
        if len(known) and new:
            told = [classes[c] if other.labels.ndim == 2 and classes else str(c) for c in new[:3]]
            first = ", ".join(told) + (", …" if len(new) > 3 else "")
            raise UserError(
                f"data={name}", f"the {part} split has labels that no training image has: {first}",
                "remove these images, or add training images of their classes",
            )  # fmt: skip
        if other.labels.ndim == 2 and len(known) and bool(is_known(other.labels).any()) and not len(labels):
            raise UserError(
                f"data={name}", f"no image of the {part} split has one of the {len(known)} labels",
                "add images that have some: a ranking cannot be judged without",
            )  # fmt: skip
