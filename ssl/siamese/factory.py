"""From a composed config to backbone, data, views and method. Mistakes in the config raise `UserError` before anything
is written."""

from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig

from siamese.augment import CleanView, Views
from siamese.backbones import Backbone
from siamese.config import make, to_dict
from siamese.data import DataSet, LoaderConfig
from siamese.errors import UserError
from siamese.methods import Method
from siamese.schema.check import hints, shown
from siamese.schema.groups import LoaderSettings

LOADING = tuple(hints(LoaderSettings))  # keys of `data` that are not arguments of the data set


def data_set(cfg: DictConfig) -> DataSet:
    """`conf/data` to a data set."""
    arguments = {k: v for k, v in cfg.data.items() if k not in LOADING}
    return make(arguments)


def loader_config(cfg: DictConfig, device: torch.device) -> LoaderConfig:
    """`conf/data` to how batches are made."""
    return LoaderConfig(cfg.data.resident, cfg.data.resident_mb, cfg.data.workers, device, cfg.seed)


def clean_view(cfg: DictConfig) -> CleanView:
    """The un-augmented view, resized and normalised as the augmented ones."""
    a = cfg.augment
    return CleanView(cfg.data.crop, cfg.data.center, a.mean, a.std, a.interpolation)


def backbone(cfg: DictConfig) -> Backbone:
    """`conf/backbone` to a module with ``.feature_dim``."""
    return make(cfg.backbone)


def views(cfg: DictConfig) -> Views:
    """`conf/augment` to the views of a method; their generator is the run's."""
    arguments = {k: v for k, v in to_dict(cfg.augment).items() if k != "_target_"}
    try:
        return get_class(cfg.augment._target_)(seed=cfg.seed, **arguments)
    except TypeError as error:
        raise UserError("augment", f"cannot be built ({error})", "see conf/augment") from error


def uses_labels(cfg: DictConfig) -> bool:
    """Whether the method is trained with labels."""
    return bool(getattr(get_class(cfg.method._target_), "uses_labels", False))


def method(cfg: DictConfig, network: Backbone, data: DataSet, **base: Any) -> Method:
    """`conf/method` around a backbone."""
    target = get_class(cfg.method._target_)
    if uses_labels(cfg):
        if not data.labelled:
            raise UserError(
                f"method={cfg.method.name}", f"data={data.name} has no labels", "choose a self-supervised method"
            )
        base["num_classes"] = data.num_classes
    made, takes = base.get("views"), getattr(target, "num_views", None)
    if made is not None and takes is not None and len(made.views) != takes:
        raise UserError(
            f"augment.views={shown(to_dict(cfg.augment)['views'])}", f"method={cfg.method.name} takes {takes} views",
            f"give {takes}, as in augment.views=[{','.join(['{}'] * takes)}]",
        )  # fmt: skip
    return make(cfg.method, backbone=network, **base)
