"""Losses of masked images: the pixels of patches."""

import torch
from torch import Tensor

from siamese.losses.precision import full_precision, in_full_precision


def patchify(images: Tensor, side: int) -> Tensor:
    """(N, C, h, w) to the pixels of the patches, (N, L, side * side * C), row by row; the channels vary fastest."""
    n, channels, height, width = images.shape
    x = images.reshape(n, channels, height // side, side, width // side, side)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, side * side * channels)


def masked_pixels(prediction: Tensor, pixels: Tensor, masked: Tensor, normalise: bool) -> Tensor:
    """The mean squared error of the masked patches (MAE, arXiv:2111.06377, section 3).

    Args:
        prediction: (N, M, P), of the masked patches.
        pixels: (N, L, P), of all patches.
        masked: (N, M) numbers of the masked patches.
        normalise: pixels minus the mean of their patch, over its standard deviation; about 1 at the start.
    """
    with in_full_precision(prediction):
        prediction, pixels = full_precision(prediction), full_precision(pixels)
        if normalise:
            variance, mean = torch.var_mean(pixels, 2, keepdim=True)
            pixels = (pixels - mean) / (variance + 1e-6).sqrt()
        target = pixels.gather(1, masked.unsqueeze(2).expand_as(prediction))
        return (prediction - target).square().mean()
