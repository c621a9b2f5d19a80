from functools import partial

import pytest
from listing_cases import PHOTOS, tree, written


@pytest.fixture
def photos(tmp_path):
    """A small tree of images and other files."""
    return tree(tmp_path / "photos", *PHOTOS)


@pytest.fixture
def table(tmp_path):
    """Writes a table or list into the temporary folder."""
    return partial(written, tmp_path)
