"""An image as a program holds it to the input of a trained backbone."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from siamese.augment import CleanView
from siamese.data.crops import CentralCrop, cut
from siamese.data.files import Kind

PIL_MODES = {1: "L", 3: "RGB"}
MAX_PIXELS = 300_000_000


class Transform:
    """The un-augmented view of one image, for a data set's `transform=`: central crop, resize, normalise, as when
    features of image files are judged.

    Args:
        view: of the backbone.
    """

    def __init__(self, view: CleanView):
        self.view = view.to("cpu")
        self.crop = CentralCrop(view.size, view.center, view.interpolation)  # type: ignore[arg-type]

    def __call__(self, image: Any) -> Tensor:
        """(C, size, size) float32.

        Args:
            image: a file, a PIL image, an array (H, W) or (H, W, C), or a tensor (C, H, W); uint8, uint16 or float32,
                in the range of the training's values.

        Raises:
            ValueError: an image of another kind, or with other channels.
        """
        if isinstance(image, (str, Path)):
            dtype = self._dtype(Path(image))
            self._check(dtype)
            kind = Kind(self.view.channels, dtype, MAX_PIXELS)
            (picture,) = kind.crops(Path(image), self.crop, 0, 0)
        else:
            pixels = self._pixels(image)
            (region,) = self.crop.regions(pixels.shape[0], pixels.shape[1])
            picture = cut(pixels, region)
        return self.view([picture.unsqueeze(0)])[0]

    def __repr__(self) -> str:
        v = self.view
        return f"Transform(size={v.size}, center={v.center}, interpolation={v.interpolation}, channels={v.channels})"

    def _pixels(self, image: Any) -> np.ndarray:
        if isinstance(image, Image.Image):
            image = ImageOps.exif_transpose(image)
            eight_bits = not image.mode.startswith(("I", "F"))  # others would be cut off at 255
            mode = PIL_MODES.get(self.view.channels) if eight_bits else None
            image = np.array(image if mode is None else image.convert(mode))
        elif isinstance(image, Tensor):
            image = image.detach().cpu().permute(1, 2, 0).numpy() if image.ndim == 3 else image.detach().cpu().numpy()
        pixels = np.asarray(image)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if pixels.ndim == 3 and pixels.shape[2] == 1 and self.view.channels == 3:
            pixels = pixels.repeat(3, axis=2)
        if pixels.ndim != 3 or pixels.shape[2] != self.view.channels:
            raise ValueError(f"an image of shape {pixels.shape}, the backbone takes {self.view.channels} channels")
        self._check(pixels.dtype)
        return np.ascontiguousarray(pixels)

    def _check(self, dtype: np.dtype) -> None:
        if self.view.eight_bits and dtype.kind in "iu" and dtype != np.uint8:
            raise ValueError(f"an image of {dtype}, the backbone was trained on 8 bits; scale it to [0, 255]")

    def _dtype(self, file: Path) -> np.dtype:
        from siamese.data.decoding import open_image

        with open_image(file, MAX_PIXELS) as image:
            return image.info.dtype
