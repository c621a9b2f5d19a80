"""Images that are there twice: equal files, or equal pixels in memory."""

import hashlib
from collections.abc import Sequence

import numpy as np

from siamese.data.images import ImageStore


def repeated(store: ImageStore) -> list[list[int]]:
    """Indices of images that are equal to each other, a list for each such image."""
    lengths = store.lengths()
    values, counts = np.unique(lengths, return_counts=True)
    candidates = np.flatnonzero(np.isin(lengths, values[counts > 1]))
    groups: dict[bytes, list[int]] = {}
    for i in candidates.tolist():
        groups.setdefault(_digest(store, i), []).append(i)
    groups.pop(b"", None)
    return [group for group in groups.values() if len(group) > 1]


def shared(first: ImageStore, second: ImageStore) -> list[tuple[int, int]]:
    """Pairs of indices of images that both stores hold: each image of the second, with an equal one of the first."""
    lengths, others = first.lengths(), second.lengths()
    known = {_digest(first, i): i for i in np.flatnonzero(np.isin(lengths, others)).tolist()}
    known.pop(b"", None)
    pairs = ((known.get(_digest(second, i)), i) for i in np.flatnonzero(np.isin(others, lengths)).tolist())
    return [(mine, i) for mine, i in pairs if mine is not None]


def named_pairs(first: ImageStore, pairs: Sequence[tuple[int, int]], second: ImageStore) -> list[str]:
    """Pairs of `shared` for the user: "image of the second = image of the first"."""
    return [f"{_name(second, j)} = {_name(first, i)}" for i, j in pairs]


def _name(store: ImageStore, index: int) -> str:
    names = store.names()
    return f"image {index}" if names is None else str(names[index])


def _digest(store: ImageStore, index: int) -> bytes:
    """Of the content; empty where it cannot be read, which is reported elsewhere."""
    try:
        return hashlib.blake2b(store.content(index), digest_size=16).digest()
    except (OSError, ValueError):
        return b""
