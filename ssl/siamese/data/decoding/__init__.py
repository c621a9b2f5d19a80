"""Decoding of any image file: 1 to 32 channels of uint8, uint16 or float32."""

from siamese.data.decoding.opened import OpenedImage, open_image
from siamese.data.decoding.pixels import ImageError, ImageInfo, as_channels

__all__ = ["ImageError", "ImageInfo", "OpenedImage", "as_channels", "open_image"]
