"""The random operations of a view, a class each (see `Operation`): settings, random parameters, torch code.

To add one, write its class here and name it in `OPERATIONS`, give its settings in conf/augment/_base.yaml, and, so that
compiled code renders it too, write its field and its code in views.cpp (CPUs) and in gpu.py and kernels.py (GPUs). A
view whose active operations are not all known there is rendered by torch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from siamese.augment import ops
from siamese.augment.operation import Operation, on_chosen
from siamese.augment.params import CROP_COLUMNS, ViewParams, crop_boxes
from siamese.errors import UserError
from siamese.schema.types import Angle, Count, CropScale, Interpolation, Jitter, Probability, Range

SHARED = CROP_COLUMNS + 16  # columns of the uniform numbers that the operations here share, one of them spare


class Rotate(Operation):
    """Rotation about the centre by up to `rotate_degrees` either way; black outside."""

    fields, columns, place = ("degrees",), (CROP_COLUMNS + 14,), 0

    def __init__(self, rotate_degrees: Angle):
        self.degrees = rotate_degrees

    @property
    def active(self) -> bool:
        return self.degrees != 0

    def draw(self, *uniform: Tensor, height: int, width: int, aspect_ratio: Tensor | None) -> dict[str, Tensor]:
        return {"degrees": (2 * uniform[0] - 1) * self.degrees}

    def apply(self, x: Tensor, params: ViewParams, size: int) -> Tensor:
        if not params.degrees.any():  # rotated before
            return x
        return ops.rotate(x.float(), params.degrees.to(x.device, non_blocking=True))

    def options(self) -> dict[str, int]:
        return {"rotates": int(self.active)}


class CropAndFlip(Operation):
    """Random resized crop, mirrored with probability `flip_p`.

    Args:
        crop_scale, crop_ratio: area and width / height of the crop (`crop_boxes`).
        interpolation: "bilinear" or "bicubic" (clipped to [0, 1]), antialiased.
        flip_p: a flip commutes with all that follows it, so its place in a paper's list does not matter.
    """

    fields, columns, place = ("box", "flip"), (slice(0, CROP_COLUMNS), CROP_COLUMNS + 8), 10

    def __init__(self, crop_scale: CropScale, crop_ratio: Range, interpolation: Interpolation, flip_p: Probability):
        self.scale, self.ratio, self.interpolation, self.flip_p = crop_scale, crop_ratio, interpolation, flip_p

    def draw(self, *uniform: Tensor, height: int, width: int, aspect_ratio: Tensor | None) -> dict[str, Tensor]:
        box = crop_boxes(uniform[0], height, width, self.scale, self.ratio, aspect_ratio)
        return {"box": box, "flip": uniform[1] < self.flip_p}

    def apply(self, x: Tensor, params: ViewParams, size: int) -> Tensor:
        flip = params.flip.to(x.device, non_blocking=True)
        if x.shape[-2:] == (size, size) and bool((params.box == torch.tensor([0, 0, size, size])).all()):
            return torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x) / 255  # cut before, see `View.forward`
        x = ops.resized_crop(x, params.box.to(x.device, non_blocking=True), size, self.interpolation, flip).div_(255)
        return x.clamp_(0, 1) if self.interpolation == "bicubic" else x

    def options(self) -> dict[str, int]:
        return {"bicubic": int(self.interpolation == "bicubic")}


class ColorJitter(Operation):
    """Brightness, contrast, saturation and hue in random order, as torchvision's `ColorJitter`.

    Args:
        jitter: their four strengths.
        jitter_p: probability for each sample.
    """

    fields, place = ("factors", "order", "jitter"), 30
    columns = (slice(CROP_COLUMNS, CROP_COLUMNS + 4), slice(CROP_COLUMNS + 4, CROP_COLUMNS + 8), CROP_COLUMNS + 9)

    def __init__(self, jitter: Jitter, jitter_p: Probability):
        self.strengths, self.p = torch.tensor(jitter), jitter_p

    def draw(self, *uniform: Tensor, height: int, width: int, aspect_ratio: Tensor | None) -> dict[str, Tensor]:
        factors, order, coin = uniform
        strength = self.strengths
        low = torch.cat([(1 - strength[:3]).clamp(min=0), -strength[3:]])
        high = torch.cat([1 + strength[:3], strength[3:]])
        return {"factors": low + (high - low) * factors, "order": order.argsort(1), "jitter": coin < self.p}

    def apply(self, x: Tensor, params: ViewParams, size: int) -> Tensor:
        change = lambda part, i: ops.color_jitter(part, params.factors[i], params.order[i])  # noqa: E731
        return on_chosen(x, params.jitter, change)

    def fit(self, channels: int) -> tuple[str, ...]:
        if channels == 3 or not self.p:
            return ()
        left_out = [name for name, s in zip(("saturation", "hue"), self.strengths[2:].tolist(), strict=True) if s]
        self.strengths[2:] = 0
        return tuple(left_out)


class Grayscale(Operation):
    """Luma in all three channels.

    Args:
        gray_p: probability for each sample.
        gray_first: before the colour jitter (MoCo v1) instead of after it.
    """

    fields, columns = ("gray",), (CROP_COLUMNS + 10,)

    def __init__(self, gray_p: Probability, gray_first: bool):
        self.p, self.first, self.place = gray_p, gray_first, 20 if gray_first else 40

    def draw(self, *uniform: Tensor, height: int, width: int, aspect_ratio: Tensor | None) -> dict[str, Tensor]:
        return {"gray": uniform[0] < self.p}

    def apply(self, x: Tensor, params: ViewParams, size: int) -> Tensor:
        return on_chosen(x, params.gray, lambda part, i: ops.grayscale(part).expand(-1, 3, -1, -1))

    def options(self) -> dict[str, int]:
        return {"gray_first": int(self.first)}

    def fit(self, channels: int) -> tuple[str, ...]:
        return self.needs_colour("gray", channels)


class Blur(Operation):
    """Gaussian blur.

    Args:
        blur_p: probability for each sample.
        blur_sigma: bounds of the Gaussian's sigma, pixels.
        blur_kernel: width of the kernel, pixels, odd.
    """

    fields, columns, place = ("blur", "sigma"), (CROP_COLUMNS + 11, CROP_COLUMNS + 12), 50

    def __init__(self, blur_p: Probability, blur_sigma: Range, blur_kernel: Count):
        self.p, self.sigma, self.kernel = blur_p, blur_sigma, blur_kernel

    def draw(self, *uniform: Tensor, height: int, width: int, aspect_ratio: Tensor | None) -> dict[str, Tensor]:
        low, high = self.sigma
        return {"blur": uniform[0] < self.p, "sigma": low + (high - low) * uniform[1]}

    def apply(self, x: Tensor, params: ViewParams, size: int) -> Tensor:
        return on_chosen(x, params.blur, lambda part, i: ops.gaussian_blur(part, params.sigma[i], self.kernel))

    def options(self) -> dict[str, int]:
        return {"blur_kernel": self.kernel}

    def check(self, size: int) -> None:
        if self.p and (self.kernel % 2 == 0 or self.kernel // 2 >= size):
            raise UserError(
                f"augment.blur_kernel={self.kernel}",
                f"the kernel must be odd and smaller than twice the view ({size} pixels)",
                "choose an odd number, about a tenth of the view",
            )


class Solarize(Operation):
    """Invert values of at least 0.5, with probability `solarize_p` for each sample."""

    fields, columns, place = ("solarize",), (CROP_COLUMNS + 13,), 60

    def __init__(self, solarize_p: Probability):
        self.p = solarize_p

    def draw(self, *uniform: Tensor, height: int, width: int, aspect_ratio: Tensor | None) -> dict[str, Tensor]:
        return {"solarize": uniform[0] < self.p}

    def apply(self, x: Tensor, params: ViewParams, size: int) -> Tensor:
        return on_chosen(x, params.solarize, lambda part, i: ops.solarize(part))

    def fit(self, channels: int) -> tuple[str, ...]:
        return self.needs_colour("solarize", channels)


class ChannelDrop(Operation):
    """One channel, drawn uniformly, becomes 0 with probability `channel_drop_p` for each sample."""

    fields, more, place = ("drop",), 2, 70

    def __init__(self, channel_drop_p: Probability = 0.0):
        self.p, self.channels = channel_drop_p, 3

    def draw(self, *uniform: Tensor, height: int, width: int, aspect_ratio: Tensor | None) -> dict[str, Tensor]:
        coin, which = uniform[0].unbind(1)
        return {"drop": torch.where(coin < self.p, (which * self.channels).long().clamp(max=self.channels - 1), -1)}

    def apply(self, x: Tensor, params: ViewParams, size: int) -> Tensor:
        keep = params.drop.unsqueeze(1) != torch.arange(x.shape[1])
        return x.mul_(keep.float().to(x.device, non_blocking=True)[:, :, None, None])

    def fit(self, channels: int) -> tuple[str, ...]:
        if self.p and channels == 1:
            raise UserError(f"augment.channel_drop_p={self.p:g}", "the images have one channel", "set it to 0")
        self.channels = channels
        return ()


OPERATIONS: list[type[Operation]] = [Rotate, CropAndFlip, ColorJitter, Grayscale, Blur, Solarize, ChannelDrop]


def draw_all(
    operations: Sequence[Operation], batch: int, height: int, width: int, generator: torch.Generator,
    aspect_ratio: Tensor | None = None,
) -> ViewParams:  # fmt: skip
    """The parameters of all operations for `batch` images of (height, width) pixels."""
    shared = torch.rand(batch, SHARED, generator=generator)
    values: dict[str, Tensor] = {}
    for operation in operations:
        uniform = [shared[:, column] for column in operation.columns]
        if operation.more:
            size = batch, operation.more
            uniform.append(torch.rand(size, generator=generator) if operation.active else torch.ones(size))
        values |= operation.draw(*uniform, height=height, width=width, aspect_ratio=aspect_ratio)
    return ViewParams(**values)
