import copy
import json
import os
import platform
import resource
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from siamese import factory
from siamese.augment import CleanView
from siamese.data import Loader, Split
from siamese.errors import RunAborted, UserError
from siamese.evaluation import cache as cache_module
from siamese.evaluation.cache import FeatureCache


class Counted(torch.nn.Module):
    feature_dim = 2

    def __init__(self):
        super().__init__()
        self.linear, self.called = torch.nn.Linear(3, 2), []

    @property
    def calls(self):
        return len(self.called)

    def forward(self, x):
        self.called.append(1)
        return self.linear(x.mean((2, 3)))


@pytest.fixture
def cached(config, tmp_path):
    """Features of 50 images by a cache, and what they are made of."""
    cfg = config()
    data = factory.data_set(cfg)
    part = data.train_labeled.subset(torch.arange(50))
    view, device = factory.clean_view(cfg), torch.device("cpu")
    network = Counted()

    def make(megabytes=100.0, part=part, network=network, view=view):
        loader = factory.loader_config(cfg, device, data).loader(part, 16, shuffle=False)
        return FeatureCache(tmp_path / "cache", megabytes).features(network, part, loader, view, device)

    return make, network, part, view


def test_features_are_found_again(cached, tmp_path):
    make, network, part, view = cached
    first, calls = make(), network.calls
    second = make()
    assert network.calls == calls > 0
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, part.labels)
    changed = copy.deepcopy(view)
    changed.mean += 0.1
    make(view=changed)
    assert network.calls == 2 * calls
    other = part.subset(torch.arange(50))
    other.images.pixels[0, 0, 0, 0] += 1
    make(part=other)
    assert network.calls == 3 * calls
    with torch.no_grad():
        network.linear.bias += 1
    make()
    assert network.calls == 4 * calls
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_large_features_stay_in_their_file(cached):
    make, _, part, _ = cached
    small, large = make(), make(megabytes=0)
    assert small.x.dtype == torch.float32
    assert large.x.dtype == torch.float16
    torch.testing.assert_close(large.rows(torch.arange(50)), small.x, atol=2e-3, rtol=2e-3)
    part.labels[3] = -1  # unknown, or an image that cannot be read
    assert len(make(megabytes=0)) == len(make()) == 49


def test_a_damaged_cache(cached, tmp_path):
    make, *_ = cached
    make()
    (folder,) = (tmp_path / "cache").iterdir()
    for name, content in (("x.bin", None), ("meta.json", b"{")):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content or before[:-4] + b"abcd")
        with pytest.raises(UserError, match=r"eval.cache=.*is damaged .*delete it, or set eval.cache=null"):
            make()
        (folder / name).write_bytes(before)
    make()


def test_a_disk_that_refuses_features(cached, tmp_path):
    make, *_ = cached
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(RunAborted, match="features cannot be stored in .*make room, or set eval.cache=null"):
            make()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_killed_processes_left_is_removed(cached, tmp_path):
    make, *_ = cached
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = [tmp_path / "cache" / f".unfinished-{h}-{p}-x" for h, p in
            ((platform.node(), gone.pid), (platform.node(), os.getpid()), ("elsewhere", gone.pid))]  # fmt: skip
    for folder in left:
        (folder / "deep").mkdir(parents=True)
    make()
    assert [folder.exists() for folder in left] == [False, True, True]


def test_an_unfinished_cache_is_not_taken_for_a_finished_one(cached, tmp_path, monkeypatch):
    make, *_ = cached

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module, "digest_of_file", fail)
    with pytest.raises(KeyboardInterrupt):
        make()
    assert list((tmp_path / "cache").iterdir()) == []


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
    part = Split(torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8), torch.arange(20) % 4)
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
def test_changed_metadata_of_stored_features_is_refused(stored, change):
    ask, folder = stored
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **change}))
    with pytest.raises(UserError, match=r"eval.cache=.*is damaged .*delete it, or set eval.cache=null"):
        ask()


def test_damaged_stored_labels_and_special_files_are_refused(stored):
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


@pytest.mark.parametrize("changed", ["backbone.pool=mean", "backbone.heads=2"])
def test_networks_that_differ_in_a_plain_attribute_are_others(config, changed):
    """Neither the names of modules nor the tensors tell of it."""
    networks = []
    for more in ((), (changed,)):
        torch.manual_seed(0)
        networks.append(factory.backbone(config("backbone=small_vit", "method=mae", "backbone.pool=token", *more)))
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert cache_module.digest_of_network(networks[0]) != cache_module.digest_of_network(networks[1])
    assert cache_module.digest_of_network(networks[0]) == cache_module.digest_of_network(copy.deepcopy(networks[0]))
