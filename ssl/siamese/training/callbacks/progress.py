"""One progress bar over the whole run; lines if the output is not a terminal; how long the run will take."""

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from siamese.distributed import rank
from siamese.progress import EVERY_TOLD, Pace, duration
from siamese.training.state import RunState

LONG, VERY_LONG = 60.0, 86400.0  # seconds


class ProgressBar(pl.Callback):
    """Loss, images per second, time left; figures of online evaluation as lines above the bar.

    Where there is no terminal, these are lines, as often as `siamese.progress.Pace` says. The loss is read from the
    device only when the bar is redrawn, every `refresh` seconds, or a line is printed. After the first steps a line
    says how long a run of more than `LONG` seconds will take.

    Args:
        state: has the figures; receives seconds and images of the training steps.
        global_batch, steps_per_epoch: images and optimiser steps over all devices.
        console: prints.
        shorter: what would shorten the run, for one of more than a day.
        refresh: seconds between two updates.
    """

    def __init__(
        self, state: RunState, global_batch: int, steps_per_epoch: int, console: Console, shorter: str = "",
        refresh: float = 0.5,
    ):  # fmt: skip
        self.state, self.global_batch, self.steps_per_epoch = state, global_batch, steps_per_epoch
        self.console, self.shorter, self.refresh = console, shorter, refresh
        self.pace: Pace | None = None
        self.bar: Progress | None = None
        self.drawn_step = self.epoch_first_step = 0
        self.epoch_start: float | None = None  # None outside of an epoch
        self.drawn_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # Lightning does not call it when it resumes in mid-epoch
        total = (trainer.max_epochs or 0) * self.steps_per_epoch
        self.pace = Pace(total)
        if rank() == 0 and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self.console,
                transient=True,
            )
            self.bar.add_task("epoch 1", total=total, completed=trainer.global_step, text="")
            self.bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch_start = self.drawn_at = time.perf_counter()
        self.drawn_step = self.epoch_first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if rank() != 0 or self.pace is None:
            return
        due = self.pace.due(step) and step > self.drawn_step
        if self.bar is not None:
            self._redraw(trainer)
        elif due:
            self._print(trainer, self.pace)
        if due:
            if self.pace.told is None:
                self._foretell(trainer, self.pace)
            self.pace.tell()

    def _print(self, trainer: pl.Trainer, pace: Pace) -> None:
        """A line of a log."""
        loss = float(trainer.callback_metrics.get("loss", float("nan")))  # waits for the device
        now, step = time.perf_counter(), trainer.global_step
        rate = (step - self.drawn_step) * self.global_batch / (now - self.drawn_at)
        self.console.print(
            f"step {step:,}/{pace.total:,}  epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  "
            f"loss {loss:.4f}  {rate:,.0f} images/s  {duration(pace.left(step))} left",
            soft_wrap=True,
        )
        self.drawn_step, self.drawn_at = step, now

    def _foretell(self, trainer: pl.Trainer, pace: Pace) -> None:
        """A line about the time of a long run, and what would shorten a very long one."""
        seconds = pace.whole(trainer.global_step)
        if seconds <= LONG:
            return
        also = "" if self.bar is not None else f"; {EVERY_TOLD}"
        if seconds > VERY_LONG and self.shorter:
            also = f"; shorter with {self.shorter}{also}"
        self.console.print(
            f"the training will take about {duration(seconds)} here, to epoch {trainer.max_epochs}{also}",
            soft_wrap=True,
        )

    def _redraw(self, trainer: pl.Trainer) -> None:
        """Update the bar, at most every `refresh` seconds."""
        now = time.perf_counter()
        if self.bar is None or now - self.drawn_at < self.refresh:
            return
        rate = (trainer.global_step - self.drawn_step) * self.global_batch / (now - self.drawn_at)
        loss = trainer.callback_metrics.get("loss")
        text = f"loss {float(loss):.4f}  " if loss is not None else ""
        self.bar.update(
            self.bar.tasks[0].id,
            completed=trainer.global_step,
            description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            text=f"{text}{rate:,.0f} images/s",
        )
        self.drawn_step, self.drawn_at = trainer.global_step, now

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Called after online evaluation, whose seconds are subtracted.
        loss = float(trainer.callback_metrics.get("loss", float("nan")))  # waits for the device
        seconds, images = self._of_epoch(trainer.global_step)
        self.epoch_start, self.state.probe_seconds = None, 0.0
        self.state.train_seconds += seconds
        self.state.images += images
        if rank() != 0:
            return
        epoch = trainer.current_epoch + 1
        for logger in trainer.loggers:
            logger.log_metrics({"images_per_second": images / seconds, "epoch": epoch}, step=trainer.global_step)
        if not self.state.figures:
            return
        if self.pace is not None and self.pace.told is not None:
            self.pace.tell()
        names = {
            "knn_top1": "kNN",
            "knn_map": "kNN mAP",
            "online_linear_top1": "online linear",
            "feature_rank": "feature rank",
            "projection_std": "projection std",
        }
        figures = "  ".join(f"{n} {self.state.figures[k]:.3f}" for k, n in names.items() if k in self.state.figures)
        self.console.print(
            f"epoch {epoch}/{trainer.max_epochs}  loss {loss:.4f}  {figures}  {images / seconds:,.0f} images/s",
            soft_wrap=True,
        )
        self.state.figures = {}

    def close(self) -> None:
        """Remove the bar from the screen."""
        if self.bar is not None:
            self.bar.stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.close()

    def _of_epoch(self, step: int) -> tuple[float, int]:
        """Seconds and images of the current epoch up to this optimiser step."""
        if self.epoch_start is None:
            return 0.0, 0
        seconds = time.perf_counter() - self.epoch_start - self.state.probe_seconds
        return seconds, (step - self.epoch_first_step) * self.global_batch

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        seconds, images = self._of_epoch(trainer.global_step)
        checkpoint["progress"] = {
            "train_seconds": self.state.train_seconds + seconds, "images": self.state.images + images
        }  # fmt: skip

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        so_far = checkpoint.get("progress", {"train_seconds": 0.0, "images": 0})  # of the earlier sittings
        self.state.train_seconds, self.state.images = so_far["train_seconds"], so_far["images"]
