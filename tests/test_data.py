import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from siamese.data import DataSet, Loader, Part, choose_residence, loading
from siamese.data import sets as data_sets
from siamese.data.dataset import stratified
from siamese.data.images import decode
from siamese.data.loading import Files
from siamese.errors import UserError

SPLIT = dict(val_fraction=0.1, split_seed=0)


def part(n=100, classes=4, size=8):
    labels = torch.arange(n) % classes
    images = labels.view(-1, 1, 1, 1).expand(n, 3, size, size).to(torch.uint8).contiguous()
    return Part(images, labels)


@pytest.fixture
def photos(tmp_path):
    """A class-per-folder tree of 3 x 6 images; green's value tells the class."""
    for label, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.new("RGB", (40 + 4 * i, 30), (10 * i, 100 * label, 5)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_stratified_is_seeded_and_exact():
    labels = torch.tensor([0] * 100 + [1] * 50 + [-1] * 30)
    mask = stratified(labels, 0.1, 0)
    assert (mask[:100].sum(), mask[100:150].sum(), mask[150:].sum()) == (10, 5, 0)
    assert torch.equal(mask, stratified(labels, 0.1, 0))
    assert not torch.equal(mask, stratified(labels, 0.1, 1))


def test_held_out_labels_are_hidden_from_training():
    data = DataSet("x", part(), part(), ["a"] * 4, **SPLIT)
    assert len(data.pretrain) == 100  # the images may be seen, without their labels
    hidden = data.pretrain.labels == -1
    assert hidden.sum() == len(data.val) == 8  # two of 25 of each of four classes
    assert len(data.fit) == 92
    assert (data.val.labels >= 0).all()
    assert (data.fit.labels >= 0).all()


def test_a_published_validation_part_is_used_as_it_is():
    val = part(20)
    data = DataSet("x", part(), None, ["a"] * 4, val=val, **SPLIT)
    assert data.val.images is val.images
    assert data.val.labels is val.labels
    assert len(data.fit) == len(data.pretrain) == 100


def test_unlabelled_samples_pretrain_only():
    p = part()
    p.labels[::2] = -1
    data = DataSet("x", p, None, ["a"] * 4, **SPLIT)
    assert len(data.pretrain) == 100
    assert len(data.fit) + len(data.val) == 50


@pytest.mark.parametrize("shape", [(5, 8, 9), (5, 1, 8, 9), (5, 8, 9, 1), (5, 8, 9, 3), (5, 3, 8, 9)])
def test_every_layout_becomes_three_channels(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    x = data_sets.three_channels(images, channels_first=shape[1] in (1, 3))
    assert x.shape == (5, 3, 8, 9)
    assert x.dtype == torch.uint8


def test_digits_are_scikit_learns(config):
    from sklearn.datasets import load_digits

    from siamese import build

    data = build.data_set(config())
    reference = load_digits()
    mask = stratified(torch.tensor(reference.target), 0.2, 0)
    for part, chosen in ((data.pretrain, ~mask), (data.test, mask)):
        pixels = reference.images[chosen.numpy()] * (255 / 16)
        for channel in range(3):
            np.testing.assert_allclose(part.images[:, channel], pixels, atol=0.5)
    np.testing.assert_array_equal(data.test.labels, reference.target[mask.numpy()])
    assert (len(data.pretrain), len(data.test)) == (1438, 359)
    assert set(torch.bincount(data.test.labels).tolist()) <= {35, 36, 37}
    again = build.data_set(config("seed=7"))
    assert torch.equal(again.test.images, data.test.images)  # the split does not depend on the run's seed


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
    np.testing.assert_array_equal(data.pretrain.images[:, 0], arrays["train_images"])
    np.savez(file, train_images=arrays["train_images"])
    bare = data_sets.npz("npz", str(file), **SPLIT)
    assert not bare.labelled
    assert bare.test is None


@pytest.mark.parametrize(
    "arrays",
    [{"images": np.zeros((2, 8, 8), np.uint8)}, {"train_images": np.zeros((2, 8, 8))},
     {"train_images": np.zeros((2, 8, 8), np.uint8), "train_labels": np.zeros(3)},
     {"train_images": np.zeros((0, 8, 8), np.uint8)}, {"train_images": np.zeros((2, 0, 8), np.uint8)},
     {"train_images": np.zeros((2, 8, 8, 4), np.uint8)}],
)  # fmt: skip
def test_npz_that_is_not_in_that_layout(tmp_path, arrays):
    file = tmp_path / "x.npz"
    np.savez(file, **arrays)
    with pytest.raises(UserError, match="data.path="):
        data_sets.npz("npz", str(file), **SPLIT)


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
def test_parts_must_fit_together(tmp_path, part):
    train = dict(train_images=np.zeros((40, 8, 8), np.uint8), train_labels=np.arange(40) % 2)

    def load(images, labels):
        np.savez(tmp_path / "x.npz", **train, **{f"{part}_images": images, f"{part}_labels": labels})
        return data_sets.npz("npz", str(tmp_path / "x.npz"), **SPLIT)

    load(IMAGES, np.arange(6) % 2)
    name = {"val": "validation", "test": "test"}[part]
    says = rf"data=npz: images of the {name} part are \(3, 9, 8\), of the training part \(3, 8, 8\)"
    with pytest.raises(UserError, match=says):
        load(np.zeros((6, 9, 8), np.uint8), np.arange(6) % 2)
    with pytest.raises(UserError, match=f"data=npz: the {name} part has labels that no training image has: 2, 3"):
        load(IMAGES, np.array([0, 1, 2, 3, 0, 1]))


def test_three_rows_are_no_channels(tmp_path):
    """(N, 3, W, 3) is N images of three rows, as MedMNIST's layout has it."""
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images)
    data = data_sets.npz("npz", str(tmp_path / "x.npz"), **SPLIT)
    np.testing.assert_array_equal(data.pretrain.images, images.transpose(0, 3, 1, 2))


def test_a_validation_part_that_would_be_empty():
    with pytest.raises(UserError, match="data.val_fraction=0.01: holds out no image; the largest class has 25 images"):
        DataSet("x", part(), None, list("abcd"), val_fraction=0.01)
    with pytest.raises(UserError, match=r"data.val_fraction=0.99: leaves no label to train on"):
        DataSet("x", part(), None, list("abcd"), val_fraction=0.99)
    assert len(DataSet("x", part(), None, list("abcd"), val_fraction=0.021).val) == 4
    rare = part()
    rare.labels[rare.labels == 3] = 2
    rare.labels[5] = 3
    with pytest.raises(UserError, match="data.val_fraction=0.7: holds out every image of 1 classes: d; lower it"):
        DataSet("x", rare, None, list("abcd"), val_fraction=0.7)
    with pytest.raises(UserError, match="data.train_images=2: each class alike, 4 of 4 classes get no image"):
        DataSet("x", part(), None, list("abcd"), train_images=2)


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
    assert (len(data.pretrain), len(data.fit), len(data.val)) == (18, 12, 6)
    images, labels, aspects = next(iter(Loader(data.fit, 12, shuffle=False, resident=True)))
    assert torch.equal(images[:, 1, 0, 0], (100 * labels).to(torch.uint8))
    assert aspects[0] == pytest.approx(40 / 30)


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
    assert len(net.test) == 18  # ImageNet's validation images are the test part


@pytest.mark.parametrize("what", ["missing", "empty", "unreadable", "null"])
def test_paths_that_hold_no_image(tmp_path, what):
    path = tmp_path / "p"
    if what != "missing":
        path.mkdir()
    if what == "unreadable":
        (path / "a.jpg").write_text("no image")
    with pytest.raises(UserError, match="data.path="):
        data_sets.folder("folder", None if what == "null" else str(path), 16, "stop", **SPLIT)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_stops_or_is_skipped_and_counted(photos, resident, workers):
    bad = photos / "bee" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    data = data_sets.folder("folder", str(photos), 16, "stop", **SPLIT)
    with pytest.raises(UserError, match=str(bad)):
        list(Loader(data.pretrain, 6, shuffle=False, resident=resident, workers=workers))
    data = data_sets.folder("folder", str(photos), 16, "skip", **SPLIT)
    loader = Loader(data.pretrain, 6, shuffle=False, resident=resident, workers=workers)
    batches = list(loader)
    assert loader.skipped == {str(bad)}
    labels = torch.cat([y for _, y, _ in batches])
    assert len(labels) == 18  # batches keep their size: a neighbour stands in, without a label
    assert labels[8] == -1


def test_decode_squeezes_and_tells_the_aspect(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 200, dtype=np.uint8), (100, 1))
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "a.png")
    image, aspect = decode(tmp_path / "a.png", 50)
    assert image.shape == (3, 50, 50)
    assert image.dtype == torch.uint8
    assert aspect == 2
    assert (image[0, 0].float().diff() > 0).all()  # the whole width is there


def test_resident_and_streamed_give_the_same_batches(photos):
    data = data_sets.folder("folder", str(photos), 16, "stop", **SPLIT)
    both = [Loader(data.pretrain, 4, True, resident, workers=1, seed=3) for resident in (True, False)]
    for epoch in (0, 1):
        for loader in both:
            loader.sampler.set_epoch(epoch)
        for a, b in zip(*both, strict=True):
            for x, y in zip(a, b, strict=True):
                assert torch.equal(x, y)


def test_order_follows_seed_and_epoch_and_drops_the_rest():
    loader = Loader(part(), 32, shuffle=True, resident=True, seed=0)
    assert len(loader) == 3
    first = [y for _, y, _ in loader]
    assert [len(y) for y in first] == [32, 32, 32]
    loader.sampler.set_epoch(1)
    assert not all(torch.equal(a, b[1]) for a, b in zip(first, loader, strict=True))
    loader.sampler.set_epoch(0)
    assert all(torch.equal(a, b[1]) for a, b in zip(first, loader, strict=True))


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_batches_of_all_ranks_are_those_of_one_process(monkeypatch, ranks):
    numbered = Part(torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 2, 2), torch.zeros(100))
    single = list(Loader(numbered, 32, shuffle=True, resident=True, seed=3))
    shares = []
    for r in range(ranks):
        monkeypatch.setattr(loading, "rank", lambda r=r: r)
        monkeypatch.setattr(loading, "world_size", lambda: ranks)
        shares.append(list(Loader(numbered, 32 // ranks, shuffle=True, resident=True, seed=3)))
    assert {len(share) for share in shares} == {len(single)}
    for batch, *parts in zip(single, *shares, strict=True):
        assert torch.equal(batch[0], torch.cat([p[0] for p in parts]))


def test_a_look_at_the_first_batch_leaves_the_next_epoch_whole():
    loader = Loader(part(), 20, shuffle=True, resident=True)
    next(iter(loader))
    assert len(list(loader)) == 5


def test_a_probe_sees_every_image_in_order():
    loader = Loader(part(), 32, shuffle=False, resident=True)
    assert torch.equal(torch.cat([y for _, y, _ in loader]), part().labels)


def test_an_interrupted_epoch_goes_on_where_it_was():
    loader = Loader(part(), 20, shuffle=True, resident=True)
    whole = [y for _, y, _ in loader]
    iterator = iter(loader)
    next(iterator), next(iterator)
    state = loader.state_dict()
    other = Loader(part(), 20, shuffle=True, resident=True)
    other.load_state_dict(state)
    rest = [y for _, y, _ in other]
    assert len(rest) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert len(list(other)) == 5  # the next epoch is whole


def test_residence_is_chosen_by_size_and_can_be_set():
    p = part(100, size=100)  # 3 MB
    assert choose_residence(p, "auto", 3, "cpu")[0]
    assert not choose_residence(p, "auto", 2, "cpu")[0]
    assert choose_residence(p, True, 2, "cpu")[0]
    assert not choose_residence(p, False, 5, "cpu")[0]
    assert "resident on cpu" in choose_residence(p, "auto", 3, "cpu")[1]


def test_files_stay_files_until_a_worker_decodes(photos):
    data = data_sets.folder("folder", str(photos), 16, "stop", **SPLIT)
    image, label, _, error = Files(data.pretrain)[0]
    assert image.dtype == torch.uint8
    assert (label, error) == (int(data.pretrain.labels[0]), "")


def test_a_choice_of_training_images():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    part = Part(torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1, 1), labels)
    made = [DataSet("x", part, part, list("abc"), split_seed=s, train_images=50) for s in (0, 0, 1)]
    assert made[0].pretrain.labels.shape == (50,)
    assert torch.cat([made[0].fit.labels, made[0].val.labels]).bincount().tolist() == [30, 15, 5]
    assert torch.equal(made[0].pretrain.images, made[1].pretrain.images)
    assert not torch.equal(made[0].pretrain.images, made[2].pretrain.images)
    assert len(made[0].test) == 100
    unlabelled = Part(part.images, torch.full((100,), -1))
    assert len(DataSet("x", unlabelled, None, [], train_images=50).pretrain) == 50
    with pytest.raises(UserError, match="data.train_images=101"):
        DataSet("x", part, part, list("abc"), train_images=101)
