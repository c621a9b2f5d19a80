"""Random parameters of the views of a batch, drawn on the host."""

import math
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

CROP_TRIES = 10  # as torchvision's RandomResizedCrop
CROP_COLUMNS = 2 * CROP_TRIES + 2


class ViewParams(SimpleNamespace):
    """The random parameters of one view of a batch: a tensor with B rows for each field of `operations`, on the host.

    Fields of the operations here: ``box`` (B, 4) int64, top, left, height, width of the crop; ``flip`` (B,) bool;
    ``degrees`` (B,) of the rotation; ``jitter`` (B,) bool, ``factors`` (B, 4) of brightness, contrast, saturation, hue
    and ``order`` (B, 4), their order; ``gray`` (B,) bool; ``blur`` (B,) bool and ``sigma`` (B,), pixels; ``solarize``
    (B,) bool; ``drop`` (B,) int64, a channel or -1.
    """


def crop_boxes(
    uniform: Tensor,
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    aspect_ratio: Tensor | None = None,
) -> Tensor:
    """Boxes (B, 4) distributed as torchvision's `RandomResizedCrop.get_params`.

    Args:
        uniform: (B, CROP_COLUMNS) uniform numbers in [0, 1).
        scale: bounds of the box's share of the area.
        ratio: bounds of width / height, drawn log-uniformly.
        aspect_ratio: (B,) width / height of the original photographs, if they were squeezed into (height, width). The
            box then has the drawn area and ratio in the original (Inception crop, arXiv:1409.4842), to a pixel of the
            squeezed image, and at least one pixel.
    """
    squeeze = torch.ones(len(uniform), 1) if aspect_ratio is None else (aspect_ratio.view(-1, 1).cpu() * height / width)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[:, :CROP_TRIES])
    low, high = torch.tensor(ratio, dtype=torch.float32).log()
    shape = torch.exp(low + (high - low) * uniform[:, CROP_TRIES : 2 * CROP_TRIES])
    box_width = (area * shape / squeeze).sqrt().round()
    box_height = (area / shape * squeeze).sqrt().round()
    fits = (box_width > 0) & (box_width <= width) & (box_height > 0) & (box_height <= height)
    first = fits.to(torch.int64).argmax(1, keepdim=True)
    box_width, box_height = box_width.gather(1, first).squeeze(1), box_height.gather(1, first).squeeze(1)
    # If no try fits: the largest central box of an allowed ratio, of at least one pixel (torchvision's may have none).
    original = width / height * squeeze.squeeze(1)
    fallback_width = torch.where(original > ratio[1], (width * ratio[1] / original).round().clamp(1, width), width)
    fallback_height = torch.where(original < ratio[0], (height * original / ratio[0]).round().clamp(1, height), height)
    any_fits = fits.any(1)
    box_width = torch.where(any_fits, box_width, fallback_width)
    box_height = torch.where(any_fits, box_height, fallback_height)
    below, beside = height - box_height, width - box_width
    top = torch.where(any_fits, (uniform[:, -2] * (below + 1)).floor(), (below / 2).floor())
    left = torch.where(any_fits, (uniform[:, -1] * (beside + 1)).floor(), (beside / 2).floor())
    return torch.stack([top, left, box_height, box_width], 1).to(torch.int64)


def crop_box(
    uniform: Sequence[float], height: int, width: int, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[int, int, int, int]:
    """One box of `crop_boxes`: top, left, height, width. Without torch, so that one image costs microseconds.

    Args:
        uniform: (CROP_COLUMNS,) uniform numbers in [0, 1).
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for try_ in range(CROP_TRIES):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[try_])
        shape = math.exp(low + (high - low) * uniform[CROP_TRIES + try_])
        box_width, box_height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(uniform[-2] * (height - box_height + 1))
            return top, int(uniform[-1] * (width - box_width + 1)), box_height, box_width
    box_height, box_width = height, width
    if width / height > ratio[1]:
        box_width = min(max(round(height * ratio[1]), 1), width)
    elif width / height < ratio[0]:
        box_height = min(max(round(width / ratio[0]), 1), height)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
