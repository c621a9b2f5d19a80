"""The transform of a loaded backbone, against the evaluation's own view of a file."""

import numpy as np
import pytest
import torch
from PIL import Image

from siamese.augment import CleanView
from siamese.handoff.transform import Transform

ORIENTATION = 0x0112  # of Exif


@pytest.fixture
def transform():
    view = CleanView(8, mean=[0.5] * 3, std=[0.25] * 3, center=1.0)
    return Transform(view)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_followed(transform, tmp_path, orientation):
    """A file, a PIL image of it, and the turned pixels give one result."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(pixels, {1: 0, 3: 2, 6: 3, 8: 1}[orientation])
    expected = transform(np.ascontiguousarray(upright))
    with Image.open(tmp_path / "a.png") as image:
        assert torch.equal(transform(image), expected)
    assert torch.equal(transform(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("kind", ["L", "P", "RGBA", "RGB"])
def test_kinds_of_pil_images(transform, kind):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)).convert(kind)
    assert torch.equal(transform(image), transform(np.array(image.convert("RGB"))))


@pytest.mark.parametrize(("shape", "kind"), [((8, 8, 3), "uint16"), ((8, 8, 2), "uint8"), ((8,), "uint8")])
def test_image_of_another_kind_is_refused(transform, shape, kind):
    with pytest.raises(ValueError, match="an image of"):
        transform(np.zeros(shape, kind))
