"""From a batch of images to augmented views, on the images' device.

`View.draw` draws every random parameter of a batch on the host from the run's generator. `View.render` is a pure
function of images and parameters. So the same seed gives the same views on any device, and no step synchronises with
the device.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor, nn

from siamese.augment import native, ops
from siamese.augment.operation import CompilerError
from siamese.augment.operations import OPERATIONS, draw_all
from siamese.augment.params import ViewParams
from siamese.distributed import rank
from siamese.errors import UserError
from siamese.precision import full_float32
from siamese.schema.check import arguments
from siamese.schema.types import EIGHT_BITS, Like, Mean, Pixels, Std, ValueRange, ViewCount

# Pixels of views in a run from which compiling views.cpp pays for its seconds: two thousand views of 224 pixels. A GPU
# has no such number: Triton keeps what it compiled, and a run that is prolonged keeps its views to the bit.
NATIVE_FROM = 1e8


def compiled_for(device: str) -> ModuleType:
    """What renders views on a type of device, by its `check_known` and `render`. Raises CompilerError: nothing does."""
    if device == "cpu":
        return native
    if device != "cuda":
        raise CompilerError(f"no compiled code is for {device}: torch renders", "use a CPU or a CUDA device")
    try:
        from siamese.augment import gpu  # Triton is not on every platform
    except ImportError as error:
        raise CompilerError(f"Triton cannot be imported ({error}): torch renders", "install triton") from error
    return gpu


class Scaled(nn.Module):
    """What both kinds of views know of the images: C channels and the range of their values.

    Args:
        mean, std: of each channel, where 0 and 1 are the ends of the range.
        value_range: the values that become 0 and 1, of all channels or of each; what lies outside is clipped.

    Raises:
        UserError: the numbers are of different numbers of channels.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, mean: Mean, std: Std, value_range: ValueRange):
        super().__init__()
        assert "auto" not in (mean, std, value_range)  # resolved, see siamese.factory.resolve_images
        pairs: Any = [value_range] * len(mean) if isinstance(value_range[0], (int, float)) else value_range
        if not len(mean) == len(std) == len(pairs):
            raise UserError(
                f"augment.mean={list(mean)}", f"{len(mean)} means, {len(std)} standard deviations, {len(pairs)} ranges",
                "give one of each for every channel",
            )  # fmt: skip
        self.channels, self.value_range = len(mean), [list(pair) for pair in pairs]
        low, high = zip(*pairs, strict=True)
        for name, values in (("mean", mean), ("std", std), ("low", low), ("high", high)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)
        self.eight_bits = all(tuple(pair) == EIGHT_BITS for pair in pairs)

    def levels(self, images: Tensor) -> Tensor:
        """(B, C or 1, H, W) images to (B, C, H, W) uint8 or float in [0, 255]. One channel is repeated without a
        copy."""
        if images.shape[1] not in (1, self.channels):
            raise ValueError(f"the images have {images.shape[1]} channels, the view has {self.channels}")
        if images.dtype != torch.uint8 or not self.eight_bits:
            images = ops.grey_levels(images, self.low, self.high)
        return images.expand(-1, self.channels, -1, -1)


class View(Scaled):
    """One list of operations: rotate, crop and resize, flip, [gray,] jitter, [gray,] blur, solarize, normalise.

    Args:
        size: side of the square view, pixels.
        mean, std: of each of C channels; the last step is (x - mean) / std. Images of one channel are repeated.
        compiled: in C++ on a CPU (`native`), by Triton kernels on a GPU (`gpu`); "auto": on a CPU by the length of the
            run, on a GPU wherever the kernels know the operations. Takes effect with `Views.prepare`.
        value_range: the values that become 0 and 1, of all channels or of each; what lies outside is clipped.
        settings: of the operations, see `operations`. Those that need colour are left out if C is not 3.

    Attributes:
        left_out: names of the operations that are left out.
        compiled: the type of device on which compiled code renders, or "".

    Raises:
        UserError: settings that do not fit together.
    """

    def __init__(
        self,
        size: Pixels,
        mean: Mean,
        std: Std,
        compiled: Literal["auto"] | bool = False,
        value_range: ValueRange = EIGHT_BITS,
        **settings: Annotated[Any, Like(OPERATIONS)],
    ):
        super().__init__(mean, std, value_range)
        self.size = size
        known = {k for kind in OPERATIONS for k in arguments(kind)}
        if unknown := sorted(set(settings) - known):
            raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
        made = [kind(**{k: settings[k] for k in arguments(kind) if k in settings}) for kind in OPERATIONS]
        self.operations = sorted(made, key=lambda operation: operation.place)
        for operation in self.operations:
            operation.check(size)
        self.left_out = tuple(name for operation in self.operations for name in operation.fit(len(mean)))
        self.settings = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in settings.items()}
        self.compile_wanted, self.compiled = compiled, ""

    def draw(
        self, batch: int, height: int, width: int, generator: torch.Generator, aspect_ratio: Tensor | None = None
    ) -> ViewParams:
        """Parameters for `batch` images of (height, width) pixels."""
        return draw_all(self.operations, batch, height, width, generator, aspect_ratio)

    def render(self, images: Tensor, params: ViewParams) -> Tensor:
        """(B, C or 1, H, W) images and their parameters to (B, C, size, size) float."""
        if self.compiled == images.device.type:
            scale = {name: getattr(self, name) for name in ("low", "high", "mean", "std")}
            return compiled_for(self.compiled).render(images, params, self.operations, self.size, scale)
        images = self.levels(images)
        with full_float32():
            for operation in self.operations:
                if operation.active:
                    images = operation.apply(images, params, self.size)
        return ops.normalize(images, self.mean, self.std)

    def forward(
        self, images: Tensor | list[Tensor], generator: torch.Generator, aspect_ratio: Tensor | None = None
    ) -> Tensor:
        """Draw and apply. A list holds crops of this view, (B, C, size, size), that were rotated and cut before."""
        if isinstance(images, list):
            (images,) = images
            params = self.draw(len(images), self.size, self.size, generator)
            params.box = torch.tensor([[0, 0, self.size, self.size]]).repeat(len(images), 1)
            params.degrees = torch.zeros(len(images))
            return self.render(images, params)
        height, width = images.shape[-2:]
        return self.render(images, self.draw(len(images), height, width, generator, aspect_ratio))


class Listed:
    """Keys of an entry of `Views`: arguments of `View`, and how many views they are of."""

    def __init__(self, count: ViewCount = 1, **settings: Annotated[Any, Like(View)]):
        self.views = [View(**settings) for _ in range(count)]


def described(sizes: Sequence[int]) -> str:
    """Sizes of views in their order, such as "2 x 224 + 6 x 96"."""
    return " + ".join(f"{len(list(same))} x {size}" for size, same in itertools.groupby(sizes))


class Views(nn.Module):
    """The views of a method and the generator of all their random numbers.

    The generator's state is part of the state dict, so that a resumed run continues with the views of the
    uninterrupted run.

    Args:
        seed: of the run; each rank draws its own stream.
        views: a mapping for each view, with the arguments in which it differs from the shared ones; `[{}, {}]` is two
            views of one list, and so is `[{count: 2}]`. Views may differ in size: `[{count: 2}, {count: 6, size: 96}]`.
        shared: arguments of `View`.
    """

    def __init__(
        self,
        seed: int,
        views: Annotated[Sequence[Mapping[str, Any]], Len(1, 64), Like(Listed)],
        **shared: Annotated[Any, Like(View)],
    ):
        super().__init__()
        self.views = nn.ModuleList(view for own in views for view in Listed(**{**shared, **dict(own)}).views)
        self.seed, self.generator = seed, torch.Generator()
        self.start(rank=0)

    @property
    def sizes(self) -> list[int]:
        """Sides of the views, pixels, in their order."""
        return [view.size for view in self.views]  # type: ignore[misc]

    @property
    def largest(self) -> list[int]:
        """Numbers of the views of the largest size; metrics of augmented views are of these."""
        return [i for i, size in enumerate(self.sizes) if size == max(self.sizes)]

    def start(self, rank: int) -> None:
        """Start the stream of a rank. Call it before a checkpoint's state is restored."""
        self.generator.manual_seed(int(np.random.SeedSequence([self.seed, rank]).generate_state(1)[0]))

    def prepare(self, images: int, device: torch.device) -> str:
        """Decide ``compiled="auto"``, on a CPU by the run's length in images, and compile views.cpp.

        Returns:
            The decision and its reason, for the user.

        Raises:
            UserError: ``compiled=True`` without a working compiler, or with an operation that the compiled code does
                not know.
        """
        views = [view for view in self.views if isinstance(view, View)]
        wanted = views[0].compile_wanted
        compiled, why = wanted is not False, f"augment.compiled={wanted}".lower()
        if wanted == "auto" and device.type == "cpu":
            pixels = sum(images * view.size**2 for view in views)
            compiled = pixels >= NATIVE_FROM
            why = f"{pixels:.1g} pixels in the run {'>=' if compiled else '<'} {NATIVE_FROM:.0g}"
        if compiled:
            try:
                why += compiled_for(device.type).check_known([o for view in views for o in view.operations], device)
            except CompilerError as error:
                if wanted is True:
                    raise UserError(
                        "augment.compiled=true", str(error), f"{error.remedy}, or set augment.compiled=auto"
                    ) from error
                compiled, why = False, f"{why}, but {error}"
        for view in views:
            view.compiled = device.type if compiled else ""
        return f"{described(self.sizes)} px, {'' if compiled else 'not '}compiled ({why})"

    def forward(self, images: Tensor | list[Tensor], aspect_ratio: Tensor | None = None) -> list[Tensor]:
        """(B, C, H, W) images, or crops for each view, to a list of (B, C, size, size) float views."""
        if isinstance(images, list):
            pairs = zip(self.views, images, strict=True)
            return [view([own], self.generator) for view, own in pairs]
        return [view(images, self.generator, aspect_ratio) for view in self.views]

    def get_extra_state(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())
        if rank():  # the checkpoint holds rank 0's stream; every other rank starts its own from it
            drawn = int(torch.randint(2**31, (1,), generator=self.generator))
            self.generator.manual_seed(int(np.random.SeedSequence([drawn, rank()]).generate_state(1)[0]))


class CleanView(Scaled):
    """The un-augmented view for monitors and probes: central crop, resize, normalise.

    Args:
        size: side of the view, pixels.
        center: share of the photograph's short side that the central square covers; 0.875 is the papers' "resize 256,
            crop 224". 1 with images of the right size changes no pixel.
        mean, std, value_range: as in `View`, the ones of the training.
        interpolation: as in `CropAndFlip`, the one of the training.
    """

    def __init__(
        self, size: int, center: float, mean: Mean, std: Std, interpolation: str = "bilinear",
        value_range: ValueRange = EIGHT_BITS,
    ):  # fmt: skip
        super().__init__(mean, std, value_range)
        self.size, self.center, self.interpolation = size, center, interpolation

    def resized_by(self, interpolation: str) -> "CleanView":
        """The same view by another interpolation."""
        view = copy.copy(self)
        view.interpolation = interpolation
        return view

    @full_float32()
    def forward(self, images: Tensor | list[Tensor], aspect_ratio: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, C, size, size) float; `aspect_ratio` as in `crop_boxes`. A list holds crops of this view,
        (B, C, size, size), that were cut before."""
        if isinstance(images, list):
            (images,) = images
            return ops.normalize(self.levels(images).float() / 255, self.mean, self.std)
        images = self.levels(images)
        batch, _, height, width = images.shape
        if aspect_ratio is None and self.center == 1 and height == width == self.size:
            return ops.normalize(images.float() / 255, self.mean, self.std)
        squeeze = torch.ones(batch) if aspect_ratio is None else aspect_ratio.cpu() * height / width
        original = width / height * squeeze  # width / height of the photograph
        box_height = (self.center * height * original.clamp(max=1)).clamp(min=1)
        box_width = (self.center * width / original.clamp(min=1)).clamp(min=1)
        box = torch.stack([(height - box_height) / 2, (width - box_width) / 2, box_height, box_width], 1)
        box[:, :2] = torch.where(box[:, 2:] > 1, box[:, :2], box[:, :2].floor())  # whole pixels
        x = ops.resized_crop(images, box, self.size, self.interpolation).div_(255)
        return ops.normalize(x.clamp_(0, 1) if self.interpolation == "bicubic" else x, self.mean, self.std)
