"""The config of a checkpoint, which may come from an untrusted source. It is checked before anything is built."""

import copy
import functools
import re
from collections.abc import Mapping
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from siamese.errors import UserError
from siamese.options import CONF
from siamese.schema.check import check_group, joined, shown
from siamese.schema.groups import Train

RENAMED = {"scale": "augment_scale", "views": "augment_recipe", "eval": "probe"}  # since 2026-11-24
MOVED = {"siamese.evaluation.LinearGrid": "siamese.probes.linear.LinearGrid"}
# Keys that were added since -> what they were before they existed.
ADDED: dict[str, Any] = {
    "mode": "train", "report": True, "data.channels": 3, "data.value_range": [0.0, 255.0], "data.show": None,
    "data.labels": "folders", "data.include": [], "data.exclude": [], "data.list": None, "data.max_pixels": 300_000_000,
    "augment.value_range": [0.0, 255.0], "augment.channel_drop_p": 0.0,
    "backbone.channels": 3, "backbone.adapt_first_layer": False, "optimizer.final_weight_decay": None,
    "backbone.freeze_stem": False, "optimizer.backbone_lr_scale": 1.0,
    "method.projector_layers": 2, "method.predictor_last_bn": False, "callbacks": {},
    "checkpoint.least_seconds": 0.0,
}  # fmt: skip
REQUIRED = ("data.channels", "data.value_range", "data.show", "augment.value_range", "augment.channel_drop_p",
            "checkpoint.least_seconds")  # fmt: skip
# Of `probe`; no data set had several labels an image.
MULTILABEL = {
    "_target_": "siamese.probes.multilabel.MultilabelGrid", "l2s": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1], "max_iter": 300,
    "tolerance": 1e-4,
}  # fmt: skip
# Until 2026-11-28 `logger` held one logger without a name.
LOGGERS = {"WandbLogger": "wandb", "TensorBoardLogger": "tensorboard"}
DEPTH, NODES = 16, 10_000  # a config written by train.py has less than 8 levels and 300 values
# Arguments of timm.create_model that read or download other files.
TIMM_FILES = ("checkpoint", "pretrained", "cache", "file", "hf_", "url")


def trusted(config: Any, setting: str, trust: bool) -> DictConfig:
    """The config of a checkpoint, after checks that make it harmless.

    Args:
        config: the plain values in the file.
        setting: names the file, e.g. "ckpt=FILE".
        trust: the config may name classes that conf/ does not name.

    Raises:
        UserError: it holds an interpolation, a class or function that no option in conf/ names at that place (unless
            `trust`), an unknown key, or an impossible value.
    """
    try:
        _plain("", config, [0])
        config = upgraded(dict(config))
        if not trust:
            _check_targets("", config)
        check_group("", config, Train)
    except UserError as error:
        raise _of(setting, error) from error
    return OmegaConf.create(config)


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an older version in the form of this version."""
    new = copy.deepcopy(dict(config))
    data, trainer, optimizer = new.get("data"), new.get("trainer"), new.get("optimizer")
    if isinstance(data, dict) and isinstance(data.get("source"), dict):
        named = re.fullmatch(r"torchvision\.datasets\.(\w+)", str(data["source"].get("path")))
        if named:
            data["source"] = named.group(1)
    if isinstance(trainer, dict) and trainer.get("max_steps") == -1:
        del trainer["max_steps"]
    for old, now in RENAMED.items():
        if old in new and now not in new:
            new[now] = new.pop(old)
    probe = new.get("probe")
    linear = probe.get("linear") if isinstance(probe, dict) else None
    if isinstance(linear, dict) and isinstance(linear.get("_target_"), str):
        linear["_target_"] = MOVED.get(linear["_target_"], linear["_target_"])
    if isinstance(probe, dict):
        probe.setdefault("multilabel", dict(MULTILABEL))
    logger = new.get("logger")
    if isinstance(logger, dict) and isinstance(logger.get("_target_"), str):
        new["logger"] = {LOGGERS.get(logger["_target_"].rpartition(".")[2], "own"): logger}
    if "method" in new and "data" in new:  # of train.py
        new.setdefault("mode", ADDED["mode"])
        new.setdefault("callbacks", {})
        new.setdefault("report", ADDED["report"])
    for group, key in (name.split(".") for name in REQUIRED):
        if isinstance(new.get(group), dict):
            new[group].setdefault(key, copy.copy(ADDED[f"{group}.{key}"]))
    for node, target, key, value in (
        (new.get("method"), "siamese.methods.moco.MoCo", "final_momentum", None),
        (new.get("method"), "siamese.methods.moco_v3.MoCoV3", "projector_layers", ADDED["method.projector_layers"]),
        (new.get("method"), "siamese.methods.moco_v3.MoCoV3", "predictor_last_bn", ADDED["method.predictor_last_bn"]),
        (optimizer.get("algorithm") if isinstance(optimizer, dict) else None, "siamese.optim.LARS", "clip", False),
    ):
        if isinstance(node, dict) and node.get("_target_") == target:
            node.setdefault(key, value)
    return new


def check_plain(config: Any, setting: str) -> None:
    """Refuse a config that holds anything but resolved plain values, or too many of them.

    Raises:
        UserError: names `setting`.
    """
    try:
        _plain("", config, [0])
    except UserError as error:
        raise _of(setting, error) from error


def _of(setting: str, error: UserError) -> UserError:
    return UserError(setting, f"its config cannot be used: {error.setting}: {error.problem}", error.remedy)


def _plain(key: str, value: Any, count: list[int], depth: int = 0) -> None:
    """Refuse objects, and interpolations, which can read the environment and files."""
    count[0] += 1
    if depth > DEPTH or count[0] > NODES:
        what = "is nested too deeply" if depth > DEPTH else f"holds more than {NODES:,} values"
        raise UserError(key[:100], what, "use a checkpoint that train.py has written")
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise UserError(joined(key, name), "is not text", "use a checkpoint that train.py has written")
            _plain(joined(key, name), inner, count, depth + 1)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _plain(joined(key, i), inner, count, depth + 1)
    elif isinstance(value, str) and ("${" in value or value == "???"):
        raise UserError(
            f"{key}={shown(value)}", "is an interpolation, and resolving it could read secrets",
            "checkpoints of train.py hold resolved values: use one of them",
        )  # fmt: skip
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise UserError(key, f"holds a {type(value).__name__}", "use a checkpoint that train.py has written")


def _check_targets(key: str, value: Any) -> None:
    """Check that every `_target_`, at any depth, is one that an option in conf/ names at the same place."""
    if isinstance(value, list):
        for i, inner in enumerate(value):
            _check_targets(joined(key, i), inner)
    if not isinstance(value, dict):
        return
    if "_target_" in value:
        known = shipped().get(key, frozenset())
        if not isinstance(value["_target_"], str) or value["_target_"] not in known:
            raise UserError(
                f"{key}._target_={shown(value['_target_'])}",
                f"is not a class of this project at this place ({', '.join(sorted(known)) or 'none is allowed'}), and "
                "calling it could run any code",
                "if you know the file and trust that name, add trust_config=true",
            )
        options = value.get("options")
        if isinstance(options, dict):
            for name, option in options.items():
                large = option > 4096 if isinstance(option, (int, float)) else not isinstance(option, str)
                if str(name).startswith(TIMM_FILES) or large:
                    what = "may be too large" if large else "would read or fetch another file"
                    raise UserError(f"{key}.options.{name}", what, "if you know the file, add trust_config=true")
    for name, inner in value.items():
        _check_targets(joined(key, name), inner)


@functools.cache
def shipped() -> dict[str, frozenset[str]]:
    """Dotted key in a config -> the `_target_`s that option files in conf/ name there."""
    found: dict[str, set[str]] = {}

    def collect(key: str, node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("_target_"), str):
                found.setdefault(key, set()).add(node["_target_"])
            for name, inner in node.items():
                collect(joined(key, name), inner)

    for file in CONF.rglob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        package = re.match(r"# @package (\S+)", text)
        place = package.group(1) if package else ".".join(file.relative_to(CONF).parent.parts)
        collect("" if place == "_global_" else place, yaml.safe_load(text))
    found.setdefault("method.teacher.backbone", set()).update(found["backbone"])  # of method/teacher=third_party
    return {key: frozenset(names) for key, names in found.items()}
