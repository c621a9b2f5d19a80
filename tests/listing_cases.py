"""Folders of empty image files, for the tests of listings."""

import pytest

from siamese.data.listing import list_images
from siamese.errors import UserError


def tree(root, *names):
    """Empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def written(folder, content, name="labels.csv"):
    """The path of a file of bytes or text."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder / name)


def names(found):
    return [file.relative_to(found.root).as_posix() for file in found.files]


def refuse(says, root, *args, **kwargs):
    with pytest.raises(UserError, match=says) as caught:
        list_images(root, *args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PHOTOS = ("ant/0.png", "ant/1.JPG", "bee/0.png", "bee/1.npy")  # two classes of two images
ROWS = "ant/0.png,cat\nant/1.JPG,dog\nbee/0.png,cat\nbee/1.npy,\n"
