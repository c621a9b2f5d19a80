"""Checkpoints of a run: atomic writing, and everything that exact resumption needs."""

import math
import os
import signal
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from siamese.checkpoints.reading import KEY
from siamese.distributed import any_rank, gather_bytes, rank, world_size
from siamese.errors import Interrupted, RunAborted
from siamese.methods import Method
from siamese.signals import SignalWatch
from siamese.training.state import RunState

SIGNAL_STEPS = 10  # several processes agree on a signal every so many steps


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint for Lightning: to a temporary name beside it, which then replaces it. At any moment a
    complete file exists, `last.ckpt` or `previous.ckpt`. (Lightning's own way serialises in memory and moves the file
    from the system's temporary folder, which may lie on another disk.)

    The state is copied to the host, and a thread writes the copy while the training goes on.

    Args:
        state: receives the write, whose end `RunState.settle` waits for.
        last_is_damaged: the existing file cannot be read, so it must not become `previous.ckpt`.
    """

    def __init__(self, state: RunState, last_is_damaged: bool = False):
        super().__init__()
        self.state, self.last_is_damaged = state, last_is_damaged

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if Path(path).absolute() != self.state.checkpoint.absolute():  # a callback of the user's
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._write(checkpoint, Path(path), keep=False)
            return
        self.state.settle()
        copied = apply_to_collection(checkpoint, Tensor, lambda x: x.detach().to("cpu", copy=True))
        executor = ThreadPoolExecutor(1, "checkpoint")
        self.state.writing = executor.submit(self._write, copied, Path(path), not self.last_is_damaged)
        executor.shutdown(wait=False)  # the thread ends with the write

    def _write(self, checkpoint: dict[str, Any], file: Path, keep: bool) -> int:
        """Write the file. Returns its step; raises OSError if the disk write failed.

        Args:
            keep: what it replaces stays as `previous.ckpt`.
        """
        temporary = file.with_suffix(".tmp")
        try:
            with open(temporary, "wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())  # on the disk before it replaces the other file
            if keep and file.exists():
                _keep(file, file.with_name("previous.ckpt"))
            os.replace(temporary, file)
            if file.absolute() == self.state.checkpoint.absolute():
                self.last_is_damaged = False
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            # torch raises a RuntimeError in place of the disk's error.
            cause = error.__context__ if isinstance(error, RuntimeError) else error
            if isinstance(cause, OSError):
                raise cause from None
            raise
        return int(checkpoint["global_step"])


def _keep(file: Path, previous: Path) -> None:
    """Make `previous` a second link to `file`, so that `file` is never missing."""
    link = previous.with_suffix(".tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(file, link)
    except OSError:  # a file system without links: `file` is missing for a moment, and `previous` exists
        os.replace(file, previous)
        return
    os.replace(link, previous)


class SaveCheckpoints(Checkpoint):
    """Writes `last.ckpt`, the whole training state, at the end of epochs, every `every_steps` optimiser steps (0: only
    at the end of epochs), at the end of the training, and when a signal asks the run to end. The previous file stays as
    `previous.ckpt`.

    A signal lets the step finish; then the state is saved and `Interrupted` is raised. Several processes agree on it
    every `SIGNAL_STEPS` steps and at the end of an epoch, because agreeing waits for the device.

    Args:
        state: names the file; receives the saved step.
        signals: of the process.
        every_steps: optimiser steps between two checkpoints.
        least_seconds: between two checkpoints at the end of epochs; the first one and the last one are saved always.
        meta: plain values that are kept under `KEY`.
        before_save: called on every rank with the device before the state is collected.
    """

    def __init__(
        self, state: RunState, signals: SignalWatch, every_steps: int, least_seconds: float, meta: dict[str, Any],
        before_save: Callable[[torch.device], None],
    ):  # fmt: skip
        self.state, self.signals, self.every_steps, self.least_seconds = state, signals, every_steps, least_seconds
        self.meta, self.before_save = meta, before_save
        self.stop = False
        self.copied_step = -1  # of the checkpoint that was begun last
        self.begun = -math.inf  # the clock then
        self.settled = True  # on all ranks
        self.restored: dict[str, Tensor] = {}

    def save(self, trainer: pl.Trainer) -> None:
        """Begin to write `last.ckpt`, after the checkpoint before it.

        Raises:
            RunAborted: as `settle`, about the checkpoint before it.
        """
        self.settle(trainer)
        self.before_save(trainer.strategy.root_device)
        trainer.save_checkpoint(self.state.checkpoint)
        self.copied_step, self.begun, self.settled = trainer.global_step, time.monotonic(), False

    def settle(self, trainer: pl.Trainer) -> None:
        """Wait until the checkpoint is on the disk.

        Raises:
            RunAborted: on every rank, if the disk write failed; the previous file is kept.
        """
        if self.settled:
            return
        self.state.settle()
        self.settled, file, error = True, self.state.checkpoint, self.state.write_error
        if any_rank(error is not None, trainer.strategy.root_device):
            what = f"step {self.copied_step}: the checkpoint {file} cannot be written ({error})"
            if not file.exists():
                raise RunAborted(f"{what}; there is none before it; make room, then start again with overwrite=true")
            raise RunAborted(
                f"{what}; {file} of step {self.state.saved_step} is kept; make room, then continue with resume=true "
                f"run_dir={file.parent.parent}"
            )
        self.state.saved_step = self.copied_step  # on the other ranks, too

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        device = trainer.strategy.root_device
        states = {k: gather_bytes(v, device) for k, v in _random_states(pl_module).items()}
        checkpoint[KEY] = {**self.meta, "random": states}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.restored = checkpoint[KEY]["random"]
        self.state.saved_step = self.copied_step = checkpoint["global_step"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.at_once = False
        self.signals.install()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.restored:
            saved_by = len(next(iter(self.restored.values())))
            if saved_by == world_size():
                # Cloned, because torch.set_rng_state reads the storage from its start, not from the view's.
                _set_random_states(pl_module, {k: v[rank()].clone() for k, v in self.restored.items()})
            elif rank() == 0:
                warnings.warn(
                    f"saved by {saved_by} processes, continued by {world_size()}: random numbers differ from here on",
                    stacklevel=1,
                )
        self.signals.install()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self.copied_step or trainer.fit_loop.epoch_loop._should_accumulate():
            return
        if world_size() == 1 and self.state.writing is not None and self.state.writing.done():
            self.settle(trainer)  # a full disk ends the run now, not at the next checkpoint
        if world_size() == 1 or step % SIGNAL_STEPS == 0:
            self.stop = any_rank(self.signals.signum != 0, trainer.strategy.root_device)
        if batch_idx + 1 >= trainer.num_training_batches:
            return  # `on_train_epoch_end` saves
        if self.stop or self._due_by_steps(step):
            self.save(trainer)

    def _due_by_steps(self, step: int) -> bool:
        return self.every_steps > 0 and step > 0 and step % self.every_steps == 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.stop:  # here, because the saved step has been logged by now
            self.settle(trainer)
            raise Interrupted(self.signals.signum or signal.SIGTERM)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.current_epoch + 1 == trainer.max_epochs
        self.stop = self.stop or any_rank(self.signals.signum != 0, trainer.strategy.root_device)
        by_clock = rank() == 0 and time.monotonic() - self.begun >= self.least_seconds  # one clock decides
        due = last or self.stop or trainer.should_stop or by_clock or self._due_by_steps(trainer.global_step)
        if any_rank(due, trainer.strategy.root_device):
            self.save(trainer)
        if self.stop and not last:
            self.settle(trainer)
            raise Interrupted(self.signals.signum or signal.SIGTERM)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.settle(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.signals.ignore_workers()  # those that end meanwhile must not cut the end of this run
        self.state.settle()


def _random_states(method: pl.LightningModule) -> dict[str, Tensor]:
    """The states of all generators that this process's training draws from."""
    assert isinstance(method, Method)
    states = {"torch": torch.get_rng_state()}
    if method.views is not None:
        states["views"] = method.views.generator.get_state()
    if method.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(method.device)
    return states


def _set_random_states(method: pl.LightningModule, states: dict[str, Tensor]) -> None:
    assert isinstance(method, Method)
    torch.set_rng_state(states["torch"])
    if method.views is not None:
        method.views.generator.set_state(states["views"])
    if method.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], method.device)
