"""What is found in encoded images: formats, sizes, unreadable and constant ones, speed of reading."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from siamese.data.dataset import some_of
from siamese.data.decoding import open_image
from siamese.data.files import one_thread
from siamese.data.items import Items
from siamese.progress import over


@dataclass
class Survey:
    """Findings of a split.

    Attributes:
        images: in the split; `read` of them were decoded.
        kinds: (format, mode, channels, type) -> count.
        sizes: (height, width) of each readable image, pixels.
        unreadable: reason -> names.
        constant: names of images whose pixels are all equal, channel by channel.
        seconds: of reading, on `threads` threads.
    """

    images: int
    threads: int
    kinds: Counter[tuple[str, str, int, str]] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    unreadable: dict[str, list[str]] = field(default_factory=dict)
    constant: list[str] = field(default_factory=list)
    read: int = 0
    seconds: float = 0.0

    def size_range(self) -> str:
        """Smallest, median and largest size by area."""
        ordered = sorted(self.sizes, key=lambda size: size[0] * size[1])
        chosen = dict.fromkeys(ordered[i] for i in (0, len(ordered) // 2, -1))
        return ", ".join(f"{height} x {width}" for height, width in chosen)


def survey(items: Items, max_pixels: int, threads: int, limit: int) -> Survey:
    """Decode a seeded choice of at most `limit` images."""
    found, start = Survey(len(items), threads), time.perf_counter()

    def look(index: int) -> None:
        name = items.name(index)
        try:
            with open_image(items.source(index), max_pixels) as image:
                info, pixels = image.info, image.pixels()
        except (OSError, ValueError) as error:
            found.unreadable.setdefault(str(error), []).append(name)
            return
        found.kinds[info.format, info.mode, info.channels, str(info.dtype)] += 1
        found.sizes.append((info.height, info.width))
        if bool((pixels == pixels[:1, :1]).all()):
            found.constant.append(name)

    chosen = some_of(len(items), limit).tolist()
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        for _ in over(pool.map(look, chosen), len(chosen), "decoding", "images"):
            found.read += 1
    found.seconds = time.perf_counter() - start
    for names in (*found.unreadable.values(), found.constant):
        names.sort()
    return found


def longest_ratio(values: list[tuple[int, int]]) -> float:
    """The largest ratio of long to short side."""
    sides = np.array(values or [(1, 1)])
    return float((sides.max(1) / sides.min(1)).max())
