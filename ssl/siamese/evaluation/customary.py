"""Normalisation of third-party networks."""

import torch
from omegaconf import DictConfig
from rich.console import Console

from siamese.data import ImageStore
from siamese.evaluation.settings import Given

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def customary(described: DictConfig, given: Given, store: ImageStore, console: Console) -> DictConfig:
    """The config of a third-party file with ImageNet's mean and std, by which such files are customarily trained, where
    8-bit images of three channels would be measured."""
    measured = [k for k in IMAGENET if described.data[k] == "auto" and not given.has(f"data.{k}")]
    channels = store.channels if described.data.channels == "auto" else described.data.channels
    if len(measured) < 2 or store.dtype != torch.uint8 or channels != 3:
        return described
    out = described.copy()
    for key, values in IMAGENET.items():
        for node in (n for n in (out.data, out.augment) if n[key] == "auto"):
            node[key] = values
    console.print("mean and std: ImageNet's; data.mean=auto data.std=auto measures the images", soft_wrap=True)
    return out
