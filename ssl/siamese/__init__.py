"""siamese: self-supervised pretraining of image backbones, and what the features are worth."""

from collections.abc import Mapping
from typing import TypeVar

from omegaconf import OmegaConf

__version__ = "0.1.0"
T = TypeVar("T")


def by_epochs(epochs: int, table: Mapping[int, T]) -> T:
    """The entry of the longest training in `table` that is no longer than `epochs`; in conf/ as
    ``${by_epochs:${epochs},{0:a,100:b}}``."""
    return table[max(e for e in table if e <= epochs)]


OmegaConf.register_new_resolver("by_epochs", by_epochs, replace=True)
