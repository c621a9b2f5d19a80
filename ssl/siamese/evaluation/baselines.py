"""The rows beside a checkpoint: its untrained backbone, and a supervised run."""

import copy
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import DictConfig
from torch import nn

from siamese import factory
from siamese.backbones import Backbone
from siamese.checkpoints import formats, reading
from siamese.config import to_dict
from siamese.data import DataSet
from siamese.errors import UserError
from siamese.evaluation.settings import PLACES, trusted_config
from siamese.files import digest_of_file
from siamese.paths import expand_path
from siamese.recipe import recipe_digest
from siamese.schema.saved import ADDED


@dataclass(frozen=True)
class Row:
    """A kind of features in the tables.

    Args:
        name: of the row.
        network: frozen; None for raw pixels.
        trained: the config of its training, for view and normalisation.
    """

    name: str
    network: Backbone | None
    trained: DictConfig


def supervised_row(cfg: DictConfig, trained: DictConfig, data: DataSet | None) -> tuple[Row, dict[str, Any]]:
    """The row of `eval.supervised`, and what results.json says of it.

    Args:
        cfg: conf/eval_linear.yaml.
        trained: the config of the checkpoint's pretraining.
        data: its data set, None if the features are judged on another one.

    Raises:
        UserError: the file is not of method=supervised, or it was trained on other data or another split, whose labels
            would have chosen settings here.
    """
    file = cfg.eval.supervised
    setting = f"eval.supervised={file}"
    if trained.method.name == "supervised":
        raise UserError(
            setting, "the checkpoint itself is of method=supervised",
            "leave it out, and put two evaluations side by side by compare=",
        )  # fmt: skip
    state = reading.load(file, "eval.supervised")
    own = trusted_config(state, setting, cfg.trust_config)
    if own.method.name != "supervised" or own.data.name != trained.data.name:
        raise UserError(
            setting, f"is of method={own.method.name} on {own.data.name}",
            f"give a checkpoint of method=supervised data={trained.data.name}",
        )  # fmt: skip
    here, there = ({k: v for k, v in c.data.items() if k not in (*factory.LOADING, *PLACES)} for c in (trained, own))
    for one in (here, there):  # keys that a file lacks because it is older
        one.update({k: ADDED[f"data.{k}"] for k in {**here, **there} if k not in one and f"data.{k}" in ADDED})
    differs = [
        f"data.{k}={there.get(k)} (here {here.get(k)})" for k in {**here, **there} if here.get(k) != there.get(k)
    ]
    if data is not None:
        found, count = state[reading.KEY], len(data.train_labeled)
        if found.get("num_classes") != data.num_classes or found.get("images", count) != count:
            differs.append(
                f"{found.get('num_classes')} classes and {found.get('images')} images "
                f"(here {data.num_classes} and {count})"
            )
    if differs:
        raise UserError(
            setting, f"was trained on other labels: {', '.join(differs)}",
            "give one that was trained on the same data set and split",
        )  # fmt: skip
    network = factory.backbone(own)
    formats.fill(file, formats.OURS, network, reading.backbone_state(state), "eval.supervised")
    about = {
        "ckpt": str(file),
        "ckpt_sha256": digest_of_file(expand_path(file, "eval.supervised")),
        "recipe": recipe_digest(to_dict(own)),
        "backbone": own.backbone.name,
        "epochs": reading.epochs_of(state, own.epochs),
        "seed": own.seed,
    }
    return Row("supervised", network, own), about


def load_projector(state: dict[str, Any], trained: DictConfig, backbone: Backbone, data: DataSet) -> nn.Module | None:
    """The projector of a checkpoint of ours, None if the method has none.

    Raises:
        Exception: the method cannot be built here (a user's own class), or its tensors do not fit.
    """
    prefix = "projector."
    found = {k.removeprefix(prefix): v for k, v in reading.tensors(state).items() if k.startswith(prefix)}
    if not found or "teacher" in trained.method:  # a teacher would read another file
        return None
    method = factory.method(trained, copy.deepcopy(backbone), data)
    projector = cast(nn.Module, method.projector)
    projector.load_state_dict(found)
    return projector
