"""From a batch of uint8 images to augmented views, on the images' device.

`View.draw` draws every random parameter of a batch on the host in one call of the run's generator;
`View.render` is a pure function of images and parameters. So the same seed gives the same views on any
device, and no step asks the device for a number.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor, nn

from siamese.augment import native, ops
from siamese.distributed import rank
from siamese.errors import UserError
from siamese.schema.types import (
    Angle,
    Count,
    CropScale,
    Interpolation,
    Jitter,
    Like,
    Mean,
    Pixels,
    Probability,
    Range,
    Std,
)

# Pixels of views in a run from which compiling is worth its seconds.
NATIVE_FROM = 1e8  # views.cpp: two thousand views of 224 pixels
COMPILE_FROM = 5e9  # torch.compile on a GPU: a hundred thousand
CROP_TRIES = 10  # as torchvision's RandomResizedCrop


@dataclass
class ViewParams:
    """The random parameters of one view of a batch; tensors with B rows, on the host."""

    box: Tensor  # (B, 4) int64: top, left, height, width of the crop
    flip: Tensor  # (B,) bool
    degrees: Tensor  # (B,) rotation
    jitter: Tensor  # (B,) bool: is the colour jittered?
    factors: Tensor  # (B, 4) brightness, contrast, saturation, hue
    order: Tensor  # (B, 4) in which order
    gray: Tensor  # (B,) bool
    blur: Tensor  # (B,) bool
    sigma: Tensor  # (B,) of the blur, pixels
    solarize: Tensor  # (B,) bool


def crop_boxes(
    uniform: Tensor,
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    aspect: Tensor | None = None,
) -> Tensor:
    """Boxes (B, 4) distributed as torchvision's `RandomResizedCrop.get_params`.

    Args:
        uniform: (B, 2 * CROP_TRIES + 2) uniform numbers in [0, 1).
        scale: bounds of the box's part of the area.
        ratio: bounds of width / height, drawn log-uniformly.
        aspect: (B,) width / height of the original photographs, where they were squeezed into
            (height, width): the box then has the drawn area and ratio in the original (Inception
            crop, arXiv:1409.4842), to a pixel of the squeezed image, and one pixel at least.
    """
    squeeze = torch.ones(len(uniform), 1) if aspect is None else (aspect.view(-1, 1).cpu() * height / width)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[:, :CROP_TRIES])
    low, high = torch.tensor(ratio, dtype=torch.float32).log()
    shape = torch.exp(low + (high - low) * uniform[:, CROP_TRIES : 2 * CROP_TRIES])
    box_width = (area * shape / squeeze).sqrt().round()
    box_height = (area / shape * squeeze).sqrt().round()
    fits = (box_width > 0) & (box_width <= width) & (box_height > 0) & (box_height <= height)
    first = fits.to(torch.int64).argmax(1, keepdim=True)
    box_width, box_height = box_width.gather(1, first).squeeze(1), box_height.gather(1, first).squeeze(1)
    # Where no try fits: the largest central box of an allowed ratio, of a pixel at least (torchvision's may have none).
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


class View(nn.Module):
    """One augmentation list: rotate, crop and resize, flip, [gray,] jitter, [gray,] blur, solarize, normalise.

    A flip commutes with all that follows it, so its place in a paper's list does not matter.

    Args:
        size: side of the square view, pixels.
        crop_scale, crop_ratio: area and width / height of the crop (`crop_boxes`).
        interpolation: "bilinear" or "bicubic" (clipped to [0, 1]), antialiased.
        flip_p, jitter_p, gray_p, blur_p, solarize_p: probability for each sample.
        jitter: strengths of brightness, contrast, saturation, hue, as torchvision's `ColorJitter`.
        gray_first: grayscale before the jitter (MoCo v1) instead of after it.
        blur_sigma: bounds of the Gaussian's sigma, pixels.
        blur_kernel: its width in pixels, odd.
        rotate_degrees: the image is turned by up to so many degrees either way.
        mean, std: of each channel; the last step is (x - mean) / std.
        compiled: all of it in C++ on a CPU (`native`), the colours through torch.compile on a GPU; "auto": by the
            length of the run. Takes effect with `Views.prepare`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: Pixels,
        crop_scale: CropScale,
        crop_ratio: Range,
        interpolation: Interpolation,
        flip_p: Probability,
        jitter: Jitter,
        jitter_p: Probability,
        gray_p: Probability,
        gray_first: bool,
        blur_p: Probability,
        blur_sigma: Range,
        blur_kernel: Count,
        solarize_p: Probability,
        rotate_degrees: Angle,
        mean: Mean,
        std: Std,
        compiled: Literal["auto"] | bool = False,
    ):
        super().__init__()
        if blur_p and (blur_kernel % 2 == 0 or blur_kernel // 2 >= size):
            raise UserError(
                f"augment.blur_kernel={blur_kernel}",
                f"the kernel must be odd and smaller than twice the view ({size} pixels)",
                "choose an odd number, about a tenth of the view",
            )
        self.size, self.interpolation = size, interpolation
        self.crop_scale, self.crop_ratio = tuple(crop_scale), tuple(crop_ratio)
        self.flip_p, self.jitter, self.jitter_p = flip_p, tuple(jitter), jitter_p
        self.gray_p, self.gray_first = gray_p, gray_first
        self.blur_p, self.blur_sigma, self.blur_kernel = blur_p, tuple(blur_sigma), blur_kernel
        self.solarize_p, self.rotate_degrees = solarize_p, rotate_degrees
        self.compile_wanted, self.compiled, self.native = compiled, False, False
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def draw(
        self, batch: int, height: int, width: int, generator: torch.Generator, aspect: Tensor | None = None
    ) -> ViewParams:
        """Parameters for `batch` images of (height, width) pixels."""
        crop = 2 * CROP_TRIES + 2
        # 16 more numbers a sample: 4 factors, 4 keys of the order, and the coins and amounts below.
        uniform = torch.rand(batch, crop + 16, generator=generator)
        crops, factors, order, rest = uniform.split([crop, 4, 4, 8], 1)
        flip, jitter, gray, blur, sigma, solarize, degrees, _ = rest.unbind(1)
        strength = torch.tensor(self.jitter)
        low = torch.cat([(1 - strength[:3]).clamp(min=0), -strength[3:]])
        high = torch.cat([1 + strength[:3], strength[3:]])
        return ViewParams(
            box=crop_boxes(crops, height, width, self.crop_scale, self.crop_ratio, aspect),
            flip=flip < self.flip_p,
            degrees=(2 * degrees - 1) * self.rotate_degrees,
            jitter=jitter < self.jitter_p,
            factors=low + (high - low) * factors,
            order=order.argsort(1),
            gray=gray < self.gray_p,
            blur=blur < self.blur_p,
            sigma=self.blur_sigma[0] + (self.blur_sigma[1] - self.blur_sigma[0]) * sigma,
            solarize=solarize < self.solarize_p,
        )

    def render(self, images: Tensor, params: ViewParams) -> Tensor:
        """(B, 3, H, W) uint8 and their parameters to (B, 3, size, size) float."""
        if self.native and images.device.type == "cpu" and images.dtype == torch.uint8:
            return native.render(self, images, params)
        return self._change(self._crops(images, params), params)

    def _crops(self, images: Tensor, params: ViewParams) -> Tensor:
        """Flipped crops in [0, 1]."""
        if self.rotate_degrees:
            images = ops.rotate(images.float(), params.degrees.to(images.device, non_blocking=True))
        box, flip = (p.to(images.device, non_blocking=True) for p in (params.box, params.flip))
        x = ops.resized_crop(images, box, self.size, self.interpolation, flip).div_(255)
        return x.clamp_(0, 1) if self.interpolation == "bicubic" else x

    def _change(self, x: Tensor, params: ViewParams) -> Tensor:
        """What follows the crop."""
        if self.gray_first:
            x = self._gray(x, params.gray)
        if self.jitter_p:
            x = _on(
                x,
                params.jitter,
                lambda part, i: ops.color_jitter(part, params.factors[i], params.order[i], self.compiled),
            )
        if not self.gray_first:
            x = self._gray(x, params.gray)
        if self.blur_p:
            x = _on(x, params.blur, lambda part, i: ops.gaussian_blur(part, params.sigma[i], self.blur_kernel))
        if self.solarize_p:
            x = _on(x, params.solarize, lambda part, i: ops.solarize(part))
        return ops.normalize(x, self.mean, self.std)

    def _gray(self, x: Tensor, chosen: Tensor) -> Tensor:
        return _on(x, chosen, lambda part, i: ops.grayscale(part).expand(-1, 3, -1, -1)) if self.gray_p else x

    def forward(self, images: Tensor, generator: torch.Generator, aspect: Tensor | None = None) -> Tensor:
        """Draw and apply."""
        height, width = images.shape[-2:]
        return self.render(images, self.draw(len(images), height, width, generator, aspect))


def _on(x: Tensor, chosen: Tensor, change: Any) -> Tensor:
    """The batch with the chosen samples changed; `chosen` lies on the host, so its count is known there."""
    index = chosen.nonzero().squeeze(1)
    if len(index) == 0:
        return x
    if len(index) == len(x):
        return change(x, index).contiguous()
    where = index.to(x.device, non_blocking=True)
    x[where] = change(x[where], index)
    return x


class Views(nn.Module):
    """The views of a method, and the generator that all their randomness comes from.

    The generator's state is part of the state dict, so that a resumed run goes on with the views that
    the uninterrupted one would have had.

    Args:
        seed: of the run; each rank draws a stream of its own.
        views: a mapping a view, with the arguments in which it differs from the shared ones; `[{}, {}]`
            is two views of one list.
        shared: arguments of `View`.
    """

    def __init__(
        self,
        seed: int,
        views: Annotated[Sequence[Mapping[str, Any]], Len(1, 64), Like(View)],
        **shared: Annotated[Any, Like(View)],
    ):
        super().__init__()
        self.views = nn.ModuleList(View(**{**shared, **dict(own)}) for own in views)
        self.seed, self.generator = seed, torch.Generator()
        self.start(rank=0)

    def start(self, rank: int) -> None:
        """Start the stream of a rank; before a checkpoint's state is restored."""
        self.generator.manual_seed(int(np.random.SeedSequence([self.seed, rank]).generate_state(1)[0]))

    def prepare(self, images: int, device: torch.device) -> str:
        """Settle ``compiled="auto"`` by the run's length in images, and compile what a CPU needs.

        Returns:
            What was decided and why, for people.

        Raises:
            UserError: ``compiled=True`` on a CPU without a working C++ compiler.
        """
        views = [view for view in self.views if isinstance(view, View)]
        cpu = device.type == "cpu"
        pixels, least = sum(images * view.size**2 for view in views), NATIVE_FROM if cpu else COMPILE_FROM
        wanted, why = views[0].compile_wanted, "as augment.compiled says"
        compiled = wanted is True
        if wanted == "auto":
            compiled = pixels >= least
            why = f"{pixels:.1g} pixels in the run {'>=' if compiled else '<'} {least:.0g}"
        if cpu and compiled:
            try:
                why += native.library().note
            except native.CompilerError as error:
                if wanted is True:
                    raise UserError(
                        "augment.compiled=true", str(error), "install g++, or set augment.compiled=auto"
                    ) from error
                compiled, why = False, f"{why}, but {error}"
        for view in views:
            view.native, view.compiled = compiled and cpu, compiled and not cpu
        return f"{len(views)} of {views[0].size} px, {'' if compiled else 'not '}compiled ({why})"

    def forward(self, images: Tensor, aspect: Tensor | None = None) -> list[Tensor]:
        """(B, 3, H, W) uint8 to a list of (B, 3, size, size) float views."""
        return [view(images, self.generator, aspect) for view in self.views]

    def get_extra_state(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())
        if rank():  # the checkpoint holds rank 0's stream; the others go on with one of their own
            drawn = int(torch.randint(2**31, (1,), generator=self.generator))
            self.generator.manual_seed(int(np.random.SeedSequence([drawn, rank()]).generate_state(1)[0]))


class CleanView(nn.Module):
    """The un-augmented view for monitors and probes: central crop, resize, normalise.

    Args:
        size: side of the view, pixels.
        center: part of the short side of the photograph that the central square covers; 0.875 is the
            papers' "resize 256, crop 224". 1 with images of the right size changes no pixel.
        mean, std: as in `View`; the same that the network was trained with.
        interpolation: as in `View`; where the papers resize their crops bicubically they resize this view so, too.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, size: int, center: float, mean: Sequence[float], std: Sequence[float], interpolation: str = "bilinear"
    ):
        super().__init__()
        self.size, self.center, self.interpolation = size, center, interpolation
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def resized_by(self, interpolation: str) -> "CleanView":
        """The same view by another interpolation."""
        view = copy.copy(self)
        view.interpolation = interpolation
        return view

    def forward(self, images: Tensor, aspect: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 to (B, 3, size, size) float; `aspect` as in `crop_boxes`."""
        batch, _, height, width = images.shape
        if aspect is None and self.center == 1 and height == width == self.size:
            return ops.normalize(images.float().div_(255), self.mean, self.std)
        squeeze = torch.ones(batch) if aspect is None else aspect.cpu() * height / width
        original = width / height * squeeze  # width / height of the photograph
        box_height = (self.center * height * original.clamp(max=1)).clamp(min=1)
        box_width = (self.center * width / original.clamp(min=1)).clamp(min=1)
        box = torch.stack([(height - box_height) / 2, (width - box_width) / 2, box_height, box_width], 1)
        box[:, :2] = torch.where(box[:, 2:] > 1, box[:, :2], box[:, :2].floor())  # one pixel, not halves of two
        x = ops.resized_crop(images, box, self.size, self.interpolation).div_(255)
        return ops.normalize(x.clamp_(0, 1) if self.interpolation == "bicubic" else x, self.mean, self.std)
