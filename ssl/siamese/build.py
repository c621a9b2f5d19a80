"""From the composed config to objects. Whatever is wrong with the config is said here, before anything
is written."""

import hashlib
import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from siamese.augment import CleanView, Views
from siamese.backbones import Backbone
from siamese.data import DataSet, Loader, Part, choose_residence, some_of
from siamese.errors import UserError
from siamese.methods import Method
from siamese.monitor.probes import VIEW_IMAGES, Probe
from siamese.schema.check import hints, shown
from siamese.schema.files import upgraded
from siamese.schema.groups import LoaderSettings

LOADING = tuple(hints(LoaderSettings))  # keys of `data` that are not the data set's own


def make(node: Any, **arguments: Any) -> Any:
    """Hydra's `instantiate`, letting a mistake of the user's through as it is."""
    try:
        made = instantiate(node, _convert_="all", _partial_=True)
        try:
            inspect.signature(made.func).bind(**made.keywords, **arguments)
        except TypeError as error:  # a key that it does not have, or one that is missing
            raise UserError(str(node._target_), str(error), "--cfg job prints all keys") from error
        return made(**arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        told = " ".join(str(error.__cause__ or error).split())
        raise UserError(str(node._target_), f"cannot be built ({told})", "--cfg job prints all keys") from error


# Settings that may change when a run goes on: how long, where, how it is watched, and how data reach the device.
FREE = (
    "epochs", "run_dir", "resume", "overwrite", "init_from", "deterministic", "compile", "on_", "checkpoint.",
    "monitor.", "logger.", "eval.", "augment.compiled", "trainer.accelerator", "trainer.devices", "trainer.num_nodes",
    "trainer.strategy", "trainer.log_every_n_steps", "trainer.deterministic", "trainer.accumulate_grad_batches",
    "data.path", "data.test_path", "data.download", "data.packed", "data.resident", "data.workers", "data.epochs",
    "data.batch_size", "scale.", "views.",
)  # fmt: skip


def changed_recipe(before: dict[str, Any], now: dict[str, Any], in_mid_epoch: bool) -> list[str]:
    """What differs between two configs so that the one's run cannot go on as the other's: "key=now (was before)"."""
    bound = ["trainer.accumulate_grad_batches"] * in_mid_epoch
    old, new = _flat(upgraded(before)), _flat(now)
    return [
        f"{key}={new.get(key, 'missing')} (was {old.get(key, 'missing')})"
        for key in sorted({*old, *new})
        if (key in bound or not key.startswith(FREE)) and old.get(key) != new.get(key)
    ]


def recipe_digest(config: dict[str, Any]) -> str:
    """Equal for two runs that differ in the seed, or in what does not change the training, alone."""
    free = tuple(f for f in FREE if f not in ("epochs", "init_from"))
    bound = {
        k: v
        for k, v in _flat(upgraded(config)).items()  # a null is as a key that was not there yet
        if v is not None and not k.startswith(free) and k.split(".")[-1] != "seed"
    }
    return hashlib.sha256(repr(sorted(bound.items())).encode()).hexdigest()[:8]


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of the innermost values."""
    out: dict[str, Any] = {}
    for key, value in node.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def data_set(cfg: DictConfig) -> DataSet:
    """`conf/data` to a data set."""
    arguments = {k: v for k, v in cfg.data.items() if k not in LOADING}
    return make(arguments)


@dataclass
class Loading:
    """How the batches of a run are made (`conf/data`)."""

    resident: str | bool
    resident_mb: int
    workers: int
    device: torch.device
    seed: int

    @classmethod
    def of(cls, cfg: DictConfig, device: torch.device) -> "Loading":
        return cls(cfg.data.resident, cfg.data.resident_mb, cfg.data.workers, device, cfg.seed)

    def loader(self, part: Part, batch_size: int, shuffle: bool, seed: int | None = None) -> Loader:
        """Batches of a part; `seed` of their order is the run's unless given."""
        resident, _ = choose_residence(part, self.resident, self.resident_mb, self.device)
        seed = self.seed if seed is None else seed
        return Loader(part, batch_size, shuffle, resident, self.device, self.workers, seed)

    def describe(self, part: Part) -> str:
        """One line: resident or streamed, and why."""
        return choose_residence(part, self.resident, self.resident_mb, self.device)[1]


def clean_view(cfg: DictConfig) -> CleanView:
    """The un-augmented view, resized and normalised as the augmented ones."""
    a = cfg.augment
    return CleanView(cfg.data.crop, cfg.data.center, a.mean, a.std, a.interpolation)


def backbone(cfg: DictConfig) -> Backbone:
    """`conf/backbone` to a module with ``.feature_dim``."""
    return make(cfg.backbone)


def views(cfg: DictConfig) -> Views:
    """`conf/augment` to the views of a method; their generator is the run's."""
    arguments = {k: v for k, v in plain(cfg.augment).items() if k != "_target_"}
    try:
        return get_class(cfg.augment._target_)(seed=cfg.seed, **arguments)
    except TypeError as error:
        raise UserError("augment", f"cannot be built ({error})", "see conf/augment") from error


def method(cfg: DictConfig, network: Backbone, data: DataSet, **base: Any) -> Method:
    """`conf/method` around a backbone."""
    target = get_class(cfg.method._target_)
    if getattr(target, "uses_labels", False):
        if not data.labelled:
            raise UserError(
                f"method={cfg.method.name}", f"data={data.name} has no labels", "choose a self-supervised method"
            )
        base["num_classes"] = data.num_classes
    made, takes = base.get("views"), getattr(target, "num_views", None)
    if made is not None and takes is not None and len(made.views) != takes:
        raise UserError(
            f"augment.views={shown(plain(cfg.augment)['views'])}", f"method={cfg.method.name} takes {takes} views",
            f"give {takes}, as in augment.views=[{','.join(['{}'] * takes)}]",
        )  # fmt: skip
    return make(cfg.method, backbone=network, **base)


def trainer(
    cfg: DictConfig, callbacks: Sequence[pl.Callback], loggers: Sequence[Any], sync_batchnorm: bool
) -> pl.Trainer:
    """`conf/trainer` to a Lightning trainer that leaves bar, files and sharding to us."""
    check_devices(cfg)
    try:
        return make(
            cfg.trainer,
            max_epochs=cfg.epochs,
            callbacks=list(callbacks),
            logger=list(loggers),
            sync_batchnorm=sync_batchnorm and on_gpu(cfg),  # one device ignores it; torch has none for CPUs
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    except Exception as error:
        cause = error.__cause__ or error
        raise UserError("trainer", f"Lightning refuses these settings ({cause})", "see conf/trainer") from error


def choose(cfg: DictConfig) -> None:
    """Put in place what ``auto`` means on this device: precision (bf16 on GPUs that have it, else float32), and
    whether the networks go through torch.compile (on one GPU with Triton)."""
    gpu = on_gpu(cfg)
    if cfg.compile == "auto":
        one = cfg.trainer.devices == 1 and cfg.trainer.num_nodes == 1
        cfg.compile = bool(gpu and one and importlib.util.find_spec("triton"))
    if cfg.trainer.precision == "auto":
        half = gpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        cfg.trainer.precision = "bf16-mixed" if half else "32-true"


def on_gpu(cfg: DictConfig) -> bool:
    """Will Lightning take CUDA devices?"""
    return cfg.trainer.accelerator in ("gpu", "cuda") or (
        cfg.trainer.accelerator == "auto" and torch.cuda.is_available()
    )


def check_devices(cfg: DictConfig) -> None:
    """Is what `trainer` asks for there?"""
    accelerator, devices = cfg.trainer.accelerator, cfg.trainer.devices
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator={accelerator}", "this machine has no CUDA device", "use trainer=cpu or trainer=auto"
        )
    if on_gpu(cfg) and isinstance(devices, int) and devices > torch.cuda.device_count():
        raise UserError(
            f"trainer.devices={devices}", f"this machine has {torch.cuda.device_count()} CUDA devices", "ask for fewer"
        )
    if str(cfg.trainer.precision).startswith("16") and not on_gpu(cfg):
        raise UserError(f"trainer.precision={cfg.trainer.precision}", "fp16 needs a GPU", "use bf16-mixed or 32-true")
    if isinstance(devices, int) and devices < 1:
        raise UserError(f"trainer.devices={devices}", "at least one device is needed", "use trainer.devices=1")


def shares(cfg: DictConfig, world_size: int, images: int) -> tuple[int, int]:
    """Images of a micro-batch on one device, and optimiser steps an epoch."""
    parts = world_size * cfg.trainer.accumulate_grad_batches
    if cfg.batch_size % parts:
        raise UserError(
            f"batch_size={cfg.batch_size}",
            f"is global and {world_size} devices x {parts // world_size} accumulated batches do not divide it",
            f"try {max(2, round(cfg.batch_size / parts)) * parts}",
        )
    if cfg.batch_size > images:
        raise UserError(
            f"batch_size={cfg.batch_size}", f"larger than the training set ({images} images)", f"at most {images}"
        )
    if cfg.batch_size // parts < 2:
        raise UserError(
            f"batch_size={cfg.batch_size}",
            f"leaves one image to each of {parts} micro-batches",
            f"at least {2 * parts}",
        )
    return cfg.batch_size // parts, images // cfg.batch_size


def at_most(part: Part, limit: int, seed: int = 0) -> Part:
    """A seeded choice of `limit` samples, or all of them."""
    return part if len(part) <= limit else part.subset(some_of(len(part), limit, seed))


def probe(cfg: DictConfig, data: DataSet, loading: Loading) -> Probe:
    """What monitors and the closing table look at: the training labels' part that fits, and the validation
    part; without labels a choice of training images."""
    parts = {"fit": data.fit, "val": data.val} if data.labelled else {"any": at_most(data.pretrain, 2048)}
    parts = {name: at_most(part, cfg.monitor.max_images) for name, part in parts.items()}
    batch = min(256, cfg.batch_size)
    loaders = {name: loading.loader(part, batch, shuffle=False) for name, part in parts.items()}
    few = loading.loader(at_most(next(iter(parts.values())), VIEW_IMAGES), batch, shuffle=False)
    classes = data.num_classes if data.labelled else 0
    return Probe(loaders, few, clean_view(cfg), classes, cfg.eval.knn.k, cfg.eval.knn.temperature)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain values."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
