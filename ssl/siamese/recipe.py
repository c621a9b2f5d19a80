"""A run's recipe: what may change when the run is resumed, and a digest to tell recipes apart."""

import hashlib
from typing import Any

from omegaconf import DictConfig, OmegaConf

from siamese.schema.check import defaults, locate
from siamese.schema.saved import ADDED, upgraded

# Keys that may change when a run is resumed: length, place, monitoring, and how data reach the device. A name that
# ends in a dot or an underscore is a prefix.
RESUME_MUTABLE_KEYS = (
    "mode", "epochs", "run_dir", "resume", "overwrite", "report", "init_from", "deterministic", "compile", "on_",
    "checkpoint.", "monitor.", "logger.", "probe.", "augment.compiled", "trainer.accelerator", "trainer.devices",
    "trainer.num_nodes", "trainer.strategy", "trainer.log_every_n_steps", "trainer.deterministic",
    "trainer.accumulate_grad_batches", "data.path", "data.test_path", "data.download", "data.packed", "data.resident",
    "data.workers", "data.epochs", "data.batch_size", "data.show", "data.labels", "data.list", "augment_scale.",
    "augment_recipe.",
    "method.teacher.file", "callbacks.",
)  # fmt: skip
MEASURED_KEYS = ("channels", "value_range", "mean", "std")  # keys of `data` that auto takes from the images


def changed_recipe(before: dict[str, Any], now: dict[str, Any], in_mid_epoch: bool) -> list[str]:
    """The differences that forbid to resume the run of config `before` with config `now`, as "key=now (was before)".

    Args:
        in_mid_epoch: the checkpoint lies within an epoch, where accumulation must not change.
    """
    fixed = ["trainer.accumulate_grad_batches"] * in_mid_epoch
    old, new = _flat(upgraded(before)), _flat(now)
    # A key that was added since has no effect while it has its default.
    added = {k for k, v in _defaults(now).items() if k in new and k not in old and new[k] == v}
    return [
        f"{key}={new.get(key, 'missing')} (was {old.get(key, 'missing')})"
        for key in sorted({*old, *new})
        if (key in fixed or not key.startswith(RESUME_MUTABLE_KEYS))
        and key not in added
        and old.get(key) != new.get(key)
    ]


def as_measured(cfg: DictConfig, before: dict[str, Any]) -> DictConfig:
    """A copy of the config in which ``auto`` of `MEASURED_KEYS` is what the run of config `before` measured, and one
    entry for all channels is what that run made of it; likewise ``auto`` of the method (`Method.by_backbone`)."""
    cfg, old = cfg.copy(), upgraded(before)
    for group, key in ((g, k) for g in ("data", "augment") for k in MEASURED_KEYS):
        node, now = old.get(group), cfg[group].get(key)
        was = node.get(key) if isinstance(node, dict) else None
        now = OmegaConf.to_container(now, resolve=True) if OmegaConf.is_config(now) else now
        one = isinstance(was, list) and isinstance(now, list) and len(now) == 1 and was == now * len(was)
        if was is not None and (now == "auto" or one):
            cfg[group][key] = was
    method = old.get("method")
    for key in [k for k, v in cfg.method.items() if v == "auto"]:
        if isinstance(method, dict) and method.get(key) is not None and method.get("_target_") == cfg.method._target_:
            cfg.method[key] = method[key]
    return cfg


def recipe_digest(config: dict[str, Any]) -> str:
    """Eight hexadecimal digits, equal for two runs that differ only in the seed or in what does not change the
    training."""
    mutable = tuple(key for key in RESUME_MUTABLE_KEYS if key not in ("epochs", "init_from"))
    fixed = {
        k: v
        for k, v in _flat(upgraded(config)).items()  # null is equal to a key that did not exist yet
        if v is not None
        and not k.startswith(mutable)
        and k.split(".")[-1] != "seed"
        and not (k in ADDED and v == ADDED[k])
    }
    return hashlib.sha256(repr(sorted(fixed.items())).encode()).hexdigest()[:8]


def _defaults(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of the arguments of every target in a config of our own -> their defaults."""
    out: dict[str, Any] = {}
    if isinstance(node.get("_target_"), str):
        preset = defaults(locate(f"{prefix}_target_", node["_target_"]))
        out = {f"{prefix}{name}": value for name, value in preset.items()}
    for key, value in node.items():
        out |= _defaults(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
    return out


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of the innermost values. An empty node has none."""
    out: dict[str, Any] = {}
    for key, value in node.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
