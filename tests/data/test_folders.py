"""Splits of folders that share images or are no folders; digests of files."""

import shutil

import numpy as np
import pytest
from PIL import Image

from siamese.data import sets as data_sets
from siamese.errors import UserError

SPLIT = dict(val_fraction=0.34, split_seed=0)


def picture(seed=0, size=(20, 30)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path):
    """Two classes of three images."""
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            picture(i).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("given", ["photos", "photos/", "photos/../photos", "link", "photos/ant/.."])
def test_test_split_inside_training_folder_is_refused(photos, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(photos)
    with pytest.raises(UserError, match=f"^data.test_path={given}: shares its images with the training split"):
        data_sets.folder("folder", "photos", 16, "stop", test_path=given, **SPLIT)


def test_a_test_part_within_the_training_part(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "other")
    shutil.move(tmp_path / "other", photos / "ant" / "inner")
    with pytest.raises(UserError, match="shares its images"):
        data_sets.folder("folder", str(photos), 16, "stop", test_path=str(photos / "ant" / "inner"), **SPLIT)
    good = data_sets.folder("folder", str(photos / "ant" / "inner"), 16, "stop", **SPLIT)
    assert len(good.pretrain) == 6


def test_test_images_that_are_links_to_training_images(photos, tmp_path):
    """Parts made of links are common; those that share an image are refused, whatever both are links to."""
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / "links" / part / name).mkdir(parents=True)
            for i in (0, 1) if part == "train" else (2,):
                (tmp_path / "links" / part / name / f"{i}.png").symlink_to(photos / name / f"{i}.png")
    made = data_sets.folder("folder", str(tmp_path / "links"), 16, "stop", val_fraction=0.5)
    assert len(made.test) == 2
    (tmp_path / "links" / "test" / "ant" / "x.png").symlink_to(photos / "ant" / "0.png")
    with pytest.raises(UserError, match=r"^data.path=.*/x.png: is a training image too, and so are 0 others"):
        data_sets.folder("folder", str(tmp_path / "links"), 16, "stop", val_fraction=0.5)


def test_a_test_path_that_is_a_file_or_empty(photos, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, says in (("file", "is not a folder"), ("empty", "has 0 classes"), ("nowhere", "does not exist")):
        with pytest.raises(UserError, match=says):
            data_sets.folder("folder", str(photos), 16, "stop", test_path=str(tmp_path / name), **SPLIT)


@pytest.mark.parametrize(
    ("labels", "told"), [("none", True), ("parts.csv", False), ("some.csv", True), ("folders", False)]
)
def test_folders_called_as_other_splits_are_trained_on_and_said(tmp_path, labels, told):
    for i, part in enumerate(("train", "train", "test", "test")):
        (tmp_path / "set" / part / "a").mkdir(parents=True, exist_ok=True)
        picture(i).save(tmp_path / "set" / part / "a" / f"{i}.png")
    rows = [f"{part}/a/{i}.png,,{part}" for i, part in enumerate(("train", "train", "test", "test"))]
    (tmp_path / "parts.csv").write_text("\n".join(rows))
    (tmp_path / "some.csv").write_text("\n".join(rows[:3]))  # a file without a row is in train
    given = str(tmp_path / labels) if labels.endswith("csv") else labels
    notes = data_sets.folder("folder", str(tmp_path / "set"), 16, "stop", labels=given, **SPLIT).notes
    assert any(f"images of {tmp_path / 'set' / 'test'} are trained on, too" in note for note in notes) is told


@pytest.mark.parametrize("how", ["folder", "training side", "csv"])
def test_splits_that_share_images_by_any_link_are_refused(tmp_path, how):
    root, labels = tmp_path / "set", "folders"
    for i, place in enumerate(("train/a", "train/b", "val/a", "val/b")):
        (root / place).mkdir(parents=True)
        picture(i).save(root / place / "0.png")
        picture(i + 10).save(root / place / "1.png")
    if how == "folder":
        shutil.rmtree(root / "val" / "b")
        (root / "val" / "b").symlink_to(root / "train" / "b")
    elif how == "training side":
        (root / "train" / "a" / "2.png").symlink_to(root / "val" / "a" / "0.png")
    else:
        labels = str(tmp_path / "rows.csv")
        (tmp_path / "rows.csv").write_text("train/a/0.png,x,train\ntrain/b/0.png,y,train\nval/a/0.png,x,test\n")
        (root / "train" / "a" / "2.png").symlink_to(root / "val" / "a" / "0.png")
    with pytest.raises(UserError, match="is a training image too"):
        data_sets.folder("folder", str(root), 16, "stop", labels=labels, **SPLIT)
