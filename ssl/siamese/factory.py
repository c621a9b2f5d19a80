"""From a composed config to backbone, data, views and method. Mistakes in the config raise `UserError` before anything
is written."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from hydra.utils import get_class
from omegaconf import DictConfig

from siamese.augment import CleanView, View, Views
from siamese.backbones import Backbone, attends, is_vit
from siamese.config import make, to_dict
from siamese.data import DataSet, LoaderConfig, Split
from siamese.data.crops import CentralCrop, Cutter, RandomCrops, ViewCrop
from siamese.data.statistics import for_each, measured
from siamese.environment import free_memory_mb
from siamese.errors import UserError
from siamese.methods import Method
from siamese.recipe import MEASURED_KEYS
from siamese.schema.check import arguments, hints, locate, shown
from siamese.schema.groups import LoaderSettings
from siamese.schema.types import EIGHT_BITS, Interpolation

CROP_SETTINGS = ("crop_scale", "crop_ratio", "interpolation", "rotate_degrees")
RESIDENT_MB = 2000
LOADING = tuple(hints(LoaderSettings))  # keys of `data` that are not arguments of the data set


def data_set(cfg: DictConfig) -> DataSet:
    """`conf/data` to a data set."""
    takes = arguments(locate("data._target_", cfg.data._target_))
    return make({k: v for k, v in cfg.data.items() if k not in LOADING or k in takes})


def resolve_images(cfg: DictConfig, split: Split) -> tuple[DictConfig, str]:
    """Replace ``auto`` of `MEASURED_KEYS` by what the images have.

    Args:
        split: whose images are measured, a seeded choice of them.

    Returns:
        A copy of the config, and a line for the user, "" if all is as usual.

    Raises:
        UserError: images, settings and backbone have different numbers of channels, or an image cannot be read.
    """
    given = {key: to_dict(cfg.data)[key] for key in MEASURED_KEYS}
    found = measured(split.images, given, max(1, cfg.data.workers))
    cfg = cfg.copy()
    told = []
    for key, value in found.items():
        if given[key] == "auto":
            told += [f"data.{key}={value}".replace(" ", "")] if value != list(EIGHT_BITS) else []
        cfg.data[key] = value  # one number may have been given for all channels
        for node in (cfg.augment, cfg.backbone):
            if node.get(key) == "auto":
                node[key] = value
    for key in ("mean", "std"):
        cfg.augment[key] = for_each(to_dict(cfg.augment)[key], found["channels"])
    takes = cfg.backbone.get("channels", 3)
    if takes != found["channels"]:
        raise UserError(
            f"backbone={cfg.backbone.name}", f"takes {takes} channels, the images have {found['channels']}",
            f"give backbone.channels={found['channels']}, or another backbone",
        )  # fmt: skip
    show = cfg.data.get("show")
    if show is not None and max(show) >= found["channels"]:
        raise UserError(
            f"data.show={shown(to_dict(show))}", f"the images have the channels 0 to {found['channels'] - 1}",
            "give three of these, or null",
        )  # fmt: skip
    kind = str(split.images.dtype).removeprefix("torch.")
    return cfg, f"{kind}, {', '.join(told)}" if told and told != ["data.channels=3"] else ""


def loader_config(cfg: DictConfig, device: torch.device, data: DataSet) -> LoaderConfig:
    """`conf/data` to how batches are made, of all splits of `data` alike."""
    whole, most = data.largest_bytes / 1e6, cfg.data.resident_mb
    most = resident_mb(device, data.pretrain.images.decodes) if most == "auto" else most
    return LoaderConfig(cfg.data.resident, most, cfg.data.workers, device, cfg.seed, whole)


def resident_mb(device: torch.device, decodes: bool) -> int:
    """`data.resident_mb=auto`, in MB (10^6 bytes). Of arrays that are copied to a GPU a quarter of its free memory: the
    batches are equal either way, and a set may be held twice, for the training and for the probes. Files
    (`decodes`) show other pixels when they are resident, which must not depend on the GPU."""
    if decodes or device.type != "cuda":
        return RESIDENT_MB
    return round(free_memory_mb(device) / 4)


def clean_view(cfg: DictConfig) -> CleanView:
    """The un-augmented view, resized and normalised as the augmented ones."""
    a = cfg.augment
    return CleanView(cfg.data.crop, cfg.data.center, a.mean, a.std, a.interpolation, a.value_range)


def central_crop(view: CleanView) -> Cutter:
    """What the un-augmented view shows of an image file."""
    return CentralCrop(view.size, view.center, cast(Interpolation, view.interpolation))


def random_crops(views: Sequence[View], seed: int) -> Cutter:
    """The crops that the views show of an image file."""
    return RandomCrops(seed, [_crop_of(view) for view in views])


def _crop_of(view: View) -> ViewCrop:
    settings: dict[str, Any] = {k: view.settings[k] for k in CROP_SETTINGS}
    return ViewCrop(view.size, black=tuple(view.low.tolist()), **settings)


def backbone(cfg: DictConfig) -> Backbone:
    """`conf/backbone` to a module with ``.feature_dim``."""
    return make(cfg.backbone)


def views(cfg: DictConfig) -> Views:
    """`conf/augment` to the views of a method; their generator is the run's."""
    settings = {k: v for k, v in to_dict(cfg.augment).items() if k != "_target_"}
    try:
        return get_class(cfg.augment._target_)(seed=cfg.seed, **settings)
    except TypeError as error:
        raise UserError("augment", f"cannot be built ({error})", "see conf/augment") from error


def uses_labels(cfg: DictConfig) -> bool:
    """Whether the method is trained with labels."""
    return bool(getattr(get_class(cfg.method._target_), "uses_labels", False))


def resolve_method(cfg: DictConfig, network: Backbone) -> DictConfig:
    """A copy of the config in which ``auto`` of `Method.by_backbone` is what the backbone asks for."""
    cfg, target = cfg.copy(), get_class(cfg.method._target_)
    for key, values in getattr(target, "by_backbone", {}).items():
        if cfg.method.get(key) == "auto":
            cfg.method[key] = values[attends(network)]
    return cfg


def method(cfg: DictConfig, network: Backbone, data: DataSet, **base: Any) -> Method:
    """`conf/method` around a backbone."""
    target = get_class(cfg.method._target_)
    if uses_labels(cfg):
        if not data.labelled:
            raise UserError(
                f"method={cfg.method.name}", f"data={data.name} has no labels", "choose a self-supervised method"
            )
        if data.multilabel:
            raise UserError(
                f"method={cfg.method.name}", f"data={data.name} has several labels an image, this method takes one",
                "choose a self-supervised method",
            )  # fmt: skip
        if "num_classes" in arguments(target):
            base["num_classes"] = data.num_classes
    if getattr(target, "needs_vit", False) and not is_vit(network):
        raise UserError(
            f"backbone={cfg.backbone.name}", f"method={cfg.method.name} needs a Vision Transformer",
            "give backbone=vit_tiny, vit_small, vit_base, or small_vit",
        )  # fmt: skip
    made = make(cfg.method, backbone=network, **base)
    if base.get("views") is not None and hasattr(made, "check_views"):
        made.check_views(base["views"].sizes)
        for size in sorted(set(base["views"].sizes) - {cfg.data.crop}):
            check_size(cfg, network, size)
    return made


def check_size(cfg: DictConfig, network: Backbone, size: int) -> None:
    """Refuse views of a size, in pixels, that the backbone cannot take."""
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, cfg.backbone.get("channels", 3), size, size))
    except Exception as error:  # networks raise many kinds
        raise UserError(
            f"augment.views: {size} pixels", f"backbone={cfg.backbone.name} cannot take them ({error})",
            "choose sizes that its patches divide; timm's transformers need +backbone.options.dynamic_img_size=true",
        ) from error  # fmt: skip
    finally:
        network.train(was_training)
