"""One pretraining run: build and check everything, train, report."""

import contextlib
import copy
import logging
import os
import re
import signal
import sys
import uuid
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from siamese import build, checkpoint, foreign, report, run, sweep
from siamese.csv_log import CsvLog
from siamese.distributed import SyncBatchNorm, convert_batchnorm, is_first, plain_batchnorms, union
from siamese.errors import Interrupted, Stopped, UserError
from siamese.evaluation import Features, raw_pixels
from siamese.memory import channels_last, keep_freed_memory
from siamese.monitor import health
from siamese.monitor.finite import FiniteGradients
from siamese.monitor.probes import Monitor
from siamese.monitor.progress import ProgressBar
from siamese.output import console
from siamese.resume import check_resumable
from siamese.schema import check_train
from siamese.schema.files import check_plain

FIGURES = ("knn_top1", "linear_top1", "feature_rank")  # of the closing table, in every logger too


class Session:
    """A run of `train.py`.

    Args:
        cfg: the composed config (conf/train.yaml).

    Raises:
        UserError: something in the config cannot work; nothing has been written yet.
    """

    def __init__(self, cfg: DictConfig):
        self.cfg = cfg
        check_train(cfg)
        self.console = console()
        build.choose(cfg)
        build.check_devices(cfg)
        optimizer = build.make(cfg.optimizer)
        optimizer.check(cfg.epochs)
        self.grid = build.make(cfg.eval.linear)
        self.peak_lr = optimizer.peak_lr(cfg.batch_size)
        self.folder = run.choose(cfg, f"outputs/{cfg.data.name}/{cfg.method.name}")
        self.hold: run.Hold | None = None
        self.ckpt: Path | None = None
        self.state: dict[str, Any] = {}
        if run.check(self.folder, cfg.resume, cfg.overwrite):
            self.ckpt, self.state = self._resumed()

        _hush()
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        keep_freed_memory()
        views = build.views(cfg)
        network = build.backbone(cfg)
        # Resumed, the checkpoint has all weights; those of the start are for a row of the table, if still there.
        self.with_start = cfg.init_from is not None and (self.ckpt is None or Path(str(cfg.init_from)).is_file())
        self.untrained = copy.deepcopy(network) if self.with_start else network
        if self.with_start:
            self.started_from = foreign.load_backbone(network, cfg.init_from, "init_from")
        self.data = build.data_set(cfg)
        self.method = build.method(cfg, network, self.data, views=views, optimizer=optimizer)
        channels_last(self.method)
        if build.on_gpu(cfg) and not cfg.deterministic:
            torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's convolutions have it anyway
        self.train_part = self.data.fit if self.method.uses_labels else self.data.pretrain
        saved = self.state.get(checkpoint.KEY, {})
        if saved.get("images", len(self.train_part)) != len(self.train_part):
            raise UserError(
                f"resume={str(cfg.resume).lower()} run_dir={cfg.run_dir}",
                f"the run was started on {saved['images']} images, {len(self.train_part)} are there now",
                "check data.path",
            )
        if self.ckpt is not None:
            check_resumable(self.state, self.method, f"resume={str(cfg.resume).lower()} run_dir={cfg.run_dir}")
        self.run_id = saved.get("run_id") or uuid.uuid4().hex[:8]
        # Lightning places the model; the monitor's images and the resident set follow it there.
        self.trainer = build.trainer(cfg, [], [], self.method.sync_batchnorm)
        device = self.trainer.strategy.root_device
        if self.trainer.world_size > 1 and self.method.sync_batchnorm:
            plain_batchnorms(self.method)
            if device.type == "cpu":
                convert_batchnorm(self.method, SyncBatchNorm)  # on GPUs Lightning puts torch's own in place
        if cfg.compile:
            self.method.compile_networks()
        if self.trainer.world_size > 1 and run.in_sweep():
            raise UserError(
                f"trainer.devices={self.trainer.world_size}",
                "a sweep runs its trials on one device each",
                "use trainer.devices=1, or start the runs one by one",
            )
        micro_batch, steps = build.shares(cfg, self.trainer.world_size, len(self.train_part))
        self.method.check(cfg.batch_size, micro_batch)
        self.method.global_batch, self.method.steps_per_epoch = cfg.batch_size, steps
        self.trainer.limit_train_batches = steps * cfg.trainer.accumulate_grad_batches
        self.views, self.how_views = views, views.prepare(cfg.epochs * steps * cfg.batch_size, device)
        self.loading = build.Loading.of(cfg, device)
        self.loader = self.loading.loader(self.train_part, micro_batch, shuffle=True)
        self.loader.epoch_batches = steps * cfg.trainer.accumulate_grad_batches
        self.probe = build.probe(cfg, self.data, self.loading)

        self.monitor = Monitor(self.probe, cfg.monitor.every, cfg.monitor.online_lr, cfg.on_collapse)
        self.progress = ProgressBar(self.monitor, cfg.batch_size, steps, self.console)
        meta = {"config": build.plain(cfg), "num_classes": self.data.num_classes, "run_id": self.run_id,
                "images": len(self.train_part)}  # fmt: skip
        self.checkpoints = checkpoint.Checkpoints(self.folder / "checkpoints", cfg.checkpoint.every_steps, meta)
        self.finite = FiniteGradients(cfg.on_nonfinite, self.checkpoints)
        self.checkpoints.before_save = self._before_save
        self.trainer.strategy.checkpoint_io = self.checkpoints.files
        self.checkpoints.files.damaged = self.ckpt is not None and self.ckpt != self.checkpoints.file
        # In this order at the end of an epoch: found finite, measured, shown, saved.
        self.trainer.callbacks += [self.finite, self.monitor, self.progress, self.checkpoints]  # type: ignore[attr-defined]

    def _before_save(self, trainer: pl.Trainer) -> None:
        self.finite.check(trainer)
        self.loader.skipped = union(self.loader.skipped, trainer.strategy.root_device)  # each has read its own files

    def start(self) -> None:
        """Make the run folder; say what was picked; keep the untrained features."""
        cfg = self.cfg
        self.hold = run.Hold(self.folder, cfg.resume, cfg.overwrite) if is_first() else None
        run.start(self.folder, cfg, cfg.overwrite)
        self.trainer.loggers = [CsvLog(self.folder / "metrics.csv", self.state.get("global_step")), *self._loggers()]
        if not self.trainer.is_global_zero:
            return
        trainable = sum(p.numel() for p in self.method.parameters() if p.requires_grad)
        part = self.train_part
        labels = "no labels" if not self.data.labelled else f"{len(self.data.val):,} labels held out for validation"
        report.printed_config(
            {
                "method": f"{cfg.method.name}: {cfg.backbone.name}, {self.method.backbone.feature_dim} features, "
                f"{trainable / 1e6:.2f} M trainable parameters",
                "data": f"{self.data.name}: {self.loading.describe(part)}; {labels}",
                **({"note": "; ".join(self.data.notes)} if self.data.notes else {}),
                "views": self.how_views,
                "training": f"{cfg.epochs} epochs of {self.method.steps_per_epoch} steps, "
                f"global batch {cfg.batch_size}, peak learning rate {self.peak_lr:.4g}",
                "device": f"{run.device_name(self.loading.device)}, precision {cfg.trainer.precision}, "
                f"networks {'' if cfg.compile else 'not '}compiled",
                "run": str(self.folder),
            },
            self.console,
        )
        if cfg.trainer.accumulate_grad_batches > 1:
            self.console.print(
                f"{cfg.trainer.accumulate_grad_batches} accumulated micro-batches: BatchNorm and negatives of a batch "
                "see one micro-batch each; schedule, EMA and queue move once an optimiser step",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
        if cfg.init_from is not None and self.ckpt is None:
            self.console.print(f"backbone from {cfg.init_from} ({self.started_from})", highlight=False, soft_wrap=True)
        if self.ckpt is not None:
            self.console.print(f"continued from {self.ckpt}, step {self.state['global_step']}", highlight=False)
        report.views_picture(self.folder / "views.png", self.views, self.loader)
        self.baselines: dict[str, dict[str, Features]] = {}
        if self.data.labelled:
            device = self.loading.device
            self.baselines = {
                "raw_pixels": {part: raw_pixels(loader, device) for part, loader in self.probe.loaders.items()},
                "random_init": self.probe.features(self.untrained.to(device), device),
            }
            if self.with_start:
                self.baselines["init_from"] = self.probe.features(self.method.backbone.to(device), device)

    def fit(self) -> None:
        """Train. A signal lets the step end, saves, writes the summary so far, says how to go on, and ends with
        exit code 128 + its number."""
        self.watch = run.Stopwatch()
        try:
            self.trainer.fit(
                self.method,
                train_dataloaders=self.loader,
                ckpt_path=None if self.ckpt is None else str(self.ckpt),
                weights_only=True,
            )
        except Exception as error:
            launcher = self.trainer.strategy.launcher
            if isinstance(launcher, _SubprocessScriptLauncher):
                launcher.kill(signal.SIGKILL)  # they would wait for this process
                launcher.procs.clear()  # and Lightning would end this one for their sake, before it has spoken
            if self.checkpoints.signum and "DataLoader worker" in str(error):
                # Sent to every process by itself, the signal has ended the workers that read images.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where torch would raise it once more, at any moment
                self._interrupted(self.checkpoints.signum)
            lost = self.trainer.world_size > 1 and re.search("[Cc]onnection (closed|reset)|NCCL", str(error))
            if lost or isinstance(error, Stopped):
                with contextlib.suppress(Stopped):  # a full disk has been told already
                    self._summary({}, finished=False)
            if lost:
                raise Stopped(
                    f"step {self.trainer.global_step}: another process is gone ({str(error).splitlines()[0]}); last "
                    f"checkpoint: step {self.checkpoints.saved_step}; continue with resume=true run_dir={self.folder}"
                ) from error
            raise
        except Interrupted as stop:
            self._interrupted(stop.signum)
        except SystemExit:  # Lightning's answer to a Ctrl-C outside of the steps, or a second one
            if not self.trainer.interrupted:
                raise
            self._interrupted(signal.SIGINT)

    def _interrupted(self, signum: int) -> None:
        """What is said and written when a signal has ended the training; does not return."""
        if self.trainer.is_global_zero:
            how = "nothing was saved yet"
            if self.checkpoints.saved_step >= 0:
                how = f"saved at step {self.checkpoints.saved_step}; to continue, add resume=true run_dir={self.folder}"
            name = "interrupted" if signum == signal.SIGINT else signal.Signals(signum).name
            self.console.print(f"{name} at step {self.trainer.global_step}; {how}", highlight=False, soft_wrap=True)
            with contextlib.suppress(Stopped):
                self._summary({}, finished=False)
            if signum == signal.SIGUSR1 and "SLURM_JOB_ID" in os.environ:  # the last thing: SLURM then ends this job
                self.console.print(checkpoint.requeue(), highlight=False, soft_wrap=True)
        elif self.trainer.strategy.launcher is not None:
            signum = -128  # Lightning kills all processes, the first one too, when one it has started fails
        sys.exit(128 + signum)

    def finish(self) -> float:
        """The closing table and summary.json; returns the validation figure."""
        if not self.trainer.is_global_zero:
            return float("nan")
        features = self.probe.features(self.method.backbone.to(self.loading.device), self.loading.device)
        if self.loader.skipped:
            names = sorted(self.loader.skipped)
            self.console.print(f"skipped {len(names)} unreadable images: {', '.join(names[:3])}", highlight=False)
        if not self.data.labelled:
            rank = health.rankme(self.probe.rows(features))
            self.console.print(
                f"feature rank (RankMe) {rank:.1f} of {self.method.backbone.feature_dim}; no labels, no top-1"
            )
            summary = self._summary({"feature_rank": rank}, finished=True)
            value = rank
        else:
            rows = {
                name: report.figures(one, self.probe, self.grid)
                for name, one in {**self.baselines, self.cfg.method.name: features}.items()
            }
            mine = rows[self.cfg.method.name]
            baselines = {name: rows[name] for name in self.baselines}
            summary = self._summary({**mine, "baselines": baselines}, finished=True)
            title = f"{self.data.name}: top-1 on the validation part ({len(features['val']):,} images)"
            self.console.print(report.closing_table(rows, title))
            value = mine["linear_top1"]
        for logger in self.trainer.loggers:
            logger.log_metrics({k: v for k, v in summary.items() if k in FIGURES}, step=self.trainer.global_step)
        self.console.print(f"run folder: {self.folder}", highlight=False, soft_wrap=True)
        if run.in_sweep():
            sweep.record(self.folder, summary, None)
        return value

    def close(self) -> None:
        """Give the folder free; end the wandb run, so that the next trial of a sweep has one of its own."""
        if self.hold is not None:
            self.hold.release()
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            wandb.finish()

    def _summary(self, figures: dict[str, Any], finished: bool) -> dict[str, Any]:
        cfg = self.cfg
        summary = {
            "method": cfg.method.name,
            "data": cfg.data.name,
            "backbone": cfg.backbone.name,
            "seed": cfg.seed,
            "epochs": self.trainer.current_epoch if not finished else cfg.epochs,
            "steps": self.trainer.global_step,
            "seconds": round(self.watch(), 2),
            "train_seconds": round(self.progress.train_seconds, 2),  # of all sittings, monitors not counted
            "images_per_second": self.progress.images_per_second,
            "peak_memory_mb": run.peak_memory_mb(self.loading.device),
            **figures,
            "skipped_steps": self.finite.skipped,
            "collapsed_at_epoch": self.monitor.collapsed_at,
            "skipped_images": len(self.loader.skipped),
            "versions": run.versions(),
            "device": run.device_name(self.loading.device),
            "finished": finished,
        }
        if self.trainer.is_global_zero:
            run.write_json(self.folder / "summary.json", summary)
        return summary

    def _loggers(self) -> list[Any]:
        """wandb or tensorboard, if asked for; the wandb run has the id of the checkpoint."""
        if "_target_" not in self.cfg.logger:
            return []
        extra: dict[str, Any] = {"save_dir": str(self.folder)}
        if self.cfg.logger._target_.endswith("WandbLogger"):
            extra |= {"id": self.run_id, "resume": "allow", "config": build.plain(self.cfg)}
        return [build.make(self.cfg.logger, **extra)]

    def _resumed(self) -> tuple[Path, dict[str, Any]]:
        """The checkpoint to continue from."""
        file, state = checkpoint.newest(self.folder / "checkpoints")
        given = f"resume={str(self.cfg.resume).lower()} run_dir={self.cfg.run_dir}"
        before = state[checkpoint.KEY]["config"]
        check_plain(before, given)
        try:
            loop = state["loops"]["fit_loop"]
            in_mid_epoch = loop["state_dict"]["combined_loader"][0]["batches"] > 0  # see `Loader.state_dict`
            done = loop["epoch_progress"]["current"]["processed"]
            if not isinstance(done, int) or not 0 <= done < 2**53:
                raise TypeError(f"{done} epochs")
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(given, f"{file} does not hold a training state ({error!r})", "start another run") from error
        changed = build.changed_recipe(before, build.plain(self.cfg), in_mid_epoch)
        if changed:
            raise UserError(
                given,
                f"the run was started with another recipe: {', '.join(changed)}",
                f"give the settings that {self.folder}/config.yaml holds, or start another run with init_from=",
            )
        if done > self.cfg.epochs:
            raise UserError(
                f"epochs={self.cfg.epochs}", f"{self.folder} has trained {done} epochs already", f"give {done} or more"
            )
        # One that ended before its closing table goes on with that.
        if done == self.cfg.epochs and run.finished(self.folder, self.cfg.epochs):
            raise UserError(
                given,
                f"the run has finished its {before['epochs']} epochs",
                f"give more epochs=, or read {self.folder}/summary.json",
            )
        return file, state


def _hush() -> None:
    """Lightning's banners, and warnings of libraries about each other that no user can act on."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (".*LeafSpec.*is deprecated", ".*does not have many workers", ".*smaller than the logging interval"):
        warnings.filterwarnings("ignore", message)
