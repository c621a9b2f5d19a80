import pytest
import torch
from split_cases import SPLIT, part

from siamese.data import DataSet, Split
from siamese.data.dataset import stratified
from siamese.errors import UserError


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
    assert len(data.train_labeled) == 92
    assert (data.val.labels >= 0).all()
    assert (data.train_labeled.labels >= 0).all()


def test_published_validation_split_is_used_as_it_is():
    val = part(20)
    data = DataSet("x", part(), None, ["a"] * 4, val=val, **SPLIT)
    assert data.val.images is val.images
    assert data.val.labels is val.labels
    assert len(data.train_labeled) == len(data.pretrain) == 100


def test_unlabelled_samples_pretrain_only():
    p = part()
    p.labels[::2] = -1
    data = DataSet("x", p, None, ["a"] * 4, **SPLIT)
    assert len(data.pretrain) == 100
    assert len(data.train_labeled) + len(data.val) == 50


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
    with pytest.raises(UserError, match="data.train_images=2: stratified by class, 4 of 4 classes get no image"):
        DataSet("x", part(), None, list("abcd"), train_images=2)


def test_a_choice_of_training_images():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    part = Split(torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1, 1), labels)
    made = [DataSet("x", part, part, list("abc"), split_seed=s, train_images=50) for s in (0, 0, 1)]
    assert made[0].pretrain.labels.shape == (50,)
    assert torch.cat([made[0].train_labeled.labels, made[0].val.labels]).bincount().tolist() == [30, 15, 5]
    assert torch.equal(made[0].pretrain.images.pixels, made[1].pretrain.images.pixels)
    assert not torch.equal(made[0].pretrain.images.pixels, made[2].pretrain.images.pixels)
    assert len(made[0].test) == 100
    unlabelled = Split(part.images, torch.full((100,), -1))
    assert len(DataSet("x", unlabelled, None, [], train_images=50).pretrain) == 50
    some = Split(part.images, torch.tensor([0] * 10 + [1] * 10 + [-1] * 80))
    chosen = DataSet("x", some, None, list("ab"), train_images=50, val_fraction=None).pretrain.labels
    assert (chosen + 1).bincount().tolist() == [40, 5, 5]  # the unlabelled ones are no part of a class
    with pytest.raises(UserError, match="data.train_images=101"):
        DataSet("x", part, part, list("abc"), train_images=101)
