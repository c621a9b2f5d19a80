import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from siamese import factory
from siamese.config import to_dict
from siamese.data import DataSet, Split
from siamese.evaluation.cache import FeatureCache
from siamese.evaluation.target import SPLITS, EvalTarget


@pytest.fixture
def target(config):
    """Makes a target: an untrained network, and images whose class is their brightest quarter.

    Lines for the user are collected in `said`.
    """

    def make(said=None):
        torch.manual_seed(0)
        labels = torch.arange(240) % 4
        images = torch.randint(0, 100, (240, 3, 8, 8), dtype=torch.uint8)
        for i, label in enumerate(labels.tolist()):
            top, left = divmod(label, 2)
            images[i, :, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 100
        split = Split(images, labels)
        data = DataSet("quarters", split.subset(torch.arange(160)), split.subset(torch.arange(160, 240)), list("abcd"))
        cfg = config("backbone.widths=[8,16]", "method=simsiam")
        loading = factory.loader_config(cfg, torch.device("cpu"), data)
        loaders = {name: loading.loader(getattr(data, name), 64, shuffle=False) for name in SPLITS}
        network = factory.backbone(cfg).requires_grad_(False).eval()
        say = (lambda line: None) if said is None else said.append
        return EvalTarget(
            "x", network, factory.clean_view(cfg), to_dict(cfg.augment), lambda: factory.views(cfg), data, loading,
            loaders, 64, FeatureCache(None, 100), say,
        )  # fmt: skip

    return make


@pytest.fixture
def optimizer_steps():
    """The parameter groups of every step that any optimiser of torch takes."""
    seen = []

    def record(optimizer, args, kwargs):
        seen.append([{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups])

    handle = register_optimizer_step_pre_hook(record)
    yield seen
    handle.remove()
