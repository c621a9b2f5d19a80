"""Settings of eval_linear.py: the protocols, and the pretraining that the checkpoint comes from."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siamese import factory
from siamese.checkpoints import formats, reading
from siamese.config import make, to_dict
from siamese.errors import UserError
from siamese.evaluation.protocols import Protocol
from siamese.recipe import MEASURED_KEYS
from siamese.schema import check_train
from siamese.schema.messages import all_keys, explain
from siamese.schema.saved import ADDED, trusted

GROUPS = ("data", "backbone", "augment")
# Keys of `data` that say where images are, not which labels are held out.
PLACES = ("path", "test_path", "labels", "list", "download", "packed", "on_error", "_target_")


def make_protocols(cfg: DictConfig) -> dict[str, Protocol]:
    """The protocols that `eval.protocols` names, in that order; all of them by their `order`.

    Raises:
        UserError: there is no such protocol, or one of its settings is impossible.
    """
    known = [key for key, node in cfg.eval.items() if isinstance(node, DictConfig) and "_target_" in node]
    wanted = [str(name) for name in cfg.eval.protocols]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(
            f"eval.protocols={wanted}", f"{', '.join(unknown)}: no such protocol",
            f"choose from {', '.join(known)}, or eval=all",
        )  # fmt: skip
    made: list[Protocol] = []
    for name in known:  # all of them, so that an impossible value is refused in a protocol that does not run, too
        protocol = make(cfg.eval[name])
        if name not in wanted:
            continue
        if not isinstance(protocol, Protocol) or not dataclasses.is_dataclass(protocol) or protocol.name != name:
            raise UserError(
                f"eval.{name}._target_={cfg.eval[name]._target_}", "is not a Protocol, a dataclass, of this name",
                f"correct conf/eval/{name}/default.yaml; see ssl/siamese/evaluation/protocols/base.py",
            )  # fmt: skip
        made.append(protocol)
    by_name = {protocol.name: protocol for protocol in made}
    if set(wanted) == set(known):  # eval=all
        return dict(sorted(by_name.items(), key=lambda item: item[1].order))
    return {name: by_name[name] for name in wanted}


def keys_read_by(cfg: DictConfig, protocol: str) -> list[str]:
    """Keys of `eval` that a protocol reads: its own, and those that its node refers to as ``${eval.KEY}``."""
    raw = str(OmegaConf.to_container(cfg.eval[protocol], resolve=False))
    return [protocol, *re.findall(r"\$\{eval\.([\w.]+)\}", raw)]


def check_used(overrides: Sequence[str], cfg: DictConfig, protocols: Sequence[str]) -> None:
    """Refuse settings of a protocol that does not run: they would have no effect.

    Args:
        overrides: as typed on the command line.
        protocols: that run.
    """
    read = {key for protocol in protocols for key in keys_read_by(cfg, protocol)}
    for given in overrides:
        found = re.match(r"[+~]*eval([./])([\w.]+)=", given)
        if found is None:
            continue
        key = found.group(2)
        name = key.split(".")[0]
        node = cfg.eval.get(name)
        if not isinstance(node, DictConfig) or "_target_" not in node:
            continue  # a setting that all protocols share
        # A group of options, as eval/lowshot=byol, may set other nodes as well, and belongs to its own protocol.
        used = name in protocols if found.group(1) == "/" else any(f"{key}.".startswith(f"{r}.") for r in read)
        if not used:
            running = ", ".join(protocols)
            raise UserError(
                given, f"{name} does not run, but {running}",
                f"add eval={name}, or eval.protocols=[{','.join([*protocols, name])}]",
            )  # fmt: skip


def composed(setting: str, overrides: Sequence[str]) -> DictConfig:
    """A checked config of train.py.

    Args:
        setting: that gave the overrides, for messages.
        overrides: as on the command line.
    """
    try:
        cfg = compose("train", overrides=[*_searchpath(), *overrides])
        check_train(cfg)
        OmegaConf.resolve(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise _of(setting, explain(error, overrides, all_keys(compose("train")))) from error
    except ValueError as error:  # a group that is named by a number
        raise UserError(setting, str(error).splitlines()[0], "give settings of train.py") from error
    except UserError as error:
        raise _of(setting, error) from error
    OmegaConf.set_struct(cfg, False)
    return cfg


def _searchpath() -> list[str]:
    """`hydra.searchpath=` of the command line, for a user's own options."""
    given = HydraConfig.get().overrides.hydra if HydraConfig.initialized() else []
    return [o for o in given if o.startswith("hydra.searchpath=")]


def _of(setting: str, error: UserError) -> UserError:
    """The error, with the setting that it comes from unless that says so already."""
    if error.setting in setting:
        return error
    return UserError(setting, f"{error.setting}: {error.problem}", error.remedy)


class Given:
    """The settings of a pretraining that were given with `data=`, `backbone=`, `augment=`, or in `foreign=`.

    Args:
        items: as on the command line, or KEY:VALUE.

    Attributes:
        overrides: as on the command line.
        setting: for messages.
    """

    def __init__(self, items: Sequence[str]):
        self.overrides = [i if re.match(r"[^:]*=", i) else i.replace(":", "=", 1) for i in map(str, items)]
        self.setting = " ".join(self.overrides)

    def chooses(self, group: str) -> bool:
        """Whether an option of the group is given."""
        return any(o.split("=")[0].split("@")[0] == group for o in self.overrides)

    def has(self, key: str) -> bool:
        """Whether the key is given."""
        return any(o.lstrip("+").startswith(f"{key}=") for o in self.overrides)


def trusted_config(state: Mapping[str, Any], setting: str, trust: bool) -> DictConfig:
    """The config of a checkpoint of ours, which may come from a stranger: nothing is downloaded or packed for it."""
    trained = trusted(state[reading.KEY]["config"], setting, trust)
    if "pretrained" in trained.backbone:
        trained.backbone.pretrained = False  # the file has the weights
    if "pretrained" in (trained.method.get("teacher") or {}):
        trained.method.teacher.pretrained = False
    if "download" in trained.data:
        trained.data.download = False
    if "packed" in trained.data:
        trained.data.packed = None
    return trained


def of_ours(trained: DictConfig, given: Given, path: Any = None) -> DictConfig:
    """The config by which a checkpoint of ours is judged: its own, with the groups that are given in place of its own.

    Images keep crop, value range, mean and std of the training, so that the network sees what it was trained on, unless
    these keys are given, or the first layer is adapted to other images. The data set of the training keeps its split,
    so that no training image is tested on.

    Args:
        path: where the images lie, if that is given outside of `given` (`data.path=` of the evaluation's own config).
    """
    if not given.overrides:
        return trained
    for override in given.overrides:
        group = re.split(r"[.@/=]", override.lstrip("+~"))[0]
        if group not in GROUPS:
            remedy = "use augment=SCALE/RECIPE" if group.startswith("augment_") else f"choose {'=, '.join(GROUPS)}="
            raise UserError(override, "is not a setting of this evaluation", remedy)
        if not given.chooses(group):
            raise UserError(
                override,
                "the checkpoint holds its own config",
                f"leave it out, or choose {'=, '.join(GROUPS)}= with it",
            )
    adapts = any(o.lstrip("+").lower() == "backbone.adapt_first_layer=true" for o in given.overrides)
    view = {key: "auto" if adapts else to_dict(trained.data)[key] for key in MEASURED_KEYS} | {
        "crop": trained.data.crop
    }
    own = composed(given.setting, [*(f"data.{k}={v}" for k, v in view.items()), *given.overrides])
    out = trained.copy()
    if given.chooses("data"):
        keys = [key for key in own.data if given.has(f"data.{key}")]
        if path is None and "path" in keys:
            path = own.data.path
        out.data = _data_of(trained, own, keys, path)
    for group in ("backbone", "augment"):
        if given.chooses(group):
            out[group] = own[group]
    if not given.chooses("augment") and given.has("data.crop"):
        out.augment.size = out.data.crop
    for key in (k for k in MEASURED_KEYS if adapts or given.has(f"data.{k}")):
        for node in (n for n in (out.data, out.augment, out.backbone) if key in n):
            node[key] = own.data[key]
    return out


def _data_of(trained: DictConfig, own: DictConfig, given: Sequence[str], path: Any) -> DictConfig:
    """The data set of `own`, or the training's if it is the same one, with its split.

    Args:
        given: keys that the user gave, none of which may change the training's split.
        path: where the user says that the images lie, or None.
    """
    if (own.data.name, own.data._target_) != (trained.data.name, trained.data._target_):
        return own.data
    paths = [str(p) for p in (trained.data.get("path"), path) if p is not None]
    if len(paths) == 2 and all(map(os.path.exists, paths)) and not os.path.samefile(*paths):
        return own.data  # other images of the same kind
    data = trained.data.copy()
    for key in given:
        before = data.get(key, ADDED.get(f"data.{key}"))
        if key not in (*factory.LOADING, *PLACES, "size") and own.data[key] != before:
            raise UserError(
                f"data.{key}={own.data[key]}", f"the checkpoint was trained with data.{key}={before}",
                "leave it out: with another split training images could be tested on",
            )  # fmt: skip
        data[key] = own.data[key]
    return data


def of_third_party(ckpt: str, kind: str, tensors: int, given: Given) -> DictConfig:
    """The config of a run that could have written a third-party checkpoint."""
    if not given.overrides:
        raise UserError(
            f"ckpt={ckpt}", f"was not written by train.py ({kind}, {tensors} tensors of a backbone)",
            "name its backbone and the data to judge it on, as in backbone=resnet50 data=imagenet data.path=DIR",
        )  # fmt: skip
    described = composed(given.setting, given.overrides)
    described.method.name = "checkpoint"
    return described


def other_data(item: str, trained: DictConfig, cfg: DictConfig, taken: Sequence[str]) -> tuple[str, DictConfig]:
    """An entry of `eval.data`, "name" or "name:path", to its label and a config of this data set with the checkpoint's
    view.

    Args:
        taken: labels of other data sets.
    """
    name, _, path = item.partition(":")
    label = item if name in taken and path else name  # a second data set of one kind has its path in the label
    if label in taken:
        raise UserError(f"eval.data=[{item}]", "is judged already", "name each data set once")
    other = composed(f"eval.data=[{item}]", [f"data={name}", *([f"data.path={path}"] if path else [])])
    other.data = _data_of(trained, other, ["path"] if path else [], path or None)
    other.augment = trained.augment
    for key in ("crop", *MEASURED_KEYS):
        other.data[key] = trained.data[key]
    for key in ("resident", "resident_mb", "workers"):
        other.data[key] = cfg.data[key]
    return label, other


def update_data(trained: DictConfig, cfg: DictConfig) -> None:
    """Take the keys of `data` that are given in the evaluation's own config: where the data set lies now."""
    given = {k: v for k, v in cfg.data.items() if v is not None}
    for key in [k for k in given if k not in trained.data]:
        raise UserError(f"data.{key}={given[key]}", f"data={trained.data.name} has no such key", "leave it out")
    trained.data.update(given)


def resolve_device(name: str) -> torch.device:
    """`device=` to a device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda", "this machine has no CUDA device", "use device=cpu or device=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def pretraining(cfg: DictConfig, state: Any) -> tuple[DictConfig, DictConfig, str]:
    """(the config of the pretraining, the config to judge by, the file's format)."""
    given = Given(cfg.foreign)
    if reading.is_ours(state):
        trained = trusted_config(state, f"ckpt={cfg.ckpt}", cfg.trust_config)
        kind, judged = formats.OURS, of_ours(trained, given, cfg.data.path)
    else:
        kind, tensors = formats.recognise(cfg.ckpt, state)
        trained = judged = of_third_party(cfg.ckpt, kind, len(tensors), given)
    update_data(judged, cfg)
    return trained, judged, kind


def as_trained(protocols: Mapping[str, Protocol], trained: DictConfig) -> dict[str, Protocol]:
    """The protocols with their null settings taken from the training."""
    probe = to_dict(trained.probe)
    return {name: protocol.as_trained(probe) for name, protocol in protocols.items()}
