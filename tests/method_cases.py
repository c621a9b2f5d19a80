"""The methods of conf/method, and a small network to try them on."""

import torch
import yaml
from hydra.utils import get_class, instantiate
from paths import ROOT
from torch import nn

from siamese.methods import Method
from siamese.options import options

METHODS = options("method")
NODES = {name: yaml.safe_load((ROOT / "conf" / "method" / f"{name}.yaml").read_text()) for name in METHODS}
CLASSES = {name: get_class(node["_target_"]) for name, node in NODES.items()}
SELF_SUPERVISED = [name for name in METHODS if not CLASSES[name].uses_labels]


class Net(nn.Module):
    """A backbone with a BatchNorm that records the sizes of its batches."""

    def __init__(self, dim=12):
        super().__init__()
        self.conv, self.bn, self.feature_dim = nn.Conv2d(3, dim, 3), nn.BatchNorm2d(dim), dim
        self.batches: list[int] = []

    def forward(self, x):
        self.batches.append(len(x))
        return self.bn(self.conv(x)).relu().mean((2, 3))


class Wide(nn.Module):
    """Stands for a ResNet-50."""

    feature_dim = 2048


def make(config, name, *overrides, **kwargs) -> Method:
    """A method of conf/method around `Net`."""
    cfg = config(f"method={name}", *overrides)
    extra = {"num_classes": 5} if CLASSES[name].uses_labels else {}
    return instantiate(cfg.method, _partial_=True)(Net(), **extra, **kwargs).train()


def paper(config, name) -> Method:
    """The method of experiment=imagenet/<name> with 2,048 features."""
    cfg = config(f"experiment=imagenet/{name}", "data.path=none")
    return instantiate(cfg.method, _partial_=True)(Wide())


def views(n=6):
    """Two random views of n images."""
    return [torch.randn(n, 3, 8, 8), torch.randn(n, 3, 8, 8)]


def trainable(*modules) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)
