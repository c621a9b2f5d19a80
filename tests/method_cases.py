"""The methods of conf/method, and a small network to try them on."""

import torch
import yaml
from hydra.utils import get_class, instantiate
from paths import ROOT
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from siamese import factory
from siamese.methods import Method, MultiCrop
from siamese.options import options
from siamese.schema.check import arguments

METHODS = options("method")
NODES = {name: yaml.safe_load((ROOT / "conf" / "method" / f"{name}.yaml").read_text()) for name in METHODS}
CLASSES = {name: get_class(node["_target_"]) for name, node in NODES.items()}
SELF_SUPERVISED = [name for name in METHODS if not CLASSES[name].uses_labels]
UNTRAINED = ["method/teacher=timm", "method.teacher.name=resnet10t", "method.teacher.pretrained=false"]


def settings(name) -> list[str]:
    """Overrides with which a method of conf/method can be built in a test: a network that it can use."""
    chosen = ["backbone=small_vit", "backbone.depth=2"] if CLASSES[name].needs_vit else ["backbone.widths=[4,8]"]
    return chosen + heads(name)


def heads(name) -> list[str]:
    """Overrides of `method` without which it cannot be built."""
    return UNTRAINED if "teacher" in arguments(CLASSES[name]) else []


def view_sizes(name, size=8) -> list[int]:
    """Sides of views that a method takes: large and small ones if it can."""
    if issubclass(CLASSES[name], MultiCrop):
        return [size, size, size // 2]
    return [size] * (CLASSES[name].num_views or 2)


def with_teacher(config, *overrides):
    """A composed config; a method that needs a teacher gets an untrained one."""
    name = config(*overrides).method._target_
    return config(*overrides, *(UNTRAINED if "teacher" in arguments(get_class(name)) else ()))


class Net(nn.Module):
    """A backbone with a BatchNorm that records the sizes of its batches."""

    def __init__(self, dim=12):
        super().__init__()
        self.conv, self.bn, self.feature_dim = nn.Conv2d(3, dim, 3), nn.BatchNorm2d(dim), dim
        self.batches: list[int] = []

    def forward(self, x):
        self.batches.append(len(x))
        return self.bn(self.conv(x)).relu().mean((2, 3))


class NoWaits(TorchDispatchMode):
    """Refuses operations whose value or size the host must read, which on a GPU it waits for."""

    READ = ("_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave", "is_nonzero", "_unique2")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        assert name not in self.READ and not masks, f"the host reads the result of {func}"
        return func(*args, **(kwargs or {}))


def narrow_heads(cfg) -> None:
    """Heads of 8,192 take minutes on a CPU; their width is of no account to losses and rates."""
    for key in ("hidden_dim", "output_dim"):
        if cfg.method.get(key, 0) > 4096:
            cfg.method[key] = 512


class Wide(nn.Module):
    """Stands for a ResNet-50."""

    feature_dim = 2048


def make(config, name, *overrides, **kwargs) -> Method:
    """A method of conf/method around `Net`, or around a small Vision Transformer if it needs one."""
    cfg = config(f"method={name}", *overrides, *(settings(name) if CLASSES[name].needs_vit else heads(name)))
    network = factory.backbone(cfg) if CLASSES[name].needs_vit else Net()
    extra = {"num_classes": 5} if "num_classes" in arguments(CLASSES[name]) else {}
    return instantiate(cfg.method, _partial_=True)(network, **extra, **kwargs).train()


def paper(config, name) -> Method:
    """The method of experiment=imagenet/<name> with 2,048 features."""
    cfg = config(f"experiment=imagenet/{name}", "data.path=none")
    return instantiate(cfg.method, _partial_=True)(Wide())


def views(n=6, name=None):
    """Random views of n images: two, or as many as the method takes."""
    return [torch.randn(n, 3, size, size) for size in ([8, 8] if name is None else view_sizes(name))]


def trainable(*modules) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)
