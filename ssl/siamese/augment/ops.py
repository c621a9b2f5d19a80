"""Image operations on a whole batch, each sample with its own parameters.

Images are float tensors (B, C, H, W) in [0, 1], C being 3 where colour is meant; a parameter is a tensor (B,) on the
same device. Each function computes what `torchvision.transforms.v2.functional` computes for one image with the same
parameters (tests/augment/test_ops.py compares them), without a loop over the images and without a synchronisation with
the device.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # torchvision's and BYOL's


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5, as in Pillow and in torch's antialiased bicubic."""
    a, x = -0.5, x.abs()
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}


def resize_matrix(
    start: Tensor, length: Tensor, size_in: int, size_out: int, mode: str, flip: Tensor | None = None
) -> Tensor:
    """Matrices (B, size_out, size_in) that cut ``[start, start + length)`` out of a line of pixels
    and resize it to `size_out` with antialiasing; rows are reversed where `flip` is true.

    `start` and `length` may be fractional: then pixels on the border count with the filter's weight
    at their centre.
    """
    device = start.device
    scale = (length / size_out).view(-1, 1, 1)
    out = torch.arange(size_out, device=device, dtype=torch.float32).expand(len(start), size_out)
    if flip is not None:
        out = torch.where(flip.view(-1, 1), size_out - 1 - out, out)
    center = scale * (out.unsqueeze(2) + 0.5)
    pixel = torch.arange(size_in, device=device, dtype=torch.float32) + 0.5 - start.view(-1, 1, 1)
    weight = _FILTERS[mode]((pixel - center) / scale.clamp(min=1))  # wider than a pixel only when shrinking
    weight = weight * ((pixel > 0) & (pixel < length.view(-1, 1, 1)))
    return weight / weight.sum(2, keepdim=True)


def resized_crop(
    images: Tensor, boxes: Tensor, size: int, mode: str = "bilinear", flip: Tensor | None = None
) -> Tensor:
    """Cut a box out of each image, resize it to (size, size) with antialiasing, mirror where `flip`.

    Args:
        images: (B, C, H, W), uint8 or float; the values' range is kept.
        boxes: (B, 4) top, left, height, width in pixels.
        mode: "bilinear" or "bicubic" (which may overshoot the range of the input).
        flip: (B,) bool.

    Returns:
        (B, C, size, size) float. Two products with interpolation matrices, no gather.
    """
    batch, channels, height, width = images.shape
    top, left, box_height, box_width = boxes.to(images.device, torch.float32).unbind(1)
    columns = resize_matrix(left, box_width, width, size, mode, flip)
    rows = resize_matrix(top, box_height, height, size, mode)
    lines = images.permute(0, 2, 1, 3).to(torch.float32).reshape(batch, height * channels, width)
    lines = torch.bmm(lines, columns.transpose(1, 2)).view(batch, height, channels * size)
    return torch.bmm(rows, lines).view(batch, size, channels, size).transpose(1, 2).contiguous()


def grey_levels(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values of any type to float in [0, 255]: `low` (C,) becomes 0, `high` (C,) becomes 255; what lies outside is
    clipped."""
    if images.dtype == torch.uint16:  # torch has few kernels for it
        images = images.view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF)
    x = images.to(torch.float32) - low.view(-1, 1, 1)
    return x.mul_(255 / (high - low).view(-1, 1, 1)).clamp_(0, 255)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each image counter-clockwise about its centre; bilinear, black outside, same size."""
    height, width = images.shape[-2:]
    angle = degrees * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid works in [-1, 1]: the ratio of the sides enters off the diagonal.
    theta = torch.stack([cos, -sin * (height / width), zero, sin * (width / height), cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def grayscale(images: Tensor) -> Tensor:
    """The luma of each pixel, (B, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (GRAY_WEIGHTS[0] * red).add_(green, alpha=GRAY_WEIGHTS[1]).add_(blue, alpha=GRAY_WEIGHTS[2]).unsqueeze(1)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor * images + (1 - factor) * other, clipped to [0, 1]."""
    factor = factor.view(-1, 1, 1, 1)
    return (images * factor).add_(other * (1 - factor)).clamp_(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by `factor` and clip."""
    return (images * factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean luma of the image."""
    return _blend(images, grayscale(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the luma of each pixel."""
    return _blend(images, grayscale(images), factor)


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue by `factor` in [-0.5, 0.5] of a full circle, in HSV."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = chroma.clamp(min=1e-12).reciprocal_()  # of a grey pixel: what it multiplies is 0
    # Hue in sixths of the circle; the place of the maximum says which third, and where two are equal both
    # formulas agree. Masks are floats and lerp chooses: torch.where is many times slower on a CPU.
    hue = torch.lerp(((red - green) * scale).add_(4), ((blue - red) * scale).add_(2), value.clone().eq_(green))
    hue = torch.lerp(hue, (green - blue).mul_(scale), value.clone().eq_(red))
    hue = hue + 6 * factor.view(-1, 1, 1)
    planes = []
    for offset in (5, 3, 1):
        k = hue + offset
        k = k - torch.floor(k * (1 / 6)).mul_(6)
        planes.append(torch.addcmul(value, torch.minimum(k, 4 - k).clamp_(0, 1), chroma, value=-1))
    return torch.stack(planes, 1).clamp_(0, 1)


NOWHERE = 4  # the place of a hue that is not turned
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # columns of `factors`, entries of `order`


def _blend_stage(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Brightness, contrast or saturation, chosen by `kind` (B,) for each image: a blend
    with black, with the mean luma or with the luma."""
    gray = grayscale(images)
    kind = kind.view(-1, 1, 1, 1)
    mean = gray.mean((1, 2, 3), keepdim=True)
    return _blend(images, gray * (kind == SATURATION) + mean * (kind == CONTRAST), factor)


def color_jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of each image, in each image's own order.

    Args:
        images: (B, C, H, W). If C is not 3, saturation and hue are left out, and contrast blends each channel with its
            own mean.
        factors: (B, 4) on the host: brightness, contrast, saturation, hue.
        order: (B, 4) on the host: a permutation of 0..3 a row, the order of application.

    The images are grouped by the position of the hue in their order, so that the costly change of hue is computed once
    per image. The order is on the host, so that the groups' sizes need no synchronisation with the device.
    """
    if images.shape[1] != 3:
        return _jitter_channels(images, factors, order)
    device = images.device
    place = (order == HUE).to(torch.int64).argmax(1)
    blends = order[order != HUE].view(-1, 3)
    amounts = factors.gather(1, blends)
    if not factors[:, HUE].any():  # a turn by nothing changes nothing: no groups, no HSV
        place = torch.full_like(place, NOWHERE)
    out = torch.empty_like(images)
    for hue_place in (0, 1, 2, 3, NOWHERE):
        index = (place == hue_place).nonzero().squeeze(1)
        if not len(index):
            continue
        kinds, amount, hue, where = (
            t.to(device, non_blocking=True) for t in (blends[index], amounts[index], factors[index, HUE], index)
        )
        x = images[where]
        for stage in range(4):
            if stage == hue_place:
                x = adjust_hue(x, hue)
            if stage < 3:
                x = _blend_stage(x, kinds[:, stage], amount[:, stage])
        out[where] = x
    return out


def _jitter_channels(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """`color_jitter` of images without colour."""
    factors = factors.clone()
    factors[:, SATURATION:] = 1  # a blend that changes nothing
    for stage in range(4):
        kind = order[:, stage : stage + 1]
        contrast, amount = ((kind == CONTRAST).float(), factors.gather(1, kind))
        contrast, amount = (t.to(images.device, non_blocking=True) for t in (contrast, amount))
        mean = images.mean((2, 3), keepdim=True)
        images = _blend(images, mean * contrast.view(-1, 1, 1, 1), amount)
    return images


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur each image with its own sigma (B,), in pixels and on the host; borders mirrored. A line of
    `kernel_size` taps along the rows, then along the columns (torchvision's kernel has its square)."""
    batch, channels, height, width = images.shape
    reach = kernel_size // 2
    sigma = sigma.to(images.device, non_blocking=True)  # the kernels of a batch are too many to copy without waiting
    taps = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.softmax(-0.5 * (taps / sigma.view(-1, 1)) ** 2, 1)  # (B, k)
    if images.device.type == "cpu":
        padded = F.pad(images, [reach] * 4, mode="reflect").split(1)
        return torch.cat([_blur_one(x, k[reach:]) for x, k in zip(padded, kernel, strict=True)])
    kernel = kernel.repeat_interleave(channels, 0)
    planes = F.pad(images, [reach] * 4, mode="reflect").view(1, batch * channels, height + 2 * reach, width + 2 * reach)
    planes = F.conv2d(planes, kernel.view(-1, 1, 1, kernel_size), groups=batch * channels)
    planes = F.conv2d(planes, kernel.view(-1, 1, kernel_size, 1), groups=batch * channels)
    return planes.view_as(images)


def _blur_one(x: Tensor, half: Tensor) -> Tensor:
    """Shifted copies of one image (1, C, H + 2 r, W + 2 r) summed, which a CPU does quicker than a convolution of one
    channel. `half`: (r + 1,) the middle tap and those of one side; what float32 does not resolve is left out."""
    reach = len(half) - 1
    taps = [w for w in half.tolist() if w > 1e-8]
    for dim in (3, 2):
        length = x.shape[dim] - 2 * reach
        out = x.narrow(dim, reach, length) * taps[0]
        for tap, weight in enumerate(taps[1:], 1):
            pair = x.narrow(dim, reach - tap, length) + x.narrow(dim, reach + tap, length)
            out.add_(pair, alpha=weight)
        x = out
    return x


def solarize(images: Tensor, threshold: float = 0.5) -> Tensor:
    """Invert the values at or above the threshold. On 8-bit values 0.5 is Pillow's threshold of 128."""
    return torch.addcmul(images, images.clone().ge_(threshold), 1 - 2 * images)


def normalize(images: Tensor, mean: Tensor, std: Tensor, out: Tensor | None = None) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel, (C,) each; into `out`, or in place."""
    return torch.sub(images, mean.view(-1, 1, 1), out=images if out is None else out).div_(std.view(-1, 1, 1))
