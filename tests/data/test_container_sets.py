"""data=hf and data=webdataset hold the images and labels of data=folder on the same files."""

import io
import tarfile

import numpy as np
import pytest
import tifffile
import torch
from split_cases import SPLIT

from siamese.data import sets as data_sets
from siamese.errors import UserError


def tile(i, channels=5):
    """A TIFF of 16 bits."""
    out = io.BytesIO()
    pixels = np.random.default_rng(i).integers(0, 60_000, (20 + i % 4, 26, channels), dtype=np.uint16)
    tifffile.imwrite(out, pixels, photometric="minisblack", planarconfig="contig")
    return out.getvalue()


@pytest.fixture
def reference(tmp_path):
    """The same images in class folders."""
    for part, first, last in (("train", 0, 20), ("test", 20, 26)):
        for i in range(first, last):
            file = tmp_path / "folder" / part / "ab"[i % 2] / f"{i:02}.tif"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(tile(i))
    return data_sets.folder("folder", str(tmp_path / "folder"), 12, "stop", **SPLIT)


def shard(file, numbers, channels=5):
    with tarfile.open(file, "w") as tar:
        for i in numbers:
            for name, content in ((f"{i:02}.tif", tile(i, channels)), (f"{i:02}.cls", b"01"[i % 2 : i % 2 + 1])):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(file)


def table(file, numbers):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    file.parent.mkdir(exist_ok=True)
    cells = [{"bytes": tile(i), "path": f"{i}.tif"} for i in numbers]
    images = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": images, "label": ["ab"[i % 2] for i in numbers]}), file)


def same(split, other):
    """Both hold the same images, in some order, each with its label."""
    ours, theirs = ({x.numpy().tobytes(): int(y) for x, y in zip(s.images.read_all().images, s.labels, strict=True)}
                    for s in (split, other))  # fmt: skip
    assert len(ours) == len(split) and ours.keys() == theirs.keys()
    known = [k for k in ours if ours[k] >= 0 and theirs[k] >= 0]
    assert known and all(ours[k] == theirs[k] for k in known)


def test_shards_hold_the_images_of_the_folder(reference, tmp_path):
    made = data_sets.webdataset(
        "webdataset", shard(tmp_path / "a.tar", range(20)), 12, "stop", str(tmp_path / "p"),
        test_path=shard(tmp_path / "t.tar", range(20, 26)), **SPLIT,
    )  # fmt: skip
    assert made.pretrain.images.dtype == torch.uint16 and made.pretrain.images.channels == 5
    assert len(made.classes) == 2
    same(made.pretrain, reference.pretrain)
    same(made.test, reference.test)


def test_tables_hold_the_images_of_the_folder(reference, tmp_path):
    table(tmp_path / "h" / "train-00000-of-00001.parquet", range(20))
    table(tmp_path / "h" / "test-00000-of-00001.parquet", range(20, 26))
    made = data_sets.hf("hf", str(tmp_path / "h"), 12, "stop", str(tmp_path / "p"), **SPLIT)
    assert made.classes == ["a", "b"] and made.pretrain.images.channels == 5
    same(made.pretrain, reference.pretrain)
    same(made.test, reference.test)


def test_test_shards_of_another_kind_are_refused_before_packing(tmp_path):
    train, test = shard(tmp_path / "a.tar", range(20)), shard(tmp_path / "t.tar", range(6), channels=4)
    with pytest.raises(
        UserError, match=r"t.tar: t.tar/00.tif is uint16 of 4 channels, the training images are uint16 of 5"
    ):
        data_sets.webdataset("webdataset", train, 12, "stop", str(tmp_path / "p"), test_path=test, **SPLIT)
    assert not (tmp_path / "p").exists()


def test_shards_of_two_splits_are_refused(tmp_path):
    train, test = shard(tmp_path / "train-0.tar", range(6)), shard(tmp_path / "test-0.tar", range(6, 9))
    with pytest.raises(
        UserError, match=r"data.test_path: shares 1 shards with the train split, the first .*test-0.tar"
    ):
        data_sets.webdataset(
            "webdataset", str(tmp_path / "*.tar"), 12, "stop", str(tmp_path / "p"), test_path=test, **SPLIT
        )
    assert not (tmp_path / "p").exists()
    apart = data_sets.webdataset("w", train, 12, "stop", str(tmp_path / "p"), test_path=test, val_fraction=0.34)
    assert len(apart.test) == 3


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_single_split_is_trained_on_and_nothing_else(tmp_path, name):
    table(tmp_path / "t" / f"{name}-00000-of-00001.parquet", range(12))
    made = data_sets.hf("hf", str(tmp_path / "t"), 12, "stop", str(tmp_path / "p"), **SPLIT)
    assert len(made.pretrain) == 12 and len(made.val) > 0 and made.test is None and not made.published_val


def test_a_split_that_is_given_twice_is_refused(tmp_path):
    for name, numbers in (("train", range(12)), ("test", range(12, 15))):
        table(tmp_path / "t" / f"{name}-00000-of-00001.parquet", numbers)
    with pytest.raises(UserError, match="data.val_split=test: is the train split, too; give another one"):
        data_sets.hf(
            "hf", str(tmp_path / "t"), 12, "stop", str(tmp_path / "p"), train_split="test", val_split="test", **SPLIT
        )
