"""The packed cache of image files."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from siamese.data import Loader
from siamese.data import packed as packed_module
from siamese.data.packed import Store
from siamese.data.sets import decode, folder
from siamese.errors import Stopped, UserError


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
@pytest.mark.parametrize("which", ["pretrain", "fit", "val"])
def test_packed_images_are_those_of_the_files(classes, tmp_path, resident, which):
    streamed = everything(getattr(data(classes), which), which != "val")
    packed = everything(getattr(data(classes, tmp_path / "p"), which), which != "val", resident)
    assert len(streamed) == len(packed) > 0
    for one, other in zip(streamed, packed, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        torch.testing.assert_close(one[2].float(), other[2])


def test_files_are_decoded_once(classes, tmp_path):
    decoded = []

    def counting(file, size):
        decoded.append(file)
        return decode(file, size)

    def store(size=16):
        files = sorted(classes.rglob("*.jpg"))
        return Store(tmp_path / "p", files, size, "stop", counting)

    assert store().pixels.shape == (20, 3, 16, 16)
    assert len(decoded) == 20
    moved = classes.rename(tmp_path / "moved")
    again = Store(tmp_path / "p", sorted(moved.rglob("*.jpg")), 16, "stop", counting)
    again.pixels.sum()
    assert len(decoded) == 20
    moved.rename(classes)
    store(24).pixels.sum()
    assert len(decoded) == 40  # another size
    os.utime(classes / "a" / "0.jpg", (1, 1))
    store().pixels.sum()
    assert len(decoded) == 60  # a file has changed


def test_a_training_run_is_the_same_and_reads_the_packed_file(session, classes, tmp_path):
    common = ("data=folder", f"data.path={classes}", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small",
              "data.val_fraction=0.2", "data.resident=false", "data.workers=0")  # fmt: skip
    weights = []
    for i, own in enumerate(([], [f"data.packed={tmp_path / 'p'}"])):
        run = session(*common, *own, folder=str(i))
        run.fit()
        weights.append(run.method.state_dict())
    for key, value in weights[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, weights[1][key]), key
    assert "read from" in run.loading.describe(run.train_part)


def test_unreadable_files(classes, tmp_path):
    (classes / "a" / "3.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"3.jpg: cannot be decoded .*data.on_error=skip"):
        everything(data(classes, tmp_path / "p").pretrain)
    assert [f for f in os.listdir(tmp_path / "p") if not f.endswith(".lock")] == []
    part = data(classes, tmp_path / "p", "skip").pretrain
    loader = Loader(part, 5, False, False)
    streamed = Loader(data(classes, None, "skip").pretrain, 5, False, False, workers=0)
    for one, other in zip(loader, streamed, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
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
        m.setattr(packed_module, "track", stop)
        with pytest.raises(KeyboardInterrupt):
            everything(data(classes, tmp_path / "p").pretrain)
    assert [f for f in os.listdir(tmp_path / "p") if not f.endswith(".lock")] == []
    everything(data(classes, tmp_path / "p").pretrain)


def test_a_disk_that_refuses(classes, tmp_path):
    (tmp_path / "p").write_text("a file")
    with pytest.raises(Stopped, match=r"data.packed=.*cannot be written"):
        everything(data(classes, tmp_path / "p").pretrain)


TWO = """
import sys, time
from pathlib import Path
from siamese.data.packed import Store
from siamese.data.sets import decode
def slow(file, size):
    sys.stdout.write("decoded ")  # one write: two threads print
    time.sleep(0.02)
    return decode(file, size)
files = sorted(Path(sys.argv[1]).rglob("*.jpg"))
print(int(Store(Path(sys.argv[2]), files, 16, "stop", slow).pixels.long().sum()))
"""


def test_two_processes_build_it_once(classes, tmp_path):
    command = [sys.executable, "-c", TWO, str(classes), str(tmp_path / "p")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    out = [p.communicate(timeout=60)[0].split() for p in both]
    assert sorted(len(o) for o in out) == [1, 21]  # one has decoded all, the other none
    assert out[0][-1] == out[1][-1]
