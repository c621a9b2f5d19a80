"""Checkpoints of untrained networks, with images that fit them, for tests of `siamese export`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from paths import ROOT
from torch import nn

from siamese import factory
from siamese.checkpoints import reading
from siamese.config import to_dict
from siamese.handoff.export import export

# Name -> (channels of the images, overrides).
CASES = {
    "resnet": (3, ("backbone=resnet18", "data.crop=32")),
    "resnet_grey": (1, ("backbone=resnet18", "data.crop=32")),
    "resnet_bands": (13, ("backbone=resnet18", "data.crop=32")),
    "vit_token": (1, ("backbone=small_vit", "data.crop=32", "backbone.depth=2")),
    "vit_mean": (13, ("backbone=small_vit", "data.crop=48", "backbone.depth=2", "backbone.pool=mean",
                      "backbone.patch_size=12", "backbone.position=sincos", "backbone.drop_path=0.1")),
    "timm": (3, ("backbone=timm", "backbone.name=vit_tiny_patch16_224", "data.crop=32", "+backbone.options.depth=2",
                 "+backbone.options.global_pool=avg")),
    "timm_bands": (13, ("backbone=timm", "backbone.name=resnet10t", "data.crop=32")),
    "small": (13, ("backbone=small", "backbone.widths=[4,8]", "data.crop=16", "data.center=0.8")),
    "stem": (3, ("backbone=resnet18_small", "data.crop=16")),
}  # fmt: skip


@dataclass
class Case:
    """A checkpoint and its network.

    Attributes:
        x: (5, C, S, S) levels as stored, some of them out of the range; `features` are those of `network`.
    """

    file: Path
    cfg: object
    network: nn.Module
    levels: np.ndarray
    normalised: np.ndarray
    features: np.ndarray

    @property
    def size(self) -> int:
        return int(self.cfg.data.crop)


def images(file: Path, channels: int) -> None:
    """An .npz of 8-bit images, or of 12 bits where there are more than three channels."""
    random = np.random.default_rng(0)
    kind, most = (np.uint8, 256) if channels <= 3 else (np.uint16, 4096)
    rough = random.integers(0, most, (24, 5, 5, channels))
    np.savez(file, train_images=rough.repeat(8, 1).repeat(8, 2).astype(kind).squeeze(-1) if channels == 1
             else rough.repeat(8, 1).repeat(8, 2).astype(kind))  # fmt: skip


def randomise(network: nn.Module) -> None:
    """Weights as after a training: BatchNorm's are not those that they start with."""
    with torch.no_grad():
        for m in network.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.uniform_(0.5, 1.5), m.bias.normal_(0, 0.1)
                m.running_mean.normal_(0, 0.1), m.running_var.uniform_(0.5, 1.5)
            elif isinstance(m, nn.LayerNorm):
                m.weight.uniform_(0.5, 1.5), m.bias.normal_(0, 0.1)


def make(name: str, folder: Path) -> Case:
    """The checkpoint of a case, written by hand into `folder`."""
    channels, overrides = CASES[name]
    images(folder / f"{name}.npz", channels)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=["data=npz", f"data.path={folder / f'{name}.npz'}", *overrides])
    cfg, _ = factory.resolve_images(cfg, factory.data_set(cfg).pretrain)
    torch.manual_seed(0)
    network = factory.backbone(cfg)
    randomise(network)
    file = folder / f"{name}.ckpt"
    state = {f"backbone.{k}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": state, reading.KEY: {"config": to_dict(cfg), "num_classes": 0}}, file)
    size, a = cfg.data.crop, to_dict(cfg.augment)
    levels = np.random.default_rng(1).uniform(-20, 280 if channels <= 3 else 4500, (5, channels, size, size))
    pairs = np.array(a["value_range"], np.float64).reshape(-1, 2)
    low, high = (pairs[:, i].reshape(-1, 1, 1) for i in (0, 1))
    mean, std = (np.array(a[k]).reshape(-1, 1, 1) for k in ("mean", "std"))
    x = ((((levels - low) / (high - low)).clip(0, 1) - mean) / std).astype(np.float32)
    with torch.no_grad():
        features = network.eval()(torch.from_numpy(x)).numpy()
    return Case(file, cfg, network, levels.astype(np.float32), x, features)


def run(*overrides: str) -> None:
    """`siamese export` in this process, where other configs can be composed as inside of hydra.main."""
    from siamese.cli import moved_groups

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        export(compose("export", overrides=moved_groups(overrides)))
