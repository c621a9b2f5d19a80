"""The nodes of conf/train.yaml, conf/eval_linear.yaml and conf/export.yaml that have no class of their own."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Len
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siamese.errors import UserError
from siamese.options import options
from siamese.schema.check import check_group, hints, meta, shown
from siamese.schema.types import (
    AtLeastTwo,
    Built,
    Channels,
    Count,
    Group,
    Mean,
    Name,
    Natural,
    NonNegative,
    PathText,
    Pixels,
    Positive,
    Says,
    Seed,
    Share,
    Shown,
    Std,
    ValueRange,
    Workers,
)

Resident = Literal["auto"] | bool
ResidentMB = Literal["auto"] | NonNegative
Node = Annotated[Any, Built()]


class CheckpointSettings(Group):
    every_steps: Natural
    least_seconds: NonNegative


class MonitorSettings(Group):
    every: Natural
    online_lr: Positive
    max_images: AtLeastTwo


class Neighbours(Group):
    k: Count
    temperature: Positive


class TrainProbes(Group):
    knn: Neighbours
    linear: Node
    multilabel: Node


class LoaderSettings(Group):
    """Keys of `data` that are not arguments of the data set."""

    resident: Resident
    resident_mb: ResidentMB
    workers: Workers
    crop: Pixels
    center: Share
    channels: Channels
    value_range: ValueRange
    mean: Mean
    std: Std
    show: Shown
    epochs: Count
    batch_size: AtLeastTwo


class TrainerSettings(Group):
    """Arguments of Lightning's Trainer in conf/trainer."""

    accelerator: str
    devices: Literal["auto"] | int | Sequence[Natural]
    num_nodes: Count
    strategy: str
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
    accumulate_grad_batches: Count
    log_every_n_steps: Count
    deterministic: bool


class TrainerExtra(Group):
    """Further arguments, given by `+trainer.KEY=`."""

    gradient_clip_val: Positive
    gradient_clip_algorithm: Literal["norm", "value"]
    benchmark: bool
    detect_anomaly: bool
    profiler: Literal["simple", "advanced"]


class MethodName(Group):
    name: Name


TRAINER_OWN = {
    **dict.fromkeys(("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "fast_dev_run"), "epochs="),
    **dict.fromkeys(("limit_train_batches", "overfit_batches"), "data.train_images="),
    "logger": "logger=", "callbacks": "on_nonfinite= and on_collapse=",
    "enable_checkpointing": "checkpoint.every_steps=",
    "sync_batchnorm": "a method that wants it", "default_root_dir": "run_dir=",
}  # fmt: skip


METHOD_OWN = {
    "backbone": "backbone=", "views": "augment=", "optimizer": "optimizer=", "global_batch": "batch_size=",
    "steps_per_epoch": "epochs=", "num_classes": "data=",
}  # fmt: skip


class Callbacks(Group):
    rest = Node  # a callback


LOGGER_OWN = {
    **dict.fromkeys(("save_dir", "dir"), "run_dir="),
    **dict.fromkeys(("id", "run_id", "resume", "resume_from", "fork_from", "purge_step"), "resume="),
    "config": "the settings themselves", "experiment": "project=, experiment_name= or name=",
}  # fmt: skip


class Loggers(Group):
    rest = Annotated[Any, Built(own=LOGGER_OWN)]  # a logger


class Train(Group):
    data: Annotated[Any, Built(LoaderSettings)]  # first, because other nodes repeat its values
    method: Annotated[Any, Built(MethodName, own=METHOD_OWN)]
    mode: Literal["train", "check", "preview"]
    seed: Seed
    epochs: Count
    batch_size: AtLeastTwo
    run_dir: PathText | None
    resume: Literal["auto"] | bool
    init_from: PathText | None
    overwrite: bool
    compile: Literal["auto"] | bool
    deterministic: bool
    on_nonfinite: Literal["stop", "skip"]
    on_collapse: Literal["warn", "stop"]
    report: bool
    checkpoint: CheckpointSettings
    monitor: MonitorSettings
    augment_scale: dict[str, Any]
    augment_recipe: dict[str, Any]
    augment: Annotated[Any, Built(own={"seed": "seed="})]
    backbone: Node
    optimizer: Node
    trainer: Annotated[Any, Built(TrainerSettings, TrainerExtra, TRAINER_OWN)]
    logger: Loggers
    callbacks: Callbacks
    probe: TrainProbes


class EvalData(Group):
    path: PathText | None
    resident: Resident
    resident_mb: ResidentMB
    workers: Workers
    packed: PathText | None
    on_error: Literal["stop", "skip"] | None
    test_path: PathText | None
    labels: PathText | None
    list: PathText | None
    download: bool | None


class Protocols(Group):
    rest = Node  # a protocol

    protocols: Annotated[Sequence[str], Len(1), Says("a list of protocols, as in [knn,linear], or eval=all")]
    data: Sequence[str]
    supervised: PathText | None
    cache: PathText | None
    in_memory_mb: NonNegative


class Evaluate(Group):
    ckpt: PathText | None
    compare: PathText | Sequence[PathText] | None
    foreign: Sequence[str]
    trust_config: bool
    data: EvalData
    batch_size: Count
    device: Literal["auto", "cpu", "cuda"]
    run_dir: PathText | None
    overwrite: bool
    eval: Protocols


class Embed(Group):
    ckpt: PathText | None
    foreign: Sequence[str]
    out: PathText | None
    data: EvalData
    batch_size: Count
    device: Literal["auto", "cpu", "cuda"]
    neighbours: bool
    queries: Count
    nearest: Count
    duplicates: Share
    compared: AtLeastTwo
    seed: Seed
    overwrite: bool
    trust_config: bool


class OnnxSettings(Group):
    preprocessing: bool
    opset: Annotated[int, Ge(18), Le(21)]


class Export(Group):
    ckpt: PathText | None
    to: Literal["timm", "torchvision", "safetensors", "onnx", "hf"]
    out: PathText | None
    images: AtLeastTwo
    onnx: OnnxSettings
    foreign: Sequence[str]
    trust_config: bool
    data: EvalData


def check_train(cfg: DictConfig) -> None:
    """Check a composed conf/train.yaml.

    Raises:
        UserError: names the first key that is missing, unknown or has an impossible value.
    """
    check_group("", plain(cfg, Train), Train)


def check_eval(cfg: DictConfig) -> None:
    """Check a composed conf/eval_linear.yaml, as `check_train`."""
    check_group("", plain(cfg, Evaluate), Evaluate)


def check_embed(cfg: DictConfig) -> None:
    """Check a composed conf/embed.yaml, as `check_train`."""
    check_group("", plain(cfg, Embed), Embed)


def check_export(cfg: DictConfig) -> None:
    """Check a composed conf/export.yaml, as `check_train`."""
    check_group("", plain(cfg, Export), Export)


def plain(cfg: DictConfig, group: type[Group]) -> dict[str, Any]:
    """The resolved plain values. A missing node is reported first, because others may refer to it."""
    try:
        for key, kind in hints(group).items():
            node = cfg.get(key)
            holds_keys = (isinstance(kind, type) and issubclass(kind, Group)) or meta(kind, Built) is not None
            if holds_keys and not isinstance(node, DictConfig):
                known = options(key)
                told = f"choose one of {', '.join(known)}" if known else f"give {key}.KEY=VALUE"
                raise UserError(f"{key}={shown(node)}", "these settings are needed", told)
        return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "the config")
        problem = " ".join(str(error).split("\n")[0].split())
        raise UserError(key, f"cannot be resolved ({problem})", "give it a value") from error
