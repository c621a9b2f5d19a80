"""One label an image and several."""

import dataclasses

import pytest
import torch

from siamese.data import DataSet, Split
from siamese.data.dataset import check_splits
from siamese.data.images import ImageBatch, TensorImages
from siamese.data.labels import hide, is_known, most_frequent, present, stratified, stratified_several
from siamese.data.loading import Loader
from siamese.errors import UserError

ONE = torch.tensor([0, 2, -1, 2])
SEVERAL = torch.tensor([[1, 0, 0], [0, 0, 1], [255, 255, 255], [1, 0, 1], [0, 0, 0]], dtype=torch.uint8)


def multi_hot(n=400, frequencies=(0.5, 0.2, 0.05, 0.01), unknown=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, len(frequencies), generator=generator) < torch.tensor(frequencies)).to(torch.uint8)
    return hide(labels, torch.rand(n, generator=generator) < unknown)


def split_of(labels):
    return Split(TensorImages(torch.arange(len(labels)).to(torch.uint8).view(-1, 1, 1, 1)), labels)


def test_helpers_on_both_forms():
    assert is_known(ONE).tolist() == [True, True, False, True]
    assert is_known(SEVERAL).tolist() == [True, True, False, True, True]  # no label is known, too
    assert present(ONE).tolist() == present(SEVERAL).tolist() == [0, 2]
    assert most_frequent(ONE) == most_frequent(SEVERAL) == 2
    where = torch.tensor([True, False, False, False])
    assert hide(ONE, where).tolist() == [-1, 2, -1, 2]
    hidden = hide(SEVERAL, torch.tensor([True, False, False, False, False]))
    assert hidden.dtype == torch.uint8 and hidden[0].tolist() == [255] * 3
    assert torch.equal(hidden[1:], SEVERAL[1:])


def test_splits_take_both_forms():
    split = split_of(SEVERAL)
    assert len(split) == 5 and len(split.labelled()) == 4
    assert split.subset(torch.tensor([3, 0])).labels.tolist() == [[1, 0, 1], [1, 0, 0]]
    both = split.concat(split)
    assert both.labels.shape == (10, 3) and both.labels.dtype == torch.uint8


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
def test_every_label_is_on_both_sides(seed, fraction):
    labels = multi_hot(seed=seed)
    mask = stratified(labels, fraction, seed)
    assert torch.equal(mask, stratified(labels, fraction, seed))
    assert not torch.equal(mask, stratified(labels, fraction, seed + 1))
    assert not mask[~is_known(labels)].any()
    for column in (labels == 1).T:
        assert column.sum() >= 2
        assert 1 <= mask[column].sum() < column.sum()
    if fraction > 0.02:  # frequent labels have their share
        for column in (labels == 1).T[:2]:
            assert mask[column].float().mean() == pytest.approx(fraction, abs=0.06)


def test_rare_labels_change_sides_by_hand():
    # Label 1 is on one image: never held out. Label 2 on two: one each. Label 0 on the other ten.
    labels = torch.zeros(13, 3, dtype=torch.uint8)
    labels[:10, 0], labels[10, 1], labels[11:, 2] = 1, 1, 1
    for seed in range(10):
        for fraction in (0.1, 0.9):
            mask = stratified(labels, fraction, seed)
            assert mask[:10].sum() == round(10 * fraction)
            assert not mask[10] and mask[11:].sum() == 1
    # Two images with the same two labels: one each.
    assert stratified(torch.ones(2, 2, dtype=torch.uint8), 0.1, 0).sum() == 1


def test_a_label_is_always_left_to_train_on():
    """Of five rare labels that share images."""
    for seed in range(20):
        labels = multi_hot(30, (0.1, 0.1, 0.1, 0.1, 0.1), 0, seed)
        mask = stratified(labels, 0.3, seed)
        has = labels == 1
        assert (has[~mask].any(0) == has.any(0)).all()


def test_held_out_labels_are_hidden():
    labels = multi_hot()
    data = DataSet("x", split_of(labels), None, list("abcd"), val_fraction=0.2)
    assert data.multilabel and data.labelled and data.num_classes == 4
    known, held = is_known(labels), torch.zeros(len(labels), dtype=torch.bool)
    held[data.val.origin] = True
    assert torch.equal(is_known(data.pretrain.labels), known & ~held)
    assert (data.pretrain.labels[held] == 255).all()
    assert torch.equal(data.val.labels, labels[held])
    assert torch.equal(data.train_labeled.labels, labels[known & ~held])
    assert not set(data.val.origin.tolist()) & set(data.train_labeled.origin.tolist())


def test_a_choice_of_training_images_keeps_every_label():
    labels = multi_hot(400, (0.5, 0.2, 0.03), 0.2)
    labels[7] = torch.tensor([0, 0, 1])
    labels = torch.cat([labels, torch.zeros(400, 1, dtype=torch.uint8).masked_fill(~is_known(labels)[:, None], 255)], 1)
    labels[7, 3] = 1  # the only image of this label
    made = [DataSet("x", split_of(labels), None, list("abcd"), train_images=100, split_seed=s) for s in (0, 0, 1)]
    assert torch.equal(made[0].pretrain.origin, made[1].pretrain.origin)
    assert not torch.equal(made[0].pretrain.origin, made[2].pretrain.origin)
    assert len(made[0].pretrain) == pytest.approx(100, abs=4)
    assert 7 in made[0].train_labeled.origin
    unknown = ~is_known(labels)
    assert unknown[made[0].pretrain.origin].float().mean() == pytest.approx(unknown.float().mean().item(), abs=0.03)


def test_splits_that_do_not_fit():
    train, classes = split_of(torch.tensor([[1, 0, 0], [0, 1, 0]] * 9, dtype=torch.uint8)), ["cat", "dog", "eel"]
    for other, says in (
        (torch.tensor([[0, 0, 1]], dtype=torch.uint8), "the test split has labels that no training image has: eel"),
        (torch.tensor([[0, 0, 0]], dtype=torch.uint8), "no image of the test split has one of the 2 labels"),
        (torch.tensor([1]), r"labels of the test split are \(1,\), of the training split \(18, 3\)"),
    ):
        with pytest.raises(UserError, match=says):
            DataSet("x", train, split_of(other), classes)
    check_splits("x", train, {"test": split_of(torch.full((3, 3), 255, dtype=torch.uint8))}, classes)
    with pytest.raises(UserError, match="data.val_fraction=0.1: holds out no image"):
        DataSet("x", split_of(torch.eye(3, dtype=torch.uint8)), None, classes)


class Broken(TensorImages):
    """Its second image is unreadable."""

    def read(self, indices, threads=1):
        return dataclasses.replace(super().read(indices), unreadable=indices == 1)

    def read_all(self, threads=1):
        return self.read(torch.arange(len(self)))


@pytest.mark.parametrize("resident", [True, False])
def test_an_unreadable_image_has_no_labels(resident):
    split = Split(Broken(torch.zeros(5, 1, 2, 2, dtype=torch.uint8)), SEVERAL)
    loader = Loader(split, 5, shuffle=False, resident=resident)
    ((_, labels, _),) = list(loader)
    assert labels.dtype == torch.uint8
    assert is_known(labels).tolist() == [True, False, False, True, True]
    assert isinstance(split.images.read(torch.arange(2)), ImageBatch)


def test_unknown_images_may_be_a_group():
    labels = multi_hot(unknown=0.5)
    mask = stratified_several(labels, 0.25, 0, unknown=True)
    assert mask[~is_known(labels)].float().mean() == pytest.approx(0.25, abs=0.01)
