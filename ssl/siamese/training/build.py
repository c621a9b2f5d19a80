"""check(cfg) -> build(plan): everything is checked and built before anything is written."""

import copy
import logging
import math
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from siamese import factory, run_dir
from siamese.augment import View, Views
from siamese.backbones import Backbone
from siamese.batchnorm import SyncBatchNorm, convert_batchnorm, plain_batchnorms
from siamese.checkpoints.formats import TIMM, load_backbone
from siamese.config import in_sweep, make, to_dict
from siamese.data import DataSet, Loader, LoaderConfig, Split
from siamese.environment import channels_last, keep_freed_memory, limit_threads
from siamese.errors import UserError
from siamese.methods import Method
from siamese.methods.teacher import Teacher
from siamese.optim import OptimizerRecipe
from siamese.output import console
from siamese.probes import LinearGrid
from siamese.probes.multilabel import MultilabelGrid
from siamese.recipe import as_measured
from siamese.schema import check_train
from siamese.signals import SignalWatch
from siamese.training import tracking
from siamese.training.callbacks import (
    AtomicCheckpointIO,
    LearningRate,
    NonFiniteGradients,
    OnlineEvaluation,
    ProgressBar,
    ReportPage,
    SaveCheckpoints,
)
from siamese.training.chosen import chosen_callbacks
from siamese.training.devices import (
    check_devices,
    make_trainer,
    micro_batch_and_steps,
    on_gpu,
    resolve_auto,
    resolve_compile,
    what_shortens,
    work_of_a_step,
)
from siamese.training.page import RunReport
from siamese.training.probe import Probe, make_probe
from siamese.training.resume import ResumePoint, check_crops, check_images, check_resumable, find_resume_point
from siamese.training.state import RunState


@dataclass(frozen=True)
class Plan:
    """A checked config.

    Args:
        cfg: with ``auto`` resolved.
        folder: the run folder, not created yet.
        optimizer: how to train.
        grid: linear heads of the closing table.
        several: these where an image may have several labels.
        resume_from: the checkpoint to continue from, or None.
    """

    cfg: DictConfig
    folder: Path
    optimizer: OptimizerRecipe
    grid: LinearGrid
    several: MultilabelGrid
    resume_from: ResumePoint | None


@dataclass(frozen=True)
class Training:
    """The finished objects of a run, in the order of their construction.

    Args:
        plan: the checked config.
        console: prints.
        measured: settings that were taken from the images, for the user.
        views: of a batch; views_note says whether they are compiled, and why; compile_note says it of the networks.
        untrained: the backbone before training, for a row of the closing table.
        started_from: format of the file of `init_from`, None without one.
        data: the data set; `split` is what is trained on.
        method: the LightningModule.
        trainer: Lightning's, with all callbacks.
        loaders: how batches are made; `loader` gives the training's.
        probe: what online evaluation and closing table look at.
        state: figures of the run so far.
        signals: of the process.
        run_id: the run's own, by which wandb and MLflow know it.
        page: the report.
    """

    plan: Plan
    console: Console
    measured: str
    views: Views
    views_note: str
    compile_note: str
    untrained: Backbone
    started_from: str | None
    data: DataSet
    split: Split
    method: Method
    trainer: pl.Trainer
    loaders: LoaderConfig
    loader: Loader
    probe: Probe
    state: RunState
    signals: SignalWatch
    run_id: str
    page: RunReport


def check(cfg: DictConfig) -> Plan:
    """Check a composed conf/train.yaml against types, devices, the run folder and the checkpoint to resume.

    Raises:
        UserError: something in the config cannot work. Nothing has been written.
    """
    check_train(cfg)
    cfg = resolve_auto(cfg)
    check_devices(cfg)
    optimizer = make(cfg.optimizer)
    optimizer.check(cfg.epochs)
    grid, several = make(cfg.probe.linear), make(cfg.probe.multilabel)
    folder = run_dir.resolve_run_dir(cfg, f"outputs/{cfg.data.name}/{cfg.method.name}")
    resumes = run_dir.check(folder, cfg.resume, cfg.overwrite)
    point = find_resume_point(cfg, folder) if resumes else None
    if cfg.mode == "train":
        tracking.check(cfg)
    if point is not None:
        cfg = as_measured(cfg, point.meta["config"])
    return Plan(cfg, folder, optimizer, grid, several, point)


def build(plan: Plan) -> Training:
    """Build a run.

    Raises:
        UserError: data, weights or the combination of settings cannot work. Nothing has been written.
    """
    cfg, point = plan.cfg, plan.resume_from
    _prepare_process(cfg)
    data = factory.data_set(cfg)
    split = data.train_labeled if factory.uses_labels(cfg) else data.pretrain
    if point is not None:
        check_images(point, len(split), data.labels_digest)
    cfg, measured = factory.resolve_images(cfg, split if len(split) else data.pretrain)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    views = factory.views(cfg)
    network, untrained, started_from = _backbone(cfg, point)
    steps = len(split) // cfg.batch_size
    cfg, compile_note = resolve_compile(factory.resolve_method(cfg, network), steps, views.sizes)
    plan = replace(plan, cfg=cfg)
    base = {"optimizer": plan.optimizer, "global_batch": cfg.batch_size, "steps_per_epoch": steps}
    method = factory.method(_with_saved_teacher(cfg, point), network, data, views=views, **base)
    channels_last(method)
    if point is not None:
        check_resumable(point.state, method, point.setting)
    state, signals = RunState(plan.folder / "checkpoints" / "last.ckpt"), SignalWatch()
    files = AtomicCheckpointIO(state, last_is_damaged=point is not None and point.file != state.checkpoint)
    trainer = make_trainer(cfg, steps, method.sync_batchnorm, [files])
    micro_batch, _ = micro_batch_and_steps(cfg, trainer.world_size, len(split))
    method.check(cfg.batch_size, micro_batch)
    _prepare_networks(cfg, method, trainer, _work(cfg, untrained, views, micro_batch))
    views_note = views.prepare(cfg.epochs * steps * cfg.batch_size, trainer.strategy.root_device)
    loaders = factory.loader_config(cfg, trainer.strategy.root_device, data)
    origin, batches = "files" if loaders.cuts_files(split) else "store", steps * cfg.trainer.accumulate_grad_batches
    made = cast(Sequence[View], views.views)
    cutter = factory.random_crops(made, cfg.seed)
    loader = loaders.loader(split, micro_batch, shuffle=True, epoch_batches=batches, cutter=cutter)
    if point is not None:
        check_crops(point, origin)
        loader.skipped |= point.skipped  # Lightning restores it in mid-epoch only
    probe = make_probe(cfg, data, loaders, made)
    run_id = (point and point.meta.get("run_id")) or uuid.uuid4().hex[:8]
    meta = {"config": to_dict(cfg), "num_classes": data.num_classes, "run_id": run_id, "images": len(split),
            "labels": data.labels_digest, "crops": origin}  # fmt: skip
    shown_on = console()
    page = RunReport(plan.folder, cfg.report and trainer.is_global_zero, shown_on)
    # The order at the end of an epoch: checked for finiteness, evaluated, shown, reported, saved.
    online = OnlineEvaluation(probe, state, cfg.monitor.every, cfg.monitor.online_lr, cfg.on_collapse)
    trainer.callbacks += [  # type: ignore[attr-defined]
        LearningRate(),
        NonFiniteGradients(cfg.on_nonfinite, state),
        online,
        *chosen_callbacks(cfg, online),
        ProgressBar(state, cfg.batch_size, steps, shown_on, what_shortens(cfg)),
        ReportPage(page, cfg.monitor.every),
        SaveCheckpoints(state, signals, **cfg.checkpoint, meta=meta, before_save=loader.share_skipped),
    ]
    return Training(
        plan, shown_on, measured, views, views_note, compile_note, untrained, started_from, data, split, method,
        trainer, loaders, loader, probe, state, signals, run_id, page,
    )  # fmt: skip


def _backbone(cfg: DictConfig, point: ResumePoint | None) -> tuple[Backbone, Backbone, str | None]:
    """The backbone, the untrained one, and the format of `init_from`.

    A resumed run takes all weights from its checkpoint. It reads `init_from` for a row of the closing table only, if
    that can still be had.
    """
    network = factory.backbone(cfg)
    if cfg.init_from is None:
        return network, network, None
    untrained, file = copy.deepcopy(network), str(cfg.init_from)
    if point is not None and not file.startswith(TIMM) and not Path(file).is_file():
        return network, network, None
    try:
        return network, untrained, load_backbone(network, file, "init_from")
    except UserError:
        if point is None or not file.startswith(TIMM):
            raise
        return untrained, untrained, None  # timm's weights are no longer in its cache


def _with_saved_teacher(cfg: DictConfig, point: ResumePoint | None) -> DictConfig:
    """A copy by which a resumed run downloads no teacher: its checkpoint has the weights."""
    cfg = cfg.copy()
    if point is not None and "pretrained" in (cfg.method.get("teacher") or {}):
        cfg.method.teacher.pretrained = False
    return cfg


def _work(cfg: DictConfig, network: nn.Module, views: Views, images: int) -> float:
    """`work_of_a_step` of a CPU; of a GPU, where nothing depends on it, infinity."""
    return math.inf if on_gpu(cfg) else work_of_a_step(network, int(cfg.data.channels), views.sizes, images)


def _prepare_networks(cfg: DictConfig, method: nn.Module, trainer: pl.Trainer, work: float) -> None:
    """Synchronise BatchNorm, compile, choose threads, as devices, settings and the work of a step ask."""
    assert isinstance(method, Method)
    limit_threads(work)
    if trainer.world_size > 1 and method.sync_batchnorm:
        if trainer.strategy.root_device.type == "cpu":
            for part in (p for p in method.children() if not isinstance(p, Teacher)):  # a teacher is in eval mode
                plain_batchnorms(part)
                convert_batchnorm(part, SyncBatchNorm)
        else:  # Lightning uses torch's own, everywhere
            plain_batchnorms(method)
    if cfg.compile:
        torch.compiler.reset()  # else the trials of a sweep reach the limit of recompilations
        method.compile_networks()
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size > 1 and in_sweep() and not (environment and environment.creates_processes_externally):
        raise UserError(
            f"trainer.devices={trainer.world_size}",
            "a sweep's launcher starts one process a trial",
            "use trainer.devices=1, or hydra/launcher=submitit_local or submitit_slurm, which start one a device",
        )


def _prepare_process(cfg: DictConfig) -> None:
    """Memory and precision; silence about what no user can act on: Lightning's banners, libraries about each other."""
    keep_freed_memory()
    limit_threads()
    if on_gpu(cfg) and not cfg.deterministic:
        torch.set_float32_matmul_precision("high")  # TF32, which cuDNN's convolutions use anyway
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*is deprecated", ".*does not have many workers", ".*smaller than the logging interval",
        r".*module\(s\) in eval mode at the start of training",  # a teacher
    ):  # fmt: skip
        warnings.filterwarnings("ignore", message)
