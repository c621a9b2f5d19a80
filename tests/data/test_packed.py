"""The packed cache of image files."""

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from siamese.data import Loader
from siamese.data import packed as packed_module
from siamese.data.files import Kind
from siamese.data.items import Files
from siamese.data.packed import PackedFile
from siamese.data.sets import folder
from siamese.errors import UserError


@pytest.fixture
def classes(tmp_path):
    """Two folders of ten images of several shapes."""
    for c in "ab":
        (tmp_path / "photos" / c).mkdir(parents=True)
        for i in range(10):
            pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / c / f"{i}.jpg")
    return tmp_path / "photos"


def data(classes, packed=None, on_error="stop"):
    where = None if packed is None else str(packed)
    return folder("x", str(classes), 16, on_error, packed=where, val_fraction=0.2)


def everything(part, shuffle=True, resident=False):
    loader = Loader(part, 5, shuffle, resident, workers=0, seed=3)
    loader.sampler.set_epoch(1)
    return list(loader)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("which", ["pretrain", "train_labeled", "val"])
def test_packed_images_are_those_of_the_files(classes, tmp_path, resident, which):
    streamed = everything(getattr(data(classes), which), which != "val")
    packed = everything(getattr(data(classes, tmp_path / "p"), which), which != "val", resident)
    assert len(streamed) == len(packed) > 0
    for one, other in zip(streamed, packed, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        torch.testing.assert_close(one[2].float(), other[2])


def test_files_are_decoded_once(classes, tmp_path, monkeypatch):
    decoded, square = [], Kind.square

    def counting(kind, file, size):
        decoded.append(file)
        return square(kind, file, size)

    monkeypatch.setattr(Kind, "square", counting)
    kind = Kind(3, np.dtype(np.uint8), 10**6)

    def store(size=16, folder=classes):
        return PackedFile(tmp_path / "p", Files(sorted(folder.rglob("*.jpg"))), size, kind, "stop")

    assert store().pixels.shape == (20, 3, 16, 16)
    assert len(decoded) == 20
    (tmp_path / "link").symlink_to(classes)
    store(folder=tmp_path / "link").pixels.sum()
    assert len(decoded) == 20  # the same folder by another name
    store(24).pixels.sum()
    assert len(decoded) == 40  # another size
    os.utime(classes / "a" / "0.jpg", (1, 1))
    store().pixels.sum()
    assert len(decoded) == 60  # a file has changed


def test_a_training_run_is_the_same_and_reads_the_packed_file(session, classes, tmp_path):
    common = ("data=folder", f"data.path={classes}", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small",
              "data.val_fraction=0.2", "data.workers=0")  # fmt: skip
    weights = []
    for i, own in enumerate((["data.resident=true"], ["data.resident=false", f"data.packed={tmp_path / 'p'}"])):
        run = session(*common, *own, folder=str(i))
        run.fit()
        weights.append(run.method.state_dict())
    for key, value in weights[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, weights[1][key]), key
    assert "read from" in run.loaders.describe(run.split)


def test_unreadable_files(classes, tmp_path):
    (classes / "a" / "3.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"3.jpg: cannot be decoded .*data.on_error=skip"):
        everything(data(classes, tmp_path / "p").pretrain)
    assert not (tmp_path / "p").exists()
    (tmp_path / "p").mkdir()
    with pytest.raises(UserError, match=r"3.jpg: cannot be decoded"):
        everything(data(classes, tmp_path / "p").pretrain)
    assert os.listdir(tmp_path / "p") == []  # a folder of the user's stays
    part = data(classes, tmp_path / "p", "skip").pretrain
    loader = Loader(part, 5, False, False)
    streamed = Loader(data(classes, None, "skip").pretrain, 5, False, False, workers=0)
    for one, other in zip(loader, streamed, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        torch.testing.assert_close(one[2], other[2].float())
    assert loader.skipped == streamed.skipped == {str(classes / "a" / "3.jpg")}


def test_a_damaged_file(classes, tmp_path):
    everything(data(classes, tmp_path / "p").pretrain)
    (file,) = (tmp_path / "p").rglob("x.npy")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"data.packed=.*is damaged .*delete it"):
        everything(data(classes, tmp_path / "p").pretrain)


def test_an_interrupted_build_leaves_nothing(classes, tmp_path, monkeypatch):
    def stop(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(packed_module, "over", stop)
        with pytest.raises(KeyboardInterrupt):
            everything(data(classes, tmp_path / "p").pretrain)
    assert not (tmp_path / "p").exists()
    everything(data(classes, tmp_path / "p").pretrain)


def replace_contents(file, new):
    """Other pixels at `new`, with the size and time of `file`; both are padded to one size."""
    pixels = np.random.default_rng(99).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    about, old = file.stat(), file.read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg")
    new.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((file, old), (new, buffer.getvalue())):
        path.write_bytes(content.ljust(5000, b"\0"))
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_two_folders_with_equal_names_sizes_and_times(classes, tmp_path):
    """Each has its own images, whatever their files have in common."""
    other = tmp_path / "other"
    for file in classes.rglob("*.jpg"):
        replace_contents(file, other / file.relative_to(classes))
    first, second = (everything(data(where, tmp_path / "p").pretrain) for where in (classes, other))
    plain = everything(data(other).pretrain)
    assert not torch.equal(first[0][0], second[0][0])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(second, plain, strict=True))


def test_files_that_were_replaced_in_secret(classes, tmp_path):
    """The same folder, names, sizes and times, other contents."""
    for file in classes.rglob("*.jpg"):
        replace_contents(file, tmp_path / "other" / file.relative_to(classes))
    before = everything(data(classes, tmp_path / "p").pretrain)
    for file in classes.rglob("*.jpg"):
        shutil.copy2(tmp_path / "other" / file.relative_to(classes), file)
    after = everything(data(classes, tmp_path / "p").pretrain)
    assert not torch.equal(before[0][0], after[0][0])


def test_a_packed_file_of_other_content_is_not_read(classes, tmp_path):
    everything(data(classes, tmp_path / "p").pretrain)
    (file,) = (tmp_path / "p").rglob("x.npy")
    pixels = np.load(file)
    np.save(file, pixels[::-1].copy())
    with pytest.raises(UserError, match=r"is damaged .its content has changed.; delete it"):
        everything(data(classes, tmp_path / "p").pretrain)
    np.save(file, pixels)
    aspect_ratios = np.load(file.with_name("aspects.npy"))
    for wrong in (aspect_ratios * np.nan, -aspect_ratios, aspect_ratios.astype(np.float64), aspect_ratios[:3]):
        np.save(file.with_name("aspects.npy"), wrong)
        with pytest.raises(UserError, match=r"is damaged .*; delete it"):
            everything(data(classes, tmp_path / "p").pretrain)
    np.save(file.with_name("aspects.npy"), aspect_ratios)
    everything(data(classes, tmp_path / "p").pretrain)
    meta = file.with_name("meta.json")
    for text in (
        "",
        "{}",
        "[]",
        '{"errors": {"99": "x"}, "digest": ""}',
        '{"errors": 1, "digest": ""}',
        '{"errors": {"-1": "x"}, "digest": ""}',
    ):
        meta.write_text(text)
        with pytest.raises(UserError, match=r"is damaged .*; delete it"):
            everything(data(classes, tmp_path / "p").pretrain)


def test_a_folder_that_cannot_be_packed_into(classes, tmp_path):
    (tmp_path / "p").write_text("a file")
    with pytest.raises(UserError, match=r"data.packed=.*/p: is a file; give a folder"):
        data(classes, tmp_path / "p")
    with pytest.raises(UserError, match=r"data.packed=/proc/x: cannot be written .*give another folder"):
        everything(data(classes, "/proc/x").pretrain)


TWO = """
import sys, time
from pathlib import Path
import numpy as np
from siamese.data.files import Kind
from siamese.data.items import Files
from siamese.data.packed import PackedFile
square = Kind.square
def slow(kind, file, size):
    sys.stdout.write("decoded ")  # one write: two threads print
    time.sleep(0.02)
    return square(kind, file, size)
Kind.square = slow
files = Files(sorted(Path(sys.argv[1]).rglob("*.jpg")))
kind = Kind(3, np.dtype(np.uint8), 10**6)
print(int(PackedFile(Path(sys.argv[2]), files, 16, kind, "stop").pixels.long().sum()))
"""


def test_two_processes_build_it_once(classes, tmp_path):
    command = [sys.executable, "-c", TWO, str(classes), str(tmp_path / "p")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    out = [p.communicate(timeout=60)[0].split() for p in both]
    assert sorted(len(o) for o in out) == [1, 21]  # one has decoded all, the other none
    assert out[0][-1] == out[1][-1]


def test_packed_files_are_the_groups_as_other_folders_are(classes, tmp_path):
    before = os.umask(0o027)
    try:
        everything(data(classes, tmp_path / "p").pretrain)
    finally:
        os.umask(before)
    folders = [file.parent for file in (tmp_path / "p").rglob("x.npy")]
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o750] * len(folders) != []
