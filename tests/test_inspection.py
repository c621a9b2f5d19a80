"""mode=check tells what the images are and writes nothing; mode=preview writes views.png only."""

import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from siamese import inspection, training
from siamese.data.survey import Survey
from siamese.errors import UserError
from siamese.evaluation.evaluator import seen_before
from siamese.training.report import enlarged

SMALL = ("data=folder", "data.path=images", "backbone=small", "backbone.widths=[4,8]", "data.crop=16", "batch_size=4",
         "data.size=20", "data.workers=0", "trainer=cpu")  # fmt: skip


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A training split of 64 images, of which 3.png and copy.png are equal, and a test split with 2.png."""
    monkeypatch.chdir(tmp_path)
    for part, count in (("train", 63), ("test", 4)):
        for name in ("ant", "bee"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(count // 2 + (name == "ant")):
                seed = [i, name == "ant", part == "train"]
                pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    shutil.copy("images/train/ant/3.png", "images/train/ant/copy.png")
    shutil.copy("images/train/ant/2.png", "images/test/bee/same.png")
    (tmp_path / "images" / "train" / "Thumbs.db").touch()
    return tmp_path


def files_below(folder):
    return sorted(os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)


def test_check_tells_what_is_there_and_writes_nothing(images, config, capsys):
    before = files_below(images)
    inspection.check(config(*SMALL))
    out = capsys.readouterr().out
    assert re.search(r"train: 64 images", out) and re.search(r"PNG +│ RGB +│ +3 │ uint8 │ +64", out)
    assert "left out: 1 Thumbs.db" in out
    assert "duplicates: 1 training images equal another one: images/train/ant/3.png = images/train/ant/copy.png" in out
    assert "duplicates: 1 test images are training images: images/test/bee/same.png = images/train/ant/2.png" in out
    assert "sizes (height x width): 20 x 30; longest sides are up to 1.5 times" in out
    assert "packed or resident: 7.68e-05 GB for 64 images of 20 x 20 pixels" in out  # 64 * 3 * 400 bytes
    assert "55% of the crops are enlarged to 16" in out  # (16 * 16 / 400 - 0.2) / 0.8
    assert re.search(r"time: \S+ s a step, \S+ images/s on cpu, .* 100 epochs of 16 steps would take .*10 steps", out)
    assert files_below(images) == before


def test_check_prints_what_it_knows_before_it_stops(images, config, capsys):
    (images / "images" / "train" / "bee" / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="0.png: cannot be decoded .is no image of a known format"):
        inspection.check(config(*SMALL))
    out = capsys.readouterr().out
    assert "unreadable: 1, is no image of a known format" in out and "train: 64 images" in out
    np.save(images / "images" / "train" / "bee" / "0.npy", np.zeros((40, 50, 5), np.float32))
    with pytest.raises(UserError, match="holds images of several kinds; of 64 .* 1 are float32 of 5 channels"):
        inspection.check(config(*SMALL))
    out = capsys.readouterr().out
    assert re.search(r"NPY.*float32", out) and "constant: 1" in out


def test_the_time_follows_from_the_steps(images, config, monkeypatch):
    t = training.build(training.check(config(*SMALL, "epochs=1000")))
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    told = inspection.duration(t.plan, t)
    seconds = float(re.search(r"time: (\S+) s a step", told).group(1))
    hours = float(re.search(r"would take (\S+) hours", told).group(1))
    assert hours == pytest.approx(seconds * 16 * 1000 / 3600, rel=0.01)
    few = training.build(training.check(config(*SMALL, "batch_size=32")))
    assert inspection.duration(few.plan, few) == "time: not measured, an epoch has 2 steps"


def test_preview_writes_the_picture_only(images, config, capsys):
    before = files_below(images)
    inspection.preview(config(*SMALL, "run_dir=out"))
    (new,) = set(files_below(images)) - set(before)
    assert new == str(images / "out" / "views.png")
    with Image.open(new) as picture:
        assert picture.width > 300
    assert "views: out/views.png" in capsys.readouterr().out


def test_preview_and_runs_do_not_overwrite_each_other(images, config):
    inspection.preview(config(*SMALL, "run_dir=out"))
    for again in (inspection.preview, training.check):
        with pytest.raises(UserError, match="^run_dir=out: already holds a run; add overwrite=true"):
            again(config(*SMALL, "run_dir=out"))
    training.check(config(*SMALL, "run_dir=out", "overwrite=true"))
    with pytest.raises(UserError, match="^mode=preview resume=true: exclude each other"):
        inspection.preview(config(*SMALL, "run_dir=out", "resume=true"))


def test_check_packs_nothing(images, config, capsys):
    before = files_below(images)
    inspection.check(config(*SMALL, "data.packed=packed"))
    assert files_below(images) == before
    out = capsys.readouterr().out
    assert "packed or resident: 7.68e-05 GB" in out and "not packed yet" in out and "time: " not in out
    training.build(training.check(config(*SMALL, "data.packed=packed")))
    inspection.check(config(*SMALL, "data.packed=packed"))
    assert "time: " in capsys.readouterr().out


def test_data_sets_without_files_are_checked_too(config, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inspection.check(config("backbone.widths=[4,8]", "monitor.every=0"))
    out = capsys.readouterr().out
    assert "duplicates: 0 test images are training images" in out and "time: " in out
    assert os.listdir(tmp_path) == []


def test_the_share_of_enlarged_crops():
    assert enlarged(256, 224, (0.2, 1.0)) == pytest.approx((0.765625 - 0.2) / 0.8)
    assert enlarged(500, 224, (0.5, 1.0)) == 0
    assert enlarged(100, 224, (0.08, 1.0)) == 1
    assert (enlarged(256, 224, (0.7, 0.7)), enlarged(256, 224, (0.8, 0.8))) == (1, 0)


def test_the_evaluation_names_test_images_that_were_trained_on(images, config):
    from siamese import factory

    data = factory.data_set(config(*SMALL))
    (line,) = seen_before(data)
    assert line == "1 of 6 test images are training images, too: images/test/bee/same.png = images/train/ant/2.png"
    (images / "images" / "test" / "bee" / "same.png").unlink()
    assert seen_before(factory.data_set(config(*SMALL))) == []


def test_sizes_of_one_image():
    assert Survey(1, 1, sizes=[(3, 4)]).size_range() == "3 x 4"
