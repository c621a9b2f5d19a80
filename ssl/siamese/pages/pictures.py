"""Pictures as data URIs."""

import base64
import io
import re
import warnings
from typing import Any

import numpy as np
from PIL import Image

THUMBNAIL = 96  # side of a stored thumbnail, pixels; smaller images keep their size
EXACT = 64  # images up to this side are stored without loss
LARGEST_PICTURE = 1_200_000  # bytes of a PNG that a page embeds as it is
SHRUNK = 1600  # side of that JPEG
MOST_PIXELS = 40_000_000
URI = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")


def thumbnail(image: np.ndarray[Any, Any], aspect_ratio: float = 1.0) -> str:
    """The data URI of an image (H, W, 3) uint8: PNG up to `EXACT` pixels, else JPEG of at most `THUMBNAIL`.

    Args:
        aspect_ratio: width / height of the original, times height / width of the image, which was squeezed.
    """
    picture = Image.fromarray(image)
    if aspect_ratio != 1:
        width, height = picture.size
        shape = (width, width / aspect_ratio) if aspect_ratio > 1 else (height * aspect_ratio, height)
        picture = picture.resize((max(1, round(shape[0])), max(1, round(shape[1]))), Image.Resampling.BILINEAR)
    if max(picture.size) <= EXACT:
        return _uri(picture, "png")
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return _uri(picture, "jpeg")


def embedded(content: bytes) -> str:
    """The data URI of a PNG file; a large one as a JPEG.

    Raises:
        ValueError: it is no readable PNG, or larger than a picture of a report.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
                picture.load()
                if len(content) > LARGEST_PICTURE:
                    smaller = picture.convert("RGB")
                    smaller.thumbnail((SHRUNK, SHRUNK))
                    return _uri(smaller, "jpeg")
    except (OSError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def is_uri(value: str) -> bool:
    """Whether it is the data URI of a PNG or JPEG, and nothing else."""
    return URI.fullmatch(value) is not None


def _uri(picture: Image.Image, kind: str) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **({"optimize": True} if kind == "png" else {"quality": 85}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
