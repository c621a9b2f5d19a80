import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    """A class-per-folder tree of 3 x 6 images; green's value tells the class."""
    for label, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.new("RGB", (40 + 4 * i, 30), (10 * i, 100 * label, 5)).save(tmp_path / name / f"{i}.png")
    return tmp_path
