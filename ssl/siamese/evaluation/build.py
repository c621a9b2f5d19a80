"""check(cfg) -> build(plan): everything is checked and loaded before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from siamese import factory, run_dir
from siamese.checkpoints import formats, reading
from siamese.config import to_dict
from siamese.data import DataSet
from siamese.data.statistics import value_range
from siamese.environment import Stopwatch, channels_last, keep_freed_memory, limit_threads
from siamese.errors import UserError, printable
from siamese.evaluation import settings
from siamese.evaluation.baselines import Row, load_projector, supervised_row
from siamese.evaluation.cache import FeatureCache
from siamese.evaluation.customary import customary
from siamese.evaluation.protocols import Protocol
from siamese.evaluation.several_labels import check_protocols
from siamese.files import digest_of_file
from siamese.output import console
from siamese.paths import expand_path
from siamese.schema import check_eval

LEAST_SHARED = 0.1  # of the ranges of values of the images and of the training; 8 of 12 bits share 1/16


@dataclass(frozen=True)
class Plan:
    """A checked config.

    Args:
        cfg: conf/eval_linear.yaml.
        file: the checkpoint; `state` is its content, `sha256` its digest when it was read.
        trained: the config of the pretraining.
        judged: the config by which the features are judged.
        kind: the file's format.
        protocols: that run, in this order. With `eval=all` each runs on the data sets that it can judge.
        device: of all computation.
        folder: the run folder, not created yet.
        watch: runs since the check.
    """

    cfg: DictConfig
    file: Path
    sha256: str
    state: Any
    trained: DictConfig
    judged: DictConfig
    kind: str
    protocols: dict[str, Protocol]
    device: torch.device
    folder: Path
    watch: Stopwatch

    @property
    def ours(self) -> bool:
        """Whether train.py wrote the checkpoint."""
        return self.kind == formats.OURS


@dataclass(frozen=True)
class Evaluation:
    """The finished objects of an evaluation.

    Args:
        plan: the checked config.
        console: prints.
        data: label -> data set and config.
        rows: kinds of features, the checkpoint's last.
        projector: of the checkpoint, or None.
        supervised: what results.json says of `eval.supervised`.
        cache: keeps features.
    """

    plan: Plan
    console: Console
    data: dict[str, tuple[DataSet, DictConfig]]
    rows: tuple[Row, ...]
    projector: nn.Module | None
    supervised: dict[str, Any] | None
    cache: FeatureCache


def check(cfg: DictConfig, overrides: Sequence[str] | None = None) -> Plan:
    """Check the config against types, the checkpoint and the run folder; see `evaluate`.

    Raises:
        UserError: something cannot work. Nothing has been written.
    """
    watch = Stopwatch()
    check_eval(cfg)
    protocols = settings.make_protocols(cfg)
    if overrides is None:
        overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    settings.check_used(overrides, cfg, list(protocols))
    if OmegaConf.is_missing(cfg, "ckpt") or cfg.ckpt is None:
        raise UserError("ckpt=", "no checkpoint was given", "give ckpt=outputs/…/checkpoints/last.ckpt")
    state, file = reading.read(cfg.ckpt), expand_path(cfg.ckpt, "ckpt")
    sha256 = digest_of_file(file)
    trained, judged, kind = settings.pretraining(cfg, state)
    protocols = settings.as_trained(protocols, trained)
    device = settings.resolve_device(cfg.device)
    folder = run_dir.resolve_run_dir(cfg, f"outputs/eval_linear/{judged.data.name}/{trained.method.name}")
    run_dir.check(folder, resume=None, overwrite=cfg.overwrite)
    return Plan(cfg, file, sha256, state, trained, judged, kind, protocols, device, folder, watch)


def build(plan: Plan) -> Evaluation:
    """Load data and networks.

    Raises:
        UserError: data or weights cannot work. Nothing has been written.
    """
    cfg, trained = plan.cfg, plan.trained
    shown_on = console()
    keep_freed_memory()
    limit_threads()
    given = settings.Given(cfg.foreign)
    as_trained = not given.chooses("data") or not plan.ours
    first = _data_set(plan, plan.judged, (plan.ours and as_trained) or given.has("data.value_range"))
    judged = plan.judged if plan.ours else customary(plan.judged, given, first.pretrain.images, shown_on)
    judged, measured = factory.resolve_images(judged, first.pretrain)
    if measured:
        shown_on.print(f"images: {measured}", soft_wrap=True)
    plan = replace(plan, judged=judged, trained=trained if plan.ours else judged)
    trained = plan.trained
    data = {judged.data.name: (first, judged)}
    if plan.ours and as_trained:
        _check_classes(plan, first)
    for item in cfg.eval.data:
        label, other = settings.other_data(str(item), judged, cfg, list(data))
        data[label] = _data_set(plan, other), other
    pl.seed_everything(trained.seed, verbose=False)  # the untrained backbone is the one that was trained
    backbone, untrained = factory.backbone(judged), factory.backbone(judged)
    untrained.load_state_dict(backbone.state_dict())
    if plan.ours:
        tensors = reading.backbone_state(plan.state)
    else:
        tensors = formats.recognise(cfg.ckpt, plan.state, keep=backbone.state_dict())[1]
    adapted = formats.fill(cfg.ckpt, plan.kind, backbone, tensors)
    if adapted:
        shown_on.print(adapted, soft_wrap=True)
    rows, supervised = [Row("raw_pixels", None, judged), Row("random_init", untrained, judged)], None
    if cfg.eval.supervised is not None:
        row, supervised = supervised_row(cfg, trained, first if as_trained else None)
        rows.append(row)
    rows.append(Row(trained.method.name, backbone, judged))
    projector = None
    if plan.ours and "unlabelled" in plan.protocols:
        try:
            projector = load_projector(plan.state, trained, backbone, first)
        except Exception as error:  # a user's own method that is not importable here, or other tensors
            reason = printable(str(error))[:200]
            shown_on.print(f"the projector is not judged: method={trained.method.name} ({reason})", soft_wrap=True)
    for network in [row.network for row in rows] + [projector]:
        if network is not None:
            channels_last(network).to(plan.device).requires_grad_(False).eval()
    folder = None if cfg.eval.cache is None else expand_path(cfg.eval.cache, "eval.cache")
    cache = FeatureCache(folder, cfg.eval.in_memory_mb)
    return Evaluation(plan, shown_on, data, tuple(rows), projector, supervised, cache)


def _check_classes(plan: Plan, data: DataSet) -> None:
    """Refuse a data set that has other classes than when the checkpoint was trained."""
    known = plan.state[reading.KEY].get("num_classes")
    if isinstance(known, bool) or not isinstance(known, int):
        raise UserError(f"ckpt={plan.cfg.ckpt}", "does not say how many classes it knows", "use another checkpoint")
    if known and data.num_classes != known:
        raise UserError(
            f"data={data.name}", f"has {data.num_classes} classes now, {known} when the checkpoint was trained",
            "check data.path",
        )  # fmt: skip
    if plan.state[reading.KEY].get("labels", data.labels_digest) != data.labels_digest:
        raise UserError(
            f"data={data.name}", "its classes, labels or validation split have changed since the checkpoint was "
            "trained: training images could be tested on", "give the labels of the training, or another data=",
        )  # fmt: skip


def _data_set(plan: Plan, cfg: DictConfig, range_is_theirs: bool = False) -> DataSet:
    data = factory.data_set(cfg)
    needed = any(protocol.needs_labels for protocol in plan.protocols.values())
    if needed and (not data.labelled or not data.test or not len(data.test)):
        raise UserError(
            f"data={data.name}", "has no labels or no test split with labels",
            "these protocols need both; eval=unlabelled does not",
        )  # fmt: skip
    check_protocols(plan.cfg, plan.protocols, data)
    check_values(cfg, data, range_is_theirs)
    return data


def check_values(cfg: DictConfig, data: DataSet, range_is_theirs: bool) -> None:
    """Refuse images that do not fit the network: other channels, or values of which too little lies in its range.

    Args:
        range_is_theirs: `data.value_range` was measured on these images, or given for them.
    """
    store, ranges = data.pretrain.images, to_dict(cfg.data)["value_range"]
    takes = cfg.data.channels
    if takes not in ("auto", store.channels) and (store.channels, takes) != (1, 3):
        raise UserError(
            f"data={data.name}", f"its images have {store.channels} channels, the network takes {takes}",
            "add backbone=NAME backbone.adapt_first_layer=true, or use other images",
        )  # fmt: skip
    if ranges == "auto" or range_is_theirs:
        return
    found = value_range(store, max(1, cfg.data.workers))
    theirs, pairs = (r if isinstance(r[0], list) else [r] for r in (found, ranges))
    count = max(len(theirs), len(pairs))
    both = zip(theirs * (count // len(theirs)), pairs * (count // len(pairs)), strict=True)
    if 2 * sum(shared_part(a, b) < LEAST_SHARED for a, b in both) > count:
        kind = str(store.dtype).removeprefix("torch.")
        raise UserError(
            f"data={data.name}", f"its images are {kind} with values in {found}, the network was trained on {ranges}",
            f"judge it alone by data={data.name} data.value_range=[LOW,HIGH], the values that become 0 and 1",
        )  # fmt: skip


def shared_part(one: Sequence[float], other: Sequence[float]) -> float:
    """The share of the longer of two intervals that lies in both."""
    return (min(one[1], other[1]) - max(one[0], other[0])) / max(one[1] - one[0], other[1] - other[0])
