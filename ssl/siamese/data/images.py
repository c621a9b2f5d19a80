"""Image files: which are there, and how one is decoded."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from siamese.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
ORIENTATION = 0x0112  # of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
SAMPLED, BLOCK = 256, 1 << 16  # files of a digest, and bytes of each of three places in them


def decode(file: Path, size: int) -> tuple[Tensor, float]:
    """An image file to ((3, size, size) uint8, width / height of the original).

    The image is turned as its EXIF orientation says and squeezed into the square with antialiasing; the aspect lets
    the crops undo the squeeze, so that they cover the whole photograph as the papers' do. A JPEG is decoded at a
    reduced scale where that suffices.

    Raises:
        ValueError: more than 8 bits a channel.
        Exception: Pillow has many words for a damaged file.
    """
    with Image.open(file) as image:
        check_depth(image)
        aspect = image.width / image.height
        image.draft("RGB", (size, size))
        square = image.convert("RGB")
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))  # after loading: of a TIFF, Pillow may have turned it
    if turn is not None:
        square = square.transpose(turn)
        if turn in (Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE, *(TURNS[6], TURNS[8])):
            aspect = 1 / aspect
    square = square.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1), aspect


def check_depth(image: Image.Image) -> None:
    """Refuse an opened image of more than 8 bits a channel, which `convert` would clip or cut."""
    coded = " ".join(str(t[3]) for t in getattr(image, "tile", []))  # Pillow's raw mode, as in "RGB;16B"
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16") or any(f";{n}" in coded for n in (16, 32, 64))
    deep = deep and "BGR;16" not in coded  # a BMP's 16 bits a pixel
    if image.format == "PPM" and image.mode == "RGB":
        deep = any(isinstance(t[3], tuple) and t[3][1] > 255 for t in getattr(image, "tile", []))
    if deep:
        raise ValueError(f"more than 8 bits a channel, mode {image.mode}; convert it to 8 bits")


def unreadable(file: Path) -> str | None:
    """Why a file cannot be decoded; None where it can."""
    try:
        decode(file, 1)
    except Exception as error:
        return str(error)
    return None


def listing(root: Path) -> tuple[list[str], list[Path], Tensor]:
    """Classes, files and labels of a folder, in sorted order; no class and labels of -1 if it is flat.

    Hidden files and folders (`.ipynb_checkpoints`, `._photo.jpg`) and macOS's `__MACOSX` are left out.
    """

    def visible(name: str) -> bool:
        return not name.startswith(".") and name != "__MACOSX"

    def image(folder: str, name: str) -> bool:
        return name.lower().endswith(IMAGE_SUFFIXES) and visible(name) and os.path.isfile(os.path.join(folder, name))

    def images(where: Path) -> list[Path]:
        found = []
        for folder, inner, names in os.walk(where):
            inner[:] = filter(visible, inner)
            found += [Path(folder, name) for name in names if image(folder, name)]
        return sorted(found)

    flat = sorted(root / name for name in os.listdir(root) if image(str(root), name))
    folders = [d for d in sorted(root.iterdir()) if d.is_dir() and visible(d.name)]
    by_class = {d.name: found for d in folders if (found := images(d))}
    if flat and by_class:
        raise UserError(
            f"data.path={root}", f"holds {len(flat)} images and folders of images",
            "keep either class folders or a flat folder",
        )  # fmt: skip
    if flat:
        return [], flat, torch.full((len(flat),), -1)
    files = [f for found in by_class.values() for f in found]
    labels = [label for label, found in enumerate(by_class.values()) for _ in found]
    if len(by_class) == 1:  # one folder is a place, not a class
        return [], files, torch.full((len(files),), -1)
    return list(by_class), files, torch.tensor(labels, dtype=torch.int64)


def digest_of_files(files: Sequence[Path], root: Path | None = None) -> str:
    """Of names (below `root`, or absolute), sizes, times of change and contents: the start, middle and end of each of
    at most 256 files, evenly chosen."""
    digest = hashlib.blake2b(digest_size=16)
    chosen = set(np.linspace(0, len(files) - 1, min(len(files), SAMPLED), dtype=int).tolist())
    for i, file in enumerate(files):
        about = file.stat()
        name = file.absolute() if root is None else file.relative_to(root)
        digest.update(f"{name}\0{about.st_size} {about.st_mtime_ns}\n".encode(errors="surrogateescape"))
        if i in chosen:
            with file.open("rb") as stream:
                for start in sorted({0, about.st_size // 2, max(0, about.st_size - BLOCK)}):
                    stream.seek(start)
                    digest.update(stream.read(BLOCK))
    return digest.hexdigest()
