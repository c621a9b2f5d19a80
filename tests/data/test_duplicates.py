"""Equal images are found, whatever they are called."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from siamese.data import ImageFiles, TensorImages
from siamese.data.duplicates import repeated, shared
from siamese.data.files import Kind
from siamese.data.images import ChainedImages
from siamese.data.items import Files
from siamese.data.packed import PackedFile, PackedImages

KIND = Kind(3, np.dtype(np.uint8), 10**6)


@pytest.fixture
def files(tmp_path):
    """0.bmp, 1.bmp, 2.bmp of one length; 3.bmp is a copy of 1.bmp, 4.bmp is longer."""
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (6 + (i == 4), 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.bmp")
    shutil.copy(tmp_path / "1.bmp", tmp_path / "3.bmp")
    return sorted(tmp_path.glob("*.bmp"))


def stores(files, folder):
    """The files in each kind of store."""
    streamed = ImageFiles(files, 8, KIND)
    packed = PackedImages(PackedFile(folder / "packed", Files(files), 8, KIND, "stop"))
    return {
        "streamed": streamed, "packed": packed, "memory": TensorImages(streamed.read_all().images),
        "chained": ChainedImages([ImageFiles(files[:2], 8, KIND), ImageFiles(files[2:], 8, KIND)]),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["streamed", "packed", "memory", "chained"])
def test_equal_images_are_found(files, tmp_path, kind):
    store = stores(files, tmp_path)[kind]
    assert repeated(store) == [[1, 3]]
    assert repeated(store.subset(torch.tensor([1, 3]))) == [[0, 1]]
    assert repeated(store.subset(torch.tensor([0, 1, 2, 4]))) == []
    first, second = store.subset(torch.tensor([0, 1, 4])), store.subset(torch.tensor([2, 3, 4]))
    assert shared(first, second) == [(1, 1), (2, 2)]
    assert shared(first, store.subset(torch.tensor([2]))) == []


def test_contents_are_read_only_where_lengths_are_equal(files, tmp_path, monkeypatch):
    read = []
    content = ImageFiles.content
    monkeypatch.setattr(ImageFiles, "content", lambda self, i: read.append(self.files[i].name) or content(self, i))
    repeated(ImageFiles(files, 8, KIND))
    assert sorted(read) == ["0.bmp", "1.bmp", "2.bmp", "3.bmp"]


def test_files_that_cannot_be_read_equal_nothing(files):
    store = ImageFiles(files, 8, KIND)
    lengths = store.lengths()
    for i in (1, 3):
        files[i].unlink()
    store.lengths = lambda: lengths
    assert repeated(store) == []
