"""Labels of containers, and classes that splits share."""

import hashlib
import os

import pytest
import torch

from siamese.data.containers.source import ClassLabels, Source, share_classes
from siamese.errors import UserError


class Listed(Source):
    def __init__(self, classes, labels, files=(), selection=""):
        self.classes, self.labels = classes, torch.tensor(labels)
        self.files, self.setting, self.selection = list(files), "data.path=x", selection

    def __len__(self):
        return len(self.labels)

    def read(self, index):
        return b""

    def name(self, index):
        return str(index)


def collected(values, names=None):
    labels = ClassLabels(names)
    labels.extend(values)
    classes, numbers = labels.finish()
    assert numbers.dtype == torch.int64
    return classes, numbers.tolist()


@pytest.mark.parametrize(
    ("values", "classes", "numbers"),
    [
        ([7, 2, None, 10, -1, 2], ["2", "7", "10"], [1, 0, -1, 2, -1, 0]),
        (["b", "10", "9", None, "b"], ["10", "9", "b"], [2, 0, 1, -1, 2]),
        ([None, -1], [], [-1, -1]),
        ([], [], []),
    ],
)
def test_values_become_classes(values, classes, numbers):
    assert collected(values) == (classes, numbers)


def test_names_of_classes_are_kept():
    assert collected([2, 0, None, -1], ["c", "a", "b"]) == (["c", "a", "b"], [2, 0, -1, -1])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1, 2.5], "'2.5' of type float"), ([1, True], "of type bool"), ([1, [2]], "of type list"),
        (["a", ""], "neither"), ([1, "a"], "'a' is of type str, the labels before it int"),
        (["a", -1], "is of type int"), ([1, -2], "below -1"),
    ],
)  # fmt: skip
def test_other_values_are_refused(values, says):
    labels = ClassLabels()
    with pytest.raises(ValueError, match=says):
        labels.extend(values)
    assert len(labels) == 1  # tells which one


def test_a_label_without_a_name_is_refused():
    with pytest.raises(ValueError, match="'2' is not below 2"):
        collected([0, 2], ["a", "b"])


def test_splits_share_the_classes_of_training():
    train = Listed(["cat", "dog", "eel"], [0, 1, 2])
    val = Listed(["eel", "cat", "cow"], [0, 1, -1, 0])  # no image of a cow
    test = Listed([], [-1, -1])
    share_classes(train, {"validation": val, "test": test})
    assert val.classes == test.classes == train.classes
    assert val.labels.tolist() == [2, 0, -1, 2]
    assert test.labels.tolist() == [-1, -1]


@pytest.mark.parametrize("classes", [["cat", "dog"], []])
def test_unknown_classes_are_refused(classes):
    other = Listed(["cat", "cow"], [0, 1, 1])
    says = f"of the 2 classes of the test split are not among the {len(classes)} of the training split: .*cow"
    with pytest.raises(UserError, match=says):
        share_classes(Listed(classes, [0, -1]), {"test": other})
    assert other.classes == ["cat", "cow"]


def test_the_digest_tells_contents(tmp_path):
    def digest(files, selection="a"):
        out = hashlib.sha256()
        Listed([], [-1], files, selection).update_digest(out)
        return out.hexdigest()

    files = [tmp_path / "1", tmp_path / "2"]
    for file in files:
        file.write_bytes(bytes(1000))
        os.utime(file, (1, 1))
    before = digest(files)
    assert digest(files) == before
    assert digest(files, "b") != before
    assert digest(files[:1]) != before
    files[1].write_bytes(bytes(999) + b"1")
    assert digest(files) != before
    os.utime(files[1], (1, 1))
    assert digest(files) != before  # by its bytes alone
    files[1].write_bytes(bytes(1000))
    os.utime(files[1], (1, 1))
    assert digest(files) == before
    os.utime(files[1], (2, 2))
    assert digest(files) != before
