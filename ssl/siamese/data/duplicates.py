"""Images that are there twice: equal files, or equal pixels in memory."""

import hashlib

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


def _digest(store: ImageStore, index: int) -> bytes:
    """Of the content; empty where it cannot be read, which is reported elsewhere."""
    try:
        return hashlib.blake2b(store.content(index), digest_size=16).digest()
    except (OSError, ValueError):
        return b""
