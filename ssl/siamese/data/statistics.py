"""Statistics of training images: the range of their values, mean and standard deviation of each channel."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamese.data.dataset import some_of
from siamese.data.images import ImageStore, check_readable, listed, rows
from siamese.errors import UserError
from siamese.progress import over
from siamese.schema.types import EIGHT_BITS

IMAGES, PIXELS = 2048, 1024  # a seeded choice of images; pixels of each, evenly chosen, for percentiles
PERCENTILES = 0.1, 99.9
BLOCK = 64


def measured(store: ImageStore, given: Mapping[str, Any], threads: int = 1) -> dict[str, Any]:
    """The settings `channels`, `value_range`, `mean` and `std`, with ``auto`` replaced by what the images have.

    Args:
        store: the training images.
        given: these settings (`conf/data`).

    Raises:
        UserError: the images have other numbers of channels than the settings, or an image cannot be read.
    """
    channels = store.channels if given["channels"] == "auto" else given["channels"]
    if store.channels != channels and (store.channels, channels) != (1, 3):
        raise UserError(
            f"data.channels={channels}", f"the images have {store.channels} channels",
            "set data.channels=auto; a network for another number needs backbone.adapt_first_layer=true",
        )  # fmt: skip
    ranges = value_range(store, threads) if given["value_range"] == "auto" else given["value_range"]
    pairs = ranges if isinstance(ranges[0], list) else [ranges] * channels
    if len(pairs) == 1 < channels:  # one channel is repeated
        ranges = pairs = pairs * channels
    found: dict[str, Any] = {"channels": channels, "value_range": ranges}
    found |= {key: for_each(given[key], channels) for key in ("mean", "std")}
    for key, count in (
        ("value_range", len(pairs)),
        *((k, len(found[k])) for k in ("mean", "std") if found[k] != "auto"),
    ):
        if count != channels:
            raise UserError(
                f"data.{key}={found[key]}", f"is of {count} channels, the images have {channels}",
                f"give one entry for each, or data.{key}=auto",
            )  # fmt: skip
    if "auto" in (given["mean"], given["std"]):
        low, high = torch.tensor(pairs, dtype=torch.float32).unbind(1)
        for key, values in zip(("mean", "std"), mean_and_std(store, low, high, threads), strict=True):
            found[key] = values if given[key] == "auto" else found[key]
    return found


def for_each(values: Any, channels: int) -> Any:
    """A list of one number as a list of one for each channel; others unchanged."""
    return list(values) * channels if values != "auto" and len(values) == 1 else values


def sampled(store: ImageStore, threads: int) -> Iterator[Tensor]:
    """Blocks (B, C, H, W) float32 of a seeded choice of images, without the unreadable ones.

    Raises:
        UserError: an image cannot be decoded and the store's `on_error` is ``stop``.
    """
    check_readable(store, store.prepare())
    blocks = some_of(len(store), IMAGES).split(BLOCK)
    for index in over(blocks, len(blocks), "measuring images", "blocks"):
        batch = store.read(index, threads)
        check_readable(store, batch.errors)
        (images,) = listed(batch.images)
        images = images if batch.unreadable is None else rows(images, ~batch.unreadable)
        if len(images):
            yield images.to(torch.float32)


def value_range(store: ImageStore, threads: int = 1) -> list[float] | list[list[float]]:
    """The values that become 0 and 1: 0 and 255 of 8-bit images, else percentiles 0.1 and 99.9 of each channel."""
    if store.dtype == torch.uint8:
        return list(EIGHT_BITS)
    parts = []
    for images in sampled(store, threads):
        pixels = images.flatten(2)
        parts.append(pixels[:, :, :: -(-pixels.shape[2] // PIXELS)].transpose(0, 1).flatten(1).numpy())
    low, high = np.percentile(np.concatenate(parts, 1), PERCENTILES, axis=1)
    high = np.where(high - low > 1e-6 * np.maximum(abs(low), abs(high)), high, low + np.maximum(1, abs(low)))
    return [[_short(a, 6), _short(b, 6)] for a, b in zip(low, high, strict=True)]


def mean_and_std(store: ImageStore, low: Tensor, high: Tensor, threads: int = 1) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, where `low` (C,) is 0 and `high` (C,) is 1.

    A constant channel gets the deviation 1.
    """
    total, count = torch.zeros(2, len(low), dtype=torch.float64), 0
    for images in sampled(store, threads):
        # One channel is repeated.
        x = ((images - low.view(-1, 1, 1)) / (high - low).view(-1, 1, 1)).clamp_(0, 1).transpose(0, 1).flatten(1)
        total += torch.stack([x.sum(1, dtype=torch.float64), x.double().square().sum(1)])
        count += x.shape[1]
    mean, square = total / count
    std = (square - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std >= 1e-4, std, 1.0)
    return [round(m, 4) for m in mean.tolist()], [_short(s, 4) for s in std.tolist()]


def _short(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
