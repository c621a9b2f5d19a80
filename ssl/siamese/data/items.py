"""Encoded image files, on disk or inside containers."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from siamese.data.containers import Source
from siamese.data.images import digest_of_files


class Items(ABC):
    """N encoded image files, wherever they lie."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def source(self, index: int) -> Path | bytes:
        """A path, or the contents.

        Raises:
            OSError, ValueError: it cannot be read.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """For messages and lists of labels."""

    @abstractmethod
    def digest(self) -> str:
        """What identifies all of them, on any path."""

    def length(self, index: int) -> int:
        """Bytes of the contents; 0 where that is not known without reading them."""
        return 0

    def lengths(self, indices: Iterable[int]) -> np.ndarray:
        """`length` of each, int64."""
        return np.array([self.length(i) for i in indices], np.int64)

    def content(self, index: int) -> bytes:
        """The contents."""
        source = self.source(index)
        return source if isinstance(source, bytes) else source.read_bytes()


class Files(Items):
    """Image files. Their digest is of the real path of their common folder, of each file's name in it, size and
    modification time, and of a sample of the contents."""

    def __init__(self, files: Sequence[Path]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def source(self, index: int) -> Path:
        return self.files[index]

    def name(self, index: int) -> str:
        return str(self.files[index])

    def length(self, index: int) -> int:
        return os.path.getsize(self.files[index])

    def digest(self) -> str:
        root = Path(os.path.commonpath([str(f.parent) for f in self.files]))
        return f"{os.path.realpath(root)} {digest_of_files(self.files, root)}"


class Contents(Items):
    """Image files inside containers."""

    def __init__(self, container: Source):
        self.container = container

    def __len__(self) -> int:
        return len(self.container)

    def source(self, index: int) -> bytes:
        return self.container.read(index)

    def name(self, index: int) -> str:
        return self.container.name(index)

    def digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        self.container.update_digest(digest)
        return digest.hexdigest()
