"""Digests of files; stores one after the other."""

import os

import pytest
import torch

from siamese.data import TensorImages
from siamese.data.images import ChainedImages, digest_of_files


def test_the_digest_sees_contents(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(bytes(1 << 20))
    about, before = file.stat(), digest_of_files([file])
    for place in (0, 1 << 19, (1 << 20) - 1):
        content = bytearray(1 << 20)
        content[place] = 1
        file.write_bytes(content)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
        assert digest_of_files([file]) != before


def chain():
    """Stores of 3, 1 and 4 images; image i has the value i."""
    values = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 2, 3, 4).contiguous()
    return ChainedImages([TensorImages(part) for part in values.split([3, 1, 4])])


def test_a_chain_is_read_in_the_order_of_the_indices():
    index = torch.tensor([7, 0, 3, 3, 2, 5])
    batch = chain().read(index)
    assert batch.images.shape == (6, 2, 3, 4) and batch.images.dtype == torch.uint8
    assert batch.images[:, 0, 0, 0].tolist() == index.tolist()
    assert not batch.unreadable.any() and batch.errors == ()
    assert len(chain()) == 8 and chain().nbytes == 8 * 24
    assert chain().read_all().images[:, 1, 2, 3].tolist() == list(range(8))


def test_a_part_of_a_chain():
    some = chain().subset(torch.tensor([1, 3, 4, 7]))
    assert some.read(torch.tensor([3, 0, 1])).images[:, 0, 0, 0].tolist() == [7, 1, 3]
    longer = some.concat(TensorImages(torch.full((1, 2, 3, 4), 9, dtype=torch.uint8)))
    assert longer.read(torch.tensor([4, 2])).images[:, 0, 0, 0].tolist() == [9, 4]
    with pytest.raises(AssertionError):
        chain().subset(torch.tensor([3, 1]))


def test_the_digest_of_a_file_that_cannot_be_read(tmp_path):
    """Whoever decodes it reports it."""
    file = tmp_path / "a.png"
    file.write_bytes(b"1")
    before = digest_of_files([file])
    file.unlink()
    assert digest_of_files([file]) != before
    file.mkdir()  # opened with an error
    assert digest_of_files([file]) != before


def test_a_chain_keeps_uint16():
    values = torch.tensor([0, 1, 40000, 65535]).to(torch.uint16).view(4, 1, 1, 1)
    both = ChainedImages([TensorImages(values[:2]), TensorImages(values[2:])])
    batch = both.read(torch.tensor([3, 0, 2]))
    assert batch.images.dtype == torch.uint16 and batch.images.flatten().tolist() == [65535, 0, 40000]
