"""Encoded images and folders of them."""

import io

import numpy as np
import tifffile
from PIL import Image

COUNT = 12


def image(i, channels=3, dtype=np.uint8, height=36, width=44):
    """Brighter from top to bottom, with noise; (height, width, channels)."""
    rng = np.random.default_rng(i)
    x = np.linspace(0.1, 0.8, height)[:, None, None] + 0.2 * rng.random((height, width, channels))
    return (x if np.dtype(dtype).kind == "f" else x * {1: 255, 2: 4095}[np.dtype(dtype).itemsize]).astype(dtype)


def encoded(suffix, i=0, channels=3, dtype=np.uint8, **size):
    out, x = io.BytesIO(), image(i, channels, dtype, **size)
    if suffix == ".tif":
        tifffile.imwrite(out, x, photometric="minisblack", planarconfig="contig", compression="zlib")
    elif suffix == ".npy":
        np.save(out, x)
    else:
        form = {".jpg": "jpeg", ".tif": "tiff"}.get(suffix, suffix[1:])
        Image.fromarray(x.squeeze()).save(out, form)
    return out.getvalue()


def tree(folder, suffix=".png", channels=3, dtype=np.uint8, count=COUNT, **odd):
    """Class folders a and b, one image each; `odd` gives the bytes of the third file, or an array."""
    for i in range(count):
        file = folder / "ab"[i % 2] / f"{i:02}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(suffix, i, channels, dtype))
    if "data" in odd:
        (folder / "a" / f"02{suffix}").write_bytes(odd["data"])
    if "array" in odd:
        np.save(folder / "a" / "02.npy", odd["array"])
    return folder


def truncated(suffix):
    return encoded(suffix, 2)[: len(encoded(suffix, 2)) * 3 // 5]
