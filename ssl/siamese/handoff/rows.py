"""What each row of an embedding is of: file, split and label of an image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from siamese.data import DataSet, Split
from siamese.data.images import ImageStore


@dataclass(frozen=True)
class Part:
    """The images of a split.

    Args:
        name: train, val or test.
        split: the images; the label of each is its number, so that batches say whose features they hold, and -1 is an
            image that could not be read.
        labels: (N,) or (N, K), of the data set.
    """

    name: str
    split: Split
    labels: Tensor


def parts_of(data: DataSet) -> list[Part]:
    """The splits of a data set that holds no label out."""
    found = [("train", data.pretrain, data.pretrain.labels)]
    if data.published_val:
        found.append(("val", data.val, data.val.labels))
    if data.test is not None:
        found.append(("test", data.test, data.test.labels))
    return [
        Part(name, Split(split.images, torch.arange(len(split))), labels) for name, split, labels in found if len(split)
    ]


class Rows:
    """Names, splits and labels of all images, in the order of the embedding.

    Args:
        parts: the splits.
        classes: names of the labels.
        root: folder to which file names are relative, if they lie in it.
    """

    def __init__(self, parts: Sequence[Part], classes: Sequence[str], root: Path | None):
        self.parts, self.classes, self.root = parts, classes, root
        self.starts = [0]
        for part in parts:
            self.starts.append(self.starts[-1] + len(part.split))

    def __len__(self) -> int:
        return self.starts[-1]

    def names(self, part: Part) -> list[str]:
        """File names of a split; numbers where images have no files."""
        files = part.split.images.names()
        if files is None:
            return [str(i) for i in range(len(part.split))]
        return [self._name(file) for file in files]

    def _name(self, file: Path) -> str:
        within = self.root is not None and file.is_relative_to(self.root)
        name = str(file.relative_to(self.root)) if within and self.root is not None else str(file)
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def label(self, of: Tensor) -> str:
        """Names of an image's labels, "" where they are unknown."""
        if of.ndim == 0:
            return self.classes[int(of)] if 0 <= int(of) < len(self.classes) else ""
        chosen = [] if bool((of == 255).any()) else of.nonzero().flatten().tolist()
        return ";".join(self.classes[i] for i in chosen)

    def each(self) -> Iterator[tuple[str, str, str]]:
        """(name, split, label) of each image."""
        for part in self.parts:
            for name, label in zip(self.names(part), part.labels, strict=True):
                yield name, part.name, self.label(label)

    def image(self, row: int) -> tuple[ImageStore, int]:
        """The store of a row's image, and its place there."""
        number = next(i for i in range(len(self.parts)) if row < self.starts[i + 1])
        return self.parts[number].split.images, row - self.starts[number]
