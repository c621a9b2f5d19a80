"""The random operations of a view, a class each: settings, random parameters, torch code.

To add one, write its class here and name it in `OPERATIONS`, give its settings in conf/augment/_base.yaml, and, so that
a CPU renders it in C++ too, write its field and its code in views.cpp. A view whose active operations are not all known
to views.cpp is rendered by torch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from siamese.augment import ops
from siamese.augment.params import CROP_COLUMNS, ViewParams, crop_boxes
from siamese.errors import UserError
from siamese.schema.types import Angle, Count, CropScale, Interpolation, Jitter, Probability, Range

SHARED = CROP_COLUMNS + 16  # columns of the uniform numbers that the operations here share, one of them spare
Column = int | slice


class Operation(ABC):
    """A random operation. The arguments of its constructor are its settings (keys of `conf/augment`).

    Attributes:
        fields: names of its random parameters in `ViewParams`.
        columns: which of the shared uniform numbers of a sample `draw` receives.
        more: how many uniform numbers of its own it draws for a sample. Every operation beyond the ones here uses
            these, so that the random numbers of existing recipes stay as they are.
        place: operations are applied in the order of this number.
        p: probability for each sample; 1 if it is always applied.
    """

    fields: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[Column, ...]] = ()
    more: ClassVar[int] = 0
    place: float
    p: float = 1.0

    @property
    def active(self) -> bool:
        """Whether it can change an image at all."""
        return self.p > 0

    @abstractmethod
    def draw(self, *uniform: Tensor, height: int, width: int, aspect_ratio: Tensor | None) -> dict[str, Tensor]:
        """The values of `fields` for B samples.

        Args:
            uniform: (B,) or (B, n) uniform numbers in [0, 1), one for each entry of `columns`, then (B, more).
            height, width: of the images, pixels.
            aspect_ratio: (B,) width / height of the original photographs, or None.
        """

    @abstractmethod
    def apply(self, x: Tensor, params: ViewParams, size: int, compiled: bool) -> Tensor:
        """The operation in torch on the images' device.

        Args:
            x: (B, 3, size, size) float in [0, 1]; before the crop (B, 3, H, W) uint8 or float in [0, 255].
            compiled: may use torch.compile.
        """

    def options(self) -> dict[str, int]:
        """Settings that views.cpp reads, by the names it gives them."""
        return {}

    def check(self, size: int) -> None:  # noqa: B027
        """Refuse settings that do not fit views of `size` pixels."""


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

    def apply(self, x: Tensor, params: ViewParams, size: int, compiled: bool) -> Tensor:
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

    def apply(self, x: Tensor, params: ViewParams, size: int, compiled: bool) -> Tensor:
        box, flip = (p.to(x.device, non_blocking=True) for p in (params.box, params.flip))
        x = ops.resized_crop(x, box, size, self.interpolation, flip).div_(255)
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

    def apply(self, x: Tensor, params: ViewParams, size: int, compiled: bool) -> Tensor:
        change = lambda part, i: ops.color_jitter(part, params.factors[i], params.order[i], compiled)  # noqa: E731
        return on_chosen(x, params.jitter, change)


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

    def apply(self, x: Tensor, params: ViewParams, size: int, compiled: bool) -> Tensor:
        return on_chosen(x, params.gray, lambda part, i: ops.grayscale(part).expand(-1, 3, -1, -1))

    def options(self) -> dict[str, int]:
        return {"gray_first": int(self.first)}


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

    def apply(self, x: Tensor, params: ViewParams, size: int, compiled: bool) -> Tensor:
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

    def apply(self, x: Tensor, params: ViewParams, size: int, compiled: bool) -> Tensor:
        return on_chosen(x, params.solarize, lambda part, i: ops.solarize(part))


OPERATIONS: list[type[Operation]] = [Rotate, CropAndFlip, ColorJitter, Grayscale, Blur, Solarize]


def on_chosen(x: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], Any]) -> Tensor:
    """The batch with the chosen samples changed.

    Args:
        chosen: (B,) bool on the host, so that the number of samples is known without a synchronisation.
        change: (samples, their indices) to the changed samples.
    """
    index = chosen.nonzero().squeeze(1)
    if len(index) == 0:
        return x
    if len(index) == len(x):
        return change(x, index).contiguous()  # type: ignore[no-any-return]
    where = index.to(x.device, non_blocking=True)
    x[where] = change(x[where], index)
    return x


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
