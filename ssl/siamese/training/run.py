"""A run: create its folder, train, report."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any

from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from siamese import run_dir
from siamese.config import in_sweep
from siamese.distributed import is_rank_zero
from siamese.environment import Stopwatch, device_name, peak_memory_mb, reset_peak_memory, versions
from siamese.errors import Interrupted, RunAborted, UserError
from siamese.files import write_json
from siamese.output import print_table
from siamese.pages.stored import State
from siamese.probes import Features, metrics, raw_pixels
from siamese.progress import within
from siamese.signals import requeue
from siamese.training import report, tracking
from siamese.training.build import Training
from siamese.training.gallery import Gallery, make_gallery
from siamese.training.loggers import CsvLog
from siamese.training.probe import closing_figures
from siamese.training.resume import check_untouched


class Run:
    """Carries out a `Training`: `start`, `fit`, `finish`, and `close` in any case.

    Attributes:
        summary: the last summary.json that was written.
    """

    def __init__(self, training: Training):
        self.training, self.cfg, self.folder = training, training.plan.cfg, training.plan.folder
        self.watch = Stopwatch()
        self.lock: run_dir.RunDirLock | None = None
        self.baselines: dict[str, dict[str, Features]] = {}
        self.before: dict[str, Features] = {}  # of the weights that the training starts from
        self.summary: dict[str, Any] = {}
        self.tracking = tracking.Tracking()

    def start(self) -> None:
        """Create the run folder, print the settings, extract the features of the baselines."""
        cfg, t = self.cfg, self.training
        reset_peak_memory(t.loaders.device)
        self.lock = run_dir.RunDirLock(self.folder, cfg.resume, cfg.overwrite) if is_rank_zero() else None
        point = t.plan.resume_from
        if is_rank_zero() and not cfg.overwrite:
            check_untouched(self.folder, point)
        keep_to = None if point is None else point.state["global_step"]
        if t.trainer.is_global_zero:
            last = None if keep_to is None else tracking.last_sitting(self.folder, keep_to)
            steps = t.method.steps_per_epoch
            self.tracking = tracking.connect(cfg, self.folder, t.run_id, steps, last, self._say)
        anew = cfg.overwrite or point is None  # also a run that was cut before its first checkpoint
        run_dir.start(self.folder, cfg, anew)
        t.trainer.loggers = [CsvLog(self.folder / "metrics.csv", keep_to), *self.tracking.trackers]
        if not t.trainer.is_global_zero:
            return
        settings, remarks = report.settings(t), report.remarks(t)
        report.print_settings(settings, t.console)
        for line in remarks:
            self._say(line)
        t.page.start(settings, remarks, cfg.epochs, t.method.steps_per_epoch)
        report.views_picture(self.folder / "views.png", t.views, t.loader, cfg.data.show)
        self.tracking.begin(self.folder / "views.png")
        with self._ended_at_once():
            self._extract_baselines()

    def _extract_baselines(self) -> None:
        t = self.training
        if t.data.labelled:
            device = t.loaders.device
            self.baselines = {
                "raw_pixels": {
                    s: raw_pixels(b, t.probe.view, device) for s, b in t.probe.batches("raw pixels").items()
                },
                "random_init": t.probe.features(t.untrained.to(device), device, "untrained features"),
            }
            if t.started_from is not None:
                self.baselines["init_from"] = t.probe.features(
                    t.method.backbone.to(device), device, "features of init_from"
                )
            self.before = self.baselines.get("init_from", self.baselines["random_init"])
        elif t.page.wanted:
            started = t.untrained if t.started_from is None else t.method.backbone
            self.before = t.probe.features(started.to(t.loaders.device), t.loaders.device, "features before")

    def fit(self) -> None:
        """Train.

        A signal lets the step finish; then the run saves, writes its summary, prints how to continue, and exits with
        128 + the signal's number.

        Raises:
            RunAborted: the run cannot continue, or another process of it has ended.
        """
        self.watch, t = Stopwatch(), self.training
        file = None if t.plan.resume_from is None else str(t.plan.resume_from.file)
        if t.trainer.world_size == 1:  # Python's handlers would not run while a process waits in vain for the others
            t.signals.at_once = True  # until the training begins
            t.signals.install()
        try:
            t.trainer.fit(t.method, train_dataloaders=t.loader, ckpt_path=file, weights_only=True)
        except Exception as error:
            self._failed(error)
            raise
        except Interrupted as stop:
            self._interrupted(stop.signum)
        except SystemExit:  # Lightning's answer to a signal before the first step, or to a second Ctrl-C
            if not t.trainer.interrupted:
                raise
            self._interrupted(t.signals.signum or signal.SIGINT)
        finally:
            t.signals.release()

    def _failed(self, error: Exception) -> None:
        """Clean up after an exception of the training."""
        t = self.training
        t.signals.ignore_workers()
        launcher = t.trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGKILL)  # the other processes would wait for this one
            launcher.procs.clear()  # otherwise Lightning ends this process before it has printed its message
        why = (str(error).splitlines() or [type(error).__name__])[0]
        if t.signals.has_ended_workers(error):
            self._interrupted(t.signals.signum, f" ({why})")
        lost = t.trainer.world_size > 1 and re.search("[Cc]onnection (closed|reset)|NCCL", str(error))
        if lost and t.signals.signum:
            self._interrupted(t.signals.signum, f" (another process has ended: {why})")
        if lost or isinstance(error, RunAborted):
            with contextlib.suppress(RunAborted):  # a full disk has been reported already
                self._write_summary({}, finished=False)
        if lost:
            t.state.settle()
            raise RunAborted(
                f"step {t.trainer.global_step}: another process has ended ({why}); last "
                f"checkpoint: step {t.state.saved_step}; continue with resume=true run_dir={self.folder}"
            ) from error

    def _interrupted(self, signum: int, why: str = "") -> None:
        """Report that a signal has ended the training, and exit."""
        t = self.training
        t.signals.install()  # the kernel sends a signal of a parent's death once for each of its threads
        t.state.settle()
        if t.trainer.is_global_zero:
            how = "nothing was saved yet" if t.plan.resume_from is None else "the checkpoint is as it was"
            if t.state.saved_step >= 0:
                again = "start the sweep again" if in_sweep() else f"add resume=true run_dir={self.folder}"
                how = f"saved at step {t.state.saved_step}; to continue, {again}"
            name = "interrupted" if signum == signal.SIGINT else signal.Signals(signum).name
            line = f"{name} at step {t.trainer.global_step}{why}; {how}"
            self._say(line)
            with contextlib.suppress(RunAborted):
                if t.trainer.global_step and not self.summary.get("finished"):
                    self._write_summary({}, finished=False)
            self._end_page("interrupted", line)
            self.tracking.close("interrupted")
            self._requeue_after(signum)  # last, because SLURM then ends this job
        elif t.trainer.strategy.launcher is not None:
            signum = -128  # Lightning kills all processes, rank 0 too, when one that it started fails
        sys.exit(128 + signum)

    def _requeue_after(self, signum: int) -> None:
        """Ask SLURM to queue the job again if it has warned of its time limit."""
        if signum == signal.SIGUSR1 and "SLURM_JOB_ID" in os.environ:
            self._say(requeue())

    @contextlib.contextmanager
    def _ended_at_once(self) -> Iterator[None]:
        """Let a signal end the run where it comes, as before and after the training, where nothing is to be saved."""
        try:
            with self.training.signals.ending_at_once():
                yield
        except Interrupted as stop:
            self._interrupted(stop.signum)
        finally:
            self.training.signals.release()

    def finish(self) -> float:
        """Print the closing table and write summary.json.

        Returns:
            Linear top-1 (or mAP) on the validation split, or RankMe of the features if there are no labels; NaN on
            other ranks than 0.
        """
        if not self.training.trainer.is_global_zero:
            return float("nan")
        with self._ended_at_once():
            value = self._close_table()
        signum = self.training.signals.signum  # came in the last step, or after the figures
        if signum and in_sweep():
            self.tracking.close("finished")
            self._say(f"{signal.Signals(signum).name}: the sweep ends; start it again to go on")
            self._requeue_after(signum)
            sys.exit(128 + signum)
        return value

    def _close_table(self) -> float:
        t = self.training
        features = t.probe.features(t.method.backbone.to(t.loaders.device), t.loaders.device, "trained features")
        rows: dict[str, dict[str, float]] = {}
        if t.loader.skipped:
            names = sorted(t.loader.skipped)
            self._say(f"skipped {len(names)} unreadable images: {', '.join(names[:3])}")
        if t.data.labelled:
            for name, one in {**self.baselines, self.cfg.method.name: features}.items():
                with within(f"closing table, {name}"):
                    rows[name] = closing_figures(one, t.probe, t.plan.grid, t.plan.several)
            mine = rows[self.cfg.method.name]
            value = mine["linear_map" if t.data.multilabel else "linear_top1"]
            baselines = {name: rows[name] for name in self.baselines}
            closing = {**mine, "validation_images": len(features["val"]), "baselines": baselines}
            summary = self._write_summary(closing, finished=True)
            title, images = report.closing_title(t.data, features["val"]), len(features["val"])
            t.signals.at_once = False  # what is left takes seconds
            print_table(t.console, report.closing_table(rows, title, images))
        else:
            value = metrics.rankme(t.probe.rows(features))
            self._say(f"feature rank (RankMe) {value:.1f} of {t.method.backbone.feature_dim}; no labels, no top-1")
            summary = self._write_summary({"feature_rank": value}, finished=True)
            t.signals.at_once = False
        figures = {k: v for k, v in summary.items() if k in report.FIGURES}
        for logger in t.trainer.loggers:
            logger.log_metrics(figures, step=t.trainer.global_step)
        self.tracking.end(tracking.Closing(t.trainer.global_step, figures, rows, t.state.checkpoint))
        show = None if self.cfg.data.show is None else list(self.cfg.data.show)
        gallery = t.page.gallery(
            lambda: make_gallery(t.probe, t.data.classes, self.before, features, t.state.train_seconds, show)
        )
        self._end_page("finished", "", gallery)
        self._say(f"run folder: {self.folder}")
        return value

    def close(self) -> None:
        """Close the report; end the trackers, so that the next trial of a sweep starts its own; release the lock."""
        error = sys.exc_info()[1]
        status: tracking.Status = "finished" if self.summary.get("finished") else "interrupted"
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            status = "interrupted"
            self._end_page(status, "")
        elif error is not None:
            status = "failed"
            kind = "" if isinstance(error, (RunAborted, UserError)) else f"{type(error).__name__}: "
            self._end_page(status, f"{kind}{error}")
        try:
            self.tracking.close(status)
        finally:
            self.training.signals.release()
            if self.lock is not None:
                self.lock.release()

    def _end_page(self, state: State, message: str, gallery: Gallery | None = None) -> None:
        trainer = self.training.trainer
        self.training.page.end(state, message, trainer.current_epoch, trainer.global_step, gallery)

    def _say(self, line: str) -> None:
        self.training.console.print(line, soft_wrap=True)

    def _write_summary(self, figures: dict[str, Any], finished: bool) -> dict[str, Any]:
        cfg, t = self.cfg, self.training
        summary = {
            "method": cfg.method.name,
            "data": cfg.data.name,
            "backbone": cfg.backbone.name,
            "seed": cfg.seed,
            "epochs": t.trainer.current_epoch,
            "stopped_early": finished and t.trainer.current_epoch < cfg.epochs,
            "steps": t.trainer.global_step,
            "seconds": round(self.watch(), 2),
            "train_seconds": round(t.state.train_seconds, 2),  # over all sittings, online evaluation not counted
            "images_per_second": t.state.images_per_second,
            "peak_memory_mb": peak_memory_mb(t.loaders.device),
            **figures,
            "skipped_steps": t.state.skipped_steps,
            "collapsed_at_epoch": t.state.collapsed_at,
            "skipped_images": len(t.loader.skipped),
            "versions": versions(),
            "device": device_name(t.loaders.device),
            "finished": finished,
        }
        if t.trainer.is_global_zero:
            write_json(self.folder / "summary.json", summary)
        self.summary = summary
        return summary
