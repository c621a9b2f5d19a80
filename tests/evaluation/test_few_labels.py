"""Choices of few labels, and folds of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from siamese.data import DataSet, Split
from siamese.data.files import ImageFiles, Kind
from siamese.errors import UserError
from siamese.evaluation.few_labels import few, folds, listed

KIND = Kind(3, np.dtype(np.uint8), 10**6)


def test_few_labels_are_stratified_and_seeded():
    labels = torch.tensor([0] * 50 + [1] * 100 + [2] * 7 + [-1] * 20)
    chosen = few(labels, 0.1, 0)
    assert labels[chosen].bincount().tolist() == [5, 10, 1]
    assert torch.equal(chosen, few(labels, 0.1, 0))
    assert not torch.equal(chosen, few(labels, 0.1, 1))
    assert labels[few(labels, 0.001, 0)].tolist() == [0, 1, 2]  # at least one per class


def test_folds_are_equal_in_size_and_spread_each_class():
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] + [3] * 2)
    fold = folds(labels, 5, 0)
    assert fold[15] == -1  # the only one of its class always trains
    assert sorted(fold[fold >= 0].bincount().tolist()) == [3, 3, 3, 4, 4]
    assert fold[16] != fold[17]
    assert fold[:10].bincount().tolist() == [2] * 5
    assert fold[10:15].bincount().tolist() == [1] * 5


def test_listed_images_are_found_by_file_name_or_number(tmp_path):
    files = [Path(f"/data/n0{i % 2}/n0{i % 2}_{i}.JPEG") for i in range(6)]
    (tmp_path / "1percent.txt").write_text("n00_4.JPEG\nn01_1.JPEG\n")
    assert listed(tmp_path / "1percent.txt", Split(ImageFiles(files, 8, KIND), torch.arange(6) % 2)).tolist() == [1, 4]
    (tmp_path / "index.txt").write_text("5\n2\n")
    assert listed(tmp_path / "index.txt", Split(torch.zeros(6, 3, 1, 1), torch.arange(6))).tolist() == [2, 5]
    with pytest.raises(UserError, match="names 1 of 2 images that are not in the training split: n01_1"):
        listed(tmp_path / "1percent.txt", Split(ImageFiles(files[2:], 8, KIND), torch.zeros(4)))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary.txt: is not text"):
        listed(tmp_path / "binary.txt", Split(ImageFiles(files, 8, KIND), torch.zeros(6)))
    with pytest.raises(UserError, match=r"eval.lowshot.lists=nowhere.txt: is not a file"):
        listed("nowhere.txt", Split(ImageFiles(files, 8, KIND), torch.zeros(6)))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match=r"empty.txt: is empty"):
        listed(tmp_path / "empty.txt", Split(ImageFiles(files, 8, KIND), torch.zeros(6)))


def test_listed_numbers_follow_the_published_order(tmp_path):
    """Whatever was held out, and in whatever order the splits are put together again."""
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 1, 1)
    (tmp_path / "list.txt").write_text("3\n17\n39\n")
    data = DataSet("x", Split(images, torch.arange(40) % 4), None, ["a", "b", "c", "d"], val_fraction=0.5, split_seed=1)
    part = data.train_labeled.concat(data.val)
    assert not torch.equal(part.images.pixels, images)
    assert part.images.pixels[listed(tmp_path / "list.txt", part), 0, 0, 0].sort().values.tolist() == [3, 17, 39]
    apart = DataSet("x", Split(images[:30], torch.zeros(30)), None, ["a"], val=Split(images[30:], torch.zeros(10)))
    part = apart.train_labeled.concat(apart.val)
    assert part.images.pixels[listed(tmp_path / "list.txt", part), 0, 0, 0].tolist() == [3, 17, 39]


def test_listed_name_of_several_files_needs_its_folder(tmp_path):
    part = Split(ImageFiles([Path(f"/data/{c}/{i} x.png") for c in "ab" for i in range(3)], 8, KIND), torch.zeros(6))
    (tmp_path / "list.txt").write_text("a/2 x.png\nb/0 x.png\n")
    assert listed(tmp_path / "list.txt", part).tolist() == [2, 3]
    (tmp_path / "list.txt").write_text("2 x.png\n")
    with pytest.raises(UserError, match=r"list.txt: 2 x.png is the name of several images; name the folder too"):
        listed(tmp_path / "list.txt", part)
    (tmp_path / "list.txt").write_text("c/2 x.png\n")
    with pytest.raises(UserError, match=r"names 1 of 1 images .*: c/2 x.png"):
        listed(tmp_path / "list.txt", part)
