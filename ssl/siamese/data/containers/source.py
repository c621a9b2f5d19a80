"""Image files inside containers (tables, archives): their bytes, labels and names; class lists that splits share."""

import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamese.data.images import digest_of_files
from siamese.errors import UserError


class Source(ABC):
    """N encoded image files inside containers, in the containers' order. `read` is safe in threads; a source is
    picklable and opens its files again in another process.

    Attributes:
        classes: names of the classes, empty without labels.
        labels: (N,) int64, -1 is unknown.
        files: the container files, and the files that they refer to.
        setting: what the user gave, for messages: ``"data.path=photos"``.
        selection: what is read of the files (split, column, suffixes), for the digest.
        notes: remarks on the data for the user, one line each.
    """

    classes: list[str]
    labels: Tensor
    files: list[Path]
    setting: str
    selection: str
    notes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            OSError, ValueError: it is missing, cut, or damaged, in one line. Damage inside of the image is found by
                decoding alone.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """A unique name for messages and lists of labels; the same on every machine."""

    def update_digest(self, digest: Any) -> None:
        """Feed what identifies the images to a hash of hashlib: the containers' real folder, names, sizes,
        modification times, a sample of their bytes, and what is read of them."""
        root = Path(os.path.commonpath([file.absolute().parent for file in self.files]))
        about = f"{self.selection}\0{len(self)}\0{os.path.realpath(root)}\0"
        digest.update(about.encode(errors="surrogateescape"))
        digest.update(digest_of_files([file.absolute() for file in self.files], root).encode())


class ClassLabels:
    """Collects label values of one kind and turns them into classes.

    Whole numbers: the classes are the distinct values in their order, -1 is unknown. Texts: the classes are the
    distinct texts, sorted. None is unknown. With `names` given, whole numbers are indices into them.

    Args:
        names: the classes, where the container tells them.
    """

    def __init__(self, names: Sequence[str] | None = None):
        self.names = names
        self.codes = array("q")  # per sample: position in `values`, or -1
        self.values: dict[int | str, int] = {}
        self.kind: type | None = int if names is not None else None

    def __len__(self) -> int:
        return len(self.codes)

    def extend(self, values: Iterable[Any]) -> None:
        """Append the labels of further samples.

        Raises:
            ValueError: a value is neither a whole number nor a text, or both kinds occur. Those before it are kept, so
                that the length tells which one it is.
        """
        known = self.values
        for value in values:
            if value is None or (value == -1 and self.kind is not str and type(value) is int):
                self.codes.append(-1)
                continue
            code = known.get(value) if type(value) in (int, str) else None
            if code is None:
                self._check(value)
                code = known.setdefault(value, len(known))
            self.codes.append(code)

    def _check(self, value: Any) -> None:
        told = f"the label {str(value)[:60]!r}"
        if type(value) not in (int, str) or value == "":
            raise ValueError(f"{told} of type {type(value).__name__} is neither a whole number nor a text")
        self.kind = self.kind or type(value)
        if type(value) is not self.kind:
            raise ValueError(f"{told} is of type {type(value).__name__}, the labels before it {self.kind.__name__}")
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{told} is below -1 (unknown)")
        if isinstance(value, int) and self.names is not None and value >= len(self.names):
            raise ValueError(f"{told} is not below {len(self.names)}, the number of class names")

    def finish(self) -> tuple[list[str], Tensor]:
        """Classes and labels (N,) int64."""
        codes = np.frombuffer(self.codes, np.int64) if self.codes else np.zeros(0, np.int64)
        if self.names is not None:
            classes, order = list(self.names), list(self.values)
            places: Any = order  # indices into the names
        else:
            values: list[Any] = sorted(self.values)
            classes, rank = [str(v) for v in values], {v: i for i, v in enumerate(values)}
            places = [rank[v] for v in self.values]
        table = np.array([*places, -1], np.int64)  # the code -1 reads the last entry
        return classes, torch.from_numpy(table[codes])


def unlabelled(count: int) -> tuple[list[str], Tensor]:
    """No classes, and `count` unknown labels."""
    return [], torch.full((count,), -1)


def share_classes(train: Source, others: Mapping[str, Source]) -> None:
    """Give the other splits the class list of the training split, and number their labels by it.

    Args:
        others: name of the split -> its source, e.g. ``{"test": ...}``.

    Raises:
        UserError: another split has images of a class that the training split lacks.
    """
    places = {name: i for i, name in enumerate(train.classes)}
    for split, source in others.items():
        used = source.labels[source.labels >= 0].unique().tolist()
        unknown = [source.classes[i] for i in used if source.classes[i] not in places]
        if unknown:
            told = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
            raise UserError(
                source.setting,
                f"{len(unknown)} of the {len(used)} classes of the {split} split are not among the "
                f"{len(places)} of the training split: {told}",
                "the splits must have the same classes",
            )
        table = torch.tensor([places.get(name, -1) for name in source.classes] + [-1])
        source.labels, source.classes = table[source.labels], list(train.classes)
