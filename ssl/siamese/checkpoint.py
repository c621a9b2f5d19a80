"""Checkpoints: written whole or not at all, read without running code."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from siamese.errors import UserError

KEY = "siamese"  # what makes a checkpoint ours: config, class count, wandb id


class Checkpoints(Checkpoint):
    """Writes `last.ckpt`, the whole training state, at the end of each epoch and every `every_steps`
    optimiser steps (0: only then).

    Args:
        folder: where to.
        meta: plain values that are kept under `KEY`.
    """

    def __init__(self, folder: Path, every_steps: int, meta: dict[str, Any]):
        self.file, self.every_steps, self.meta = folder / "last.ckpt", every_steps, meta
        self.saved_step = -1

    def save(self, trainer: pl.Trainer) -> None:
        """Write to a temporary name, then rename: a stop in between leaves the previous file."""
        temporary = self.file.with_suffix(".tmp")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            os.replace(temporary, self.file)
        self.saved_step = trainer.global_step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = self.meta

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if self.every_steps and step and step % self.every_steps == 0 and step != self.saved_step:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)


def load(file: str | Path, key: str = "ckpt") -> dict[str, Any]:
    """A checkpoint of ours as a dictionary, tensors on the CPU.

    Raises:
        UserError: missing, truncated, holding anything but tensors and plain values, or not ours.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        near = sorted(path.glob("**/last.ckpt"))[:3] if path.is_dir() else []
        remedy = f"did you mean {', '.join(map(str, near))}?" if near else f"looked at {path.absolute()}"
        raise UserError(f"{key}={file}", "is not a file", remedy)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{key}={file}",
            "is no checkpoint, or holds objects that could run code",
            "only tensors and plain values are loaded",
        ) from error
    except Exception as error:  # damaged bytes make the unpickler fail in any way
        raise UserError(
            f"{key}={file}", f"cannot be read; it may be truncated ({str(error)[:100]})", "use another checkpoint"
        ) from error
    if not isinstance(state, dict) or KEY not in state or "state_dict" not in state:
        raise UserError(
            f"{key}={file}", "was not written by train.py", "give the checkpoints/last.ckpt of a run folder"
        )
    return state


def backbone_state(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The trained network's tensors, named as in the backbone."""
    prefix = "backbone."
    return {k[len(prefix) :]: v for k, v in state["state_dict"].items() if k.startswith(prefix)}
