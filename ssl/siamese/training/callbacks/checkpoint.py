"""Checkpoints of a run: atomic writing, and everything that exact resumption needs."""

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from siamese.checkpoints.reading import KEY
from siamese.distributed import any_rank, gather_bytes, rank, world_size
from siamese.errors import Interrupted, RunAborted
from siamese.methods import Method
from siamese.training.signals import SignalWatch
from siamese.training.state import RunState


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint for Lightning: to a temporary name beside it, which then replaces it. At any moment a
    complete file exists, `last.ckpt` or `previous.ckpt`. (Lightning's own way serialises in memory and moves the file
    from the system's temporary folder, which may lie on another disk.)

    Args:
        last_is_damaged: the existing file cannot be read, so it must not become `previous.ckpt`.

    Attributes:
        error: why the disk write failed, instead of an exception: one rank writes while the others wait.
    """

    def __init__(self, last_is_damaged: bool = False):
        super().__init__()
        self.last_is_damaged = last_is_damaged
        self.error: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        file = Path(path)
        temporary = file.with_suffix(".tmp")
        try:
            with open(temporary, "wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())  # on the disk before it replaces the other file
            if file.exists() and not self.last_is_damaged:
                _keep(file, file.with_name("previous.ckpt"))
            os.replace(temporary, file)
            self.last_is_damaged = False
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            # torch raises a RuntimeError in place of the disk's error.
            cause = error.__context__ if isinstance(error, RuntimeError) else error
            if not isinstance(cause, OSError):
                raise
            self.error = cause


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
    """Writes `last.ckpt`, the whole training state, at the end of each epoch, every `every_steps` optimiser steps (0:
    only at the end of epochs), and when a signal asks the run to end. The previous file stays as `previous.ckpt`.

    A signal lets the step finish; then the state is saved and `Interrupted` is raised. Several processes agree on it
    at logging points only, because agreeing waits for the device.

    Args:
        state: names the file; receives the saved step.
        files: how Lightning writes, see `AtomicCheckpointIO`.
        signals: of the process.
        every_steps: optimiser steps between two checkpoints.
        meta: plain values that are kept under `KEY`.
        before_save: called on every rank with the device before the state is collected.
    """

    def __init__(
        self, state: RunState, files: AtomicCheckpointIO, signals: SignalWatch, every_steps: int,
        meta: dict[str, Any], before_save: Callable[[torch.device], None],
    ):  # fmt: skip
        self.state, self.files, self.signals = state, files, signals
        self.every_steps, self.meta, self.before_save = every_steps, meta, before_save
        self.stop = False
        self.restored: dict[str, Tensor] = {}

    def save(self, trainer: pl.Trainer) -> None:
        """Write `last.ckpt`.

        Raises:
            RunAborted: on every rank, if the disk write failed; the previous file is kept.
        """
        file, device = self.state.checkpoint, trainer.strategy.root_device
        self.before_save(device)
        trainer.save_checkpoint(file)
        if any_rank(self.files.error is not None, device):
            what = f"step {trainer.global_step}: the checkpoint {file} cannot be written ({self.files.error})"
            if not file.exists():
                raise RunAborted(f"{what}; there is none before it; make room, then start again with overwrite=true")
            raise RunAborted(
                f"{what}; {file} of step {self.state.saved_step} is kept; make room, then continue with resume=true "
                f"run_dir={file.parent.parent}"
            )
        self.state.saved_step = trainer.global_step

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
        self.state.saved_step = checkpoint["global_step"]

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
        if step == self.state.saved_step or trainer.fit_loop.epoch_loop._should_accumulate():
            return
        if world_size() == 1 or step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.stop = any_rank(self.signals.signum != 0, trainer.strategy.root_device)
        if batch_idx + 1 >= trainer.num_training_batches:
            return  # `on_train_epoch_end` saves
        if self.stop or (self.every_steps and step and step % self.every_steps == 0):
            self.save(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.stop:  # here, because the saved step has been logged by now
            raise Interrupted(self.signals.signum or signal.SIGTERM)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)
        if self.stop and trainer.current_epoch + 1 != trainer.max_epochs:
            raise Interrupted(self.signals.signum or signal.SIGTERM)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.signals.release()


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
