"""Files that others may have put there: stored features, results, weights of odd kinds."""

import json
import os

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from siamese.augment import CleanView
from siamese.data import Loader, Part
from siamese.errors import UserError
from siamese.evaluation.compare import compare
from siamese.evaluation.features import FeatureCache
from siamese.foreign import fill


class Net(nn.Module):
    feature_dim = 4

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x):
        return self.linear(x.flatten(1))


@pytest.fixture
def stored(tmp_path):
    """A set of stored features, and how to ask for it."""
    part = Part(torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8), torch.arange(20) % 4)
    network, view = Net(), CleanView(8, 1.0, [0.0] * 3, [1.0] * 3)

    def ask(megabytes=100):
        loader = Loader(part, 5, shuffle=False, resident=True)
        return FeatureCache(tmp_path / "cache", megabytes).features(network, part, loader, view, torch.device("cpu"))

    ask()
    (folder,) = (tmp_path / "cache").iterdir()
    return ask, folder


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": {}}, {"sha256": None}, {"sha256": []}, {"sha256": {"/dev/zero": "x"}}, {"shape": [-1, 4]},
        {"shape": [10, 10**30]}, {"shape": [0, 4]}, {"shape": [2, 2]}, {"shape": "x"}, {"shape": [20, 3]},
        {"dtype": "int8"}, {"dtype": "S4"}, {"network": "another"}, {"part": "another"}, {"view": []}, {"layout": 1},
    ],
    ids=str,
)  # fmt: skip
def test_stored_features_are_those_that_were_asked_for(stored, change):
    ask, folder = stored
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **change}))
    with pytest.raises(UserError, match=r"eval.cache=.*is damaged .*delete it, or set eval.cache=null"):
        ask()


def test_stored_labels_and_files_of_other_kinds(stored):
    ask, folder = stored
    labels, meta = np.load(folder / "y.npy"), (folder / "meta.json").read_text()
    for wrong in (labels[:3], labels.astype(np.float32)):
        np.save(folder / "y.npy", wrong)
        with pytest.raises(UserError, match="is damaged"):
            ask()
    for text in ("", "[]", "3", "[" * 100_000):
        (folder / "meta.json").write_text(text)
        with pytest.raises(UserError, match="is damaged"):
            ask()
    (folder / "meta.json").write_text(meta)
    (folder / "y.npy").unlink()
    os.mkfifo(folder / "y.npy")
    with pytest.raises(UserError, match="is damaged"):
        ask()


@pytest.mark.parametrize("top1", ["x", None, [1], 10**400, float("nan"), -5, 2.0, True])
def test_results_are_figures(tmp_path, top1):
    one = {"schema": 2, "method": "moco", "backbone": "small", "epochs": 3, "data": "digits", "seed": 0,
           "ckpt_sha256": "a", "results": {"digits": {"rows": {"moco": {"knn": {"top1": top1}}}}}}  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(one))
    with pytest.raises(UserError, match="is not one of eval_linear.py"):
        compare([str(tmp_path)], Console())


@pytest.mark.parametrize(
    "change", [{"backbone": "\x1b[31m"}, {"results": 3}, {"seed": "x"}, {"method": "other"}, {"results": {}}]
)
def test_results_have_the_fields_that_are_read(tmp_path, change):
    one = {"schema": 2, "method": "moco", "backbone": "small", "epochs": 3, "data": "digits", "seed": 0,
           "ckpt_sha256": "a", "results": {"digits": {"rows": {"moco": {"knn": {"top1": 0.5}}}}}}  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(one))
    compare([str(tmp_path)], Console())
    (tmp_path / "results.json").write_text(json.dumps({**one, **change}))
    if change == {"results": {}}:
        return  # nothing to show is no harm
    with pytest.raises(UserError, match="is not one of eval_linear.py"):
        compare([str(tmp_path)], Console())


@pytest.mark.parametrize("kind", ["complex", "int8", "sparse", "meta", "half"])
def test_weights_are_plain_numbers(kind):
    net = nn.Linear(3, 2)
    found = {k: v.clone() for k, v in net.state_dict().items()}
    weight = found["weight"]
    found["weight"] = {
        "complex": lambda: weight + 1j, "int8": lambda: weight.to(torch.int8), "sparse": weight.to_sparse,
        "meta": lambda: weight.to("meta"), "half": weight.half,
    }[kind]()  # fmt: skip
    if kind == "half":
        fill("f", "x", net, found)
        return
    with pytest.raises(UserError, match="1 of another type: weight"):
        fill("f", "x", net, found)
