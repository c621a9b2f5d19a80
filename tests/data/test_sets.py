import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from split_cases import SPLIT

from siamese import factory
from siamese.data import Loader
from siamese.data import sets as data_sets
from siamese.data.dataset import stratified
from siamese.data.npz import channels_first
from siamese.errors import UserError


@pytest.mark.parametrize("shape", [(5, 8, 9), (5, 1, 8, 9), (5, 8, 9, 1), (5, 8, 9, 3), (5, 3, 8, 9)])
def test_every_layout_has_its_channels_first(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    x = channels_first(images, already=shape[1] in (1, 3))
    assert x.shape == (5, 3 if 3 in shape else 1, 8, 9)
    assert x.dtype == torch.uint8 and x.is_contiguous()
    expected = images[:, None] if images.ndim == 3 else images if shape[1] in (1, 3) else np.moveaxis(images, 3, 1)
    np.testing.assert_array_equal(x, expected)


def test_digits_are_scikit_learns(config):
    from sklearn.datasets import load_digits

    data = factory.data_set(config())
    reference = load_digits()
    mask = stratified(torch.tensor(reference.target), 0.2, 0)
    for part, chosen in ((data.pretrain, ~mask), (data.test, mask)):
        pixels = reference.images[chosen.numpy()] * (255 / 16)
        np.testing.assert_allclose(part.images.pixels[:, 0], pixels, atol=0.5)
        assert part.images.channels == 1  # repeated by the views
    np.testing.assert_array_equal(data.test.labels, reference.target[mask.numpy()])
    assert (len(data.pretrain), len(data.test)) == (1438, 359)
    assert set(torch.bincount(data.test.labels).tolist()) <= {35, 36, 37}
    again = factory.data_set(config("seed=7"))
    assert torch.equal(again.test.images.pixels, data.test.images.pixels)  # the split does not depend on the run's seed


def test_npz_in_medmnists_layout(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "x.npz"
    arrays = {
        f"{p}_images": rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        for p, n in (("train", 30), ("val", 6), ("test", 8))
    }
    arrays |= {f"{p}_labels": np.arange(n)[:, None] % 3 for p, n in (("train", 30), ("val", 6), ("test", 8))}
    np.savez(file, **arrays)
    data = data_sets.npz("npz", str(file), **SPLIT)
    assert (len(data.pretrain), len(data.val), len(data.test)) == (30, 6, 8)
    assert data.num_classes == 3
    np.testing.assert_array_equal(data.pretrain.images.pixels[:, 0], arrays["train_images"])
    np.savez(file, train_images=arrays["train_images"])
    bare = data_sets.npz("npz", str(file), **SPLIT)
    assert not bare.labelled
    assert bare.test is None


@pytest.mark.parametrize(
    "arrays",
    [{"images": np.zeros((2, 8, 8), np.uint8)}, {"train_images": np.zeros((2, 8, 8), np.int32)},
     {"train_images": np.zeros((2, 8, 8), np.uint8), "train_labels": np.zeros(3)},
     {"train_images": np.zeros((0, 8, 8), np.uint8)}, {"train_images": np.zeros((2, 0, 8), np.uint8)},
     {"train_images": np.zeros((2, 8, 8, 33), np.uint8)}, {"train_images": np.zeros((2, 8, 8, 0), np.uint8)},
     {"train_images": np.full((2, 8, 8), np.nan)}, {"train_images": np.full((2, 8, 8), 1e300)},
     {"train_images": np.zeros((2, 8, 8), bool)}, {"train_images": np.zeros((8, 8), np.uint8)}],
)  # fmt: skip
def test_npz_that_is_not_in_that_layout(tmp_path, arrays):
    file = tmp_path / "x.npz"
    np.savez(file, **arrays)
    with pytest.raises(UserError, match="data.path="):
        data_sets.npz("npz", str(file), **SPLIT)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_npz_that_is_no_file(tmp_path, make):
    make(tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"^data.path=.*x.npz: is no file; give a .npz or .npy file"):
        data_sets.npz("npz", str(tmp_path / "x.npz"), **SPLIT)


IMAGES = np.zeros((6, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([0, 1, 0, 1, 10**9, 0]), r"train_labels\[4\] is 1000000000; labels are whole numbers from -1"),
        (np.array([0, 1, 0, 1, 10**6, 0]), r"train_labels\[4\] is 1000000"),
        (np.array([0, 1, np.nan, 1, 1, 0]), r"train_labels\[2\] is nan"),
        (np.array([0, 0.7, 0, 1, 1, 0]), r"train_labels\[1\] is 0.7"),
        (np.array([0, np.inf, 0, 1, 1, 0]), r"train_labels\[1\] is inf"),
        (np.array([0, 1, 2**63 + 5, 1, 1, 0], np.uint64), r"train_labels\[2\] is 9223372036854775813"),
        (np.array([0, 1, -2, 1, 1, 0]), r"train_labels\[2\] is -2"),
        (np.array(list("abcabc")), "train_labels holds <U1; store whole numbers"),
        (np.array([1j] * 6), "train_labels holds complex128"),
        (np.zeros((6, 2), np.int64), "6 train_images but 12 train_labels"),
    ],
)
def test_labels_are_whole_numbers(tmp_path, labels, says):
    np.savez(tmp_path / "x.npz", train_images=IMAGES, train_labels=labels)
    with pytest.raises(UserError, match=says):
        data_sets.npz("npz", str(tmp_path / "x.npz"), **SPLIT)


def test_gaps_in_the_labels_are_said_and_are_no_classes(tmp_path):
    labels = np.array([7.0, 2, 7, 2, 500_000, 500_000, -1] * 10)
    images = np.zeros((70, 8, 8), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    data = data_sets.npz("npz", str(tmp_path / "x.npz"), **SPLIT)
    assert data.classes == ["2", "7", "500000"]
    assert data.test.labels[:6].tolist() == [1, 0, 1, 0, 2, 2]
    assert data.notes == ("499998 labels below 500000 have no training image and are no class: 0, 1, 3, 4, 5, …",)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels == 7)
    assert data_sets.npz("npz", str(tmp_path / "x.npz"), **SPLIT).notes == ()


@pytest.mark.parametrize("part", ["val", "test"])
def test_splits_of_other_sizes_or_labels_are_refused(tmp_path, part):
    train = dict(train_images=np.zeros((40, 8, 8), np.uint8), train_labels=np.arange(40) % 2)

    def load(images, labels):
        np.savez(tmp_path / "x.npz", **train, **{f"{part}_images": images, f"{part}_labels": labels})
        return data_sets.npz("npz", str(tmp_path / "x.npz"), **SPLIT)

    load(IMAGES, np.arange(6) % 2)
    name = {"val": "validation", "test": "test"}[part]
    says = rf"data=npz: images of the {name} split are \(1, 9, 8\) torch.uint8, of the training split \(1, 8, 8\)"
    with pytest.raises(UserError, match=says):
        load(np.zeros((6, 9, 8), np.uint8), np.arange(6) % 2)
    with pytest.raises(UserError, match=f"data=npz: the {name} split has labels that no training image has: 2, 3"):
        load(IMAGES, np.array([0, 1, 2, 3, 0, 1]))


def test_three_rows_are_no_channels(tmp_path):
    """(N, 3, W, 3) is N images of three rows, as MedMNIST's layout has it."""
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images)
    data = data_sets.npz("npz", str(tmp_path / "x.npz"), **SPLIT)
    np.testing.assert_array_equal(data.pretrain.images.pixels, images.transpose(0, 3, 1, 2))


def test_a_stray_image_beside_class_folders(photos):
    Image.new("RGB", (8, 8)).save(photos / "stray.png")
    with pytest.raises(UserError, match="holds 1 images and folders of images"):
        data_sets.folder("folder", str(photos), 16, "stop", **SPLIT)


@pytest.mark.parametrize("content", ["hello", ""])
def test_npz_that_is_no_npz(tmp_path, content):
    file = tmp_path / "x.npz"
    file.write_text(content)
    with pytest.raises(UserError, match="not a readable"):
        data_sets.npz("npz", str(file), **SPLIT)


def test_class_folders(photos):
    data = data_sets.folder("folder", str(photos), 16, "stop", **{**SPLIT, "val_fraction": 0.34})
    assert data.classes == ["ant", "bee", "cat"]
    assert (len(data.pretrain), len(data.train_labeled), len(data.val)) == (18, 12, 6)
    images, labels, aspect_ratios = next(iter(Loader(data.train_labeled, 12, shuffle=False, resident=True)))
    assert torch.equal(images[:, 1, 0, 0], (100 * labels).to(torch.uint8))
    assert aspect_ratios[0] == pytest.approx(40 / 30)


def test_a_flat_folder_has_no_labels(photos):
    data = data_sets.folder("folder", str(photos / "ant"), 16, "stop", **SPLIT)
    assert not data.labelled
    assert data.num_classes == 0
    assert len(data.pretrain) == 6


def test_train_and_test_folders(photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("both")
    (root / "train").symlink_to(photos)
    shutil.copytree(photos, root / "test")
    data = data_sets.folder("folder", str(root), 16, "stop", **SPLIT)
    assert len(data.test) == 18
    shutil.copytree(photos, root / "val")
    net = data_sets.imagenet("imagenet", str(root), 16, "stop", **SPLIT)
    assert len(net.test) == 18  # ImageNet's validation images are the test split


@pytest.mark.parametrize("what", ["missing", "empty", "unreadable", "null"])
def test_paths_that_hold_no_image(tmp_path, what):
    path = tmp_path / "p"
    if what != "missing":
        path.mkdir()
    if what == "unreadable":
        (path / "a.jpg").write_text("no image")
    with pytest.raises(UserError, match="data.path="):
        data_sets.folder("folder", None if what == "null" else str(path), 16, "stop", **SPLIT)
