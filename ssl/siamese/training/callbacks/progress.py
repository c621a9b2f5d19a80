"""One progress bar over the whole run, or one line per epoch if the output is not a terminal."""

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from siamese.distributed import rank
from siamese.training.state import RunState


class ProgressBar(pl.Callback):
    """Loss, images per second, time left; figures of online evaluation as lines above the bar.

    The loss is read from the device only when the bar is redrawn, every `refresh` seconds.

    Args:
        state: has the figures; receives seconds and images of the training steps.
        global_batch, steps_per_epoch: images and optimiser steps over all devices.
        console: prints.
        refresh: seconds between two updates.
    """

    def __init__(
        self, state: RunState, global_batch: int, steps_per_epoch: int, console: Console, refresh: float = 0.5
    ):
        self.state, self.global_batch, self.steps_per_epoch = state, global_batch, steps_per_epoch
        self.console, self.refresh = console, refresh
        self.bar: Progress | None = None
        self.drawn_step = self.epoch_first_step = 0
        self.epoch_start: float | None = None  # None outside of an epoch
        self.drawn_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # Lightning does not call it when it resumes in mid-epoch
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
            total = (trainer.max_epochs or 0) * self.steps_per_epoch
            self.bar.add_task("epoch 1", total=total, completed=trainer.global_step, text="")
            self.bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epoch_start = self.drawn_at = time.perf_counter()
        self.drawn_step = self.epoch_first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
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
