"""Checkpoints: written whole or not at all, read without running code, exact to continue from."""

import argparse
import os
import pickle
import re
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from siamese.distributed import any_rank, gather_bytes, rank, world_size
from siamese.errors import Interrupted, Stopped, UserError
from siamese.methods import Method
from siamese.paths import expand_path

KEY = "siamese"  # what makes a checkpoint ours: config, class count, wandb id, random states
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class AtomicFiles(TorchCheckpointIO):
    """How Lightning writes a checkpoint: to a temporary name beside it, then by renaming, so that a stop at
    any moment leaves a whole file, `last.ckpt` or `previous.ckpt`. (Lightning's own way makes the file in
    memory and moves it over from the system's temporary folder, which may be another disk.)

    What the disk refuses is kept in `error` instead of raised: the first process writes, the others wait.
    """

    error: OSError | None = None
    damaged = False  # is what lies at the name no good? Then it does not take the place of the one before

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        file = Path(path)
        temporary = file.with_suffix(".tmp")
        try:
            with open(temporary, "wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())  # on the disk before it takes the other's place
            if file.exists() and not self.damaged:
                _keep(file, file.with_name("previous.ckpt"))
            os.replace(temporary, file)
            self.damaged = False
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            # torch hides what the disk said behind a RuntimeError of its own.
            told = error.__context__ if isinstance(error, RuntimeError) else error
            if not isinstance(told, OSError):
                raise
            self.error = told


def _keep(file: Path, previous: Path) -> None:
    """Make `previous` what `file` is, by a second link to it, so that `file` is never missing."""
    link = previous.with_suffix(".tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(file, link)
    except OSError:  # a file system without links: `file` is missing for a moment, and `previous` is there
        os.replace(file, previous)
        return
    os.replace(link, previous)


class Checkpoints(Checkpoint):
    """Writes `last.ckpt`, the whole training state, at the end of each epoch, every `every_steps` optimiser
    steps (0: only then), and when a signal asks the run to end. The one before stays as `previous.ckpt`.

    Ctrl-C, SIGTERM and SIGUSR1 (SLURM's warning before its time limit) let the step end, save, and raise
    `Interrupted`; a second Ctrl-C stops at once. Several processes agree on it at logging points, since it
    costs a wait for the device.

    Args:
        folder: where to.
        meta: plain values that are kept under `KEY`.
    """

    def __init__(self, folder: Path, every_steps: int, meta: dict[str, Any]):
        self.file = folder / "last.ckpt"
        self.files = AtomicFiles()  # for Lightning's strategy
        self.every_steps, self.meta = every_steps, meta
        self.saved_step = -1
        self.before_save: Callable[[pl.Trainer], None] = lambda trainer: None  # raises where nothing may be saved
        self.signum = 0
        self.stop = False
        self.handlers: dict[int, Any] = {}
        self.restored: dict[str, Tensor] = {}

    def save(self, trainer: pl.Trainer) -> None:
        """Write `last.ckpt`.

        Raises:
            Stopped: on every rank, where the disk is full or otherwise refuses; what was there before is kept.
        """
        self.before_save(trainer)
        trainer.save_checkpoint(self.file)
        if any_rank(self.files.error is not None, trainer.strategy.root_device):
            kept = f"{self.file} of step {self.saved_step} is kept" if self.file.exists() else "none is there yet"
            raise Stopped(
                f"step {trainer.global_step}: the checkpoint {self.file} cannot be written ({self.files.error}); "
                f"{kept}; make room, then continue with resume=true run_dir={self.file.parent.parent}"
            )
        self.saved_step = trainer.global_step

    # What is in it

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        device = trainer.strategy.root_device
        checkpoint[KEY] = {**self.meta, "random": {k: gather_bytes(v, device) for k, v in _random(pl_module).items()}}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.restored = checkpoint[KEY]["random"]
        self.saved_step = checkpoint["global_step"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.restored:
            saved_by = len(next(iter(self.restored.values())))
            if saved_by == world_size():
                # Cloned, since torch.set_rng_state reads the storage from its start, whatever the view.
                _set_random(pl_module, {k: v[rank()].clone() for k, v in self.restored.items()})
            elif rank() == 0:
                warnings.warn(
                    f"saved by {saved_by} processes, continued by {world_size()}: random numbers differ from here on",
                    stacklevel=1,
                )
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                self.handlers[signum] = signal.signal(signum, self._on_signal)

    # When it is written

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self.saved_step or trainer.fit_loop.epoch_loop._should_accumulate():
            return
        if world_size() == 1 or step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.stop = any_rank(self.signum != 0, trainer.strategy.root_device)
        if batch_idx + 1 >= trainer.num_training_batches:
            return  # the epoch's end comes next
        if self.stop or (self.every_steps and step and step % self.every_steps == 0):
            self.save(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.stop:  # here, where the step that was saved has been logged
            raise Interrupted(self.signum or signal.SIGTERM)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)
        if self.stop and trainer.current_epoch + 1 != trainer.max_epochs:
            raise Interrupted(self.signum or signal.SIGTERM)

    # Signals

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def release_signals(self) -> None:
        """Put back the handlers that were there before."""
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self.handlers = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.release_signals()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.release_signals()


def requeue() -> str:
    """Ask SLURM to queue this job again; says what came of it."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"SLURM job {job} could not be requeued ({error})"
    return f"SLURM job {job} is requeued" if done.returncode == 0 else f"scontrol requeue {job}: {done.stderr.strip()}"


def _random(method: pl.LightningModule) -> dict[str, Tensor]:
    """The states of all generators that the training of this process draws from."""
    assert isinstance(method, Method)
    states = {"torch": torch.get_rng_state()}
    if method.views is not None:
        states["views"] = method.views.generator.get_state()
    if method.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(method.device)
    return states


def _set_random(method: pl.LightningModule, states: dict[str, Tensor]) -> None:
    assert isinstance(method, Method)
    torch.set_rng_state(states["torch"])
    if method.views is not None:
        method.views.generator.set_state(states["views"])
    if method.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], method.device)


def read(file: str | Path, key: str = "ckpt") -> Any:
    """Whatever a checkpoint file holds, tensors on the CPU; `.safetensors` too.

    Raises:
        UserError: missing, truncated, or holding anything but tensors and plain values.
    """
    path = expand_path(file, key)
    if not path.is_file():
        near = sorted(path.glob("**/last.ckpt"))[:3] if path.is_dir() else []
        remedy = f"did you mean {', '.join(map(str, near))}?" if near else f"looked at {path.absolute()}"
        raise UserError(f"{key}={file}", "is not a file", remedy)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # of many published files: settings, no code
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        if kind is None:
            raise UserError(
                f"{key}={file}", "is no checkpoint, or holds objects that could run code",
                "only tensors and plain values are loaded",
            ) from error  # fmt: skip
        load = f"torch.load('{file}', weights_only=False)['state_dict']"
        raise UserError(
            f"{key}={file}", f"holds a {kind.group(1)}, and loading such objects could run code",
            f'where you trust it, keep its tensors alone: python -c "import torch; torch.save({load}, \'tensors.pt\')"',
        ) from error  # fmt: skip
    except Exception as error:  # damaged bytes make the unpickler fail in any way
        raise UserError(
            f"{key}={file}",
            f"cannot be read; it may be truncated, or no checkpoint ({type(error).__name__}: {str(error)[:100]})",
            "use another checkpoint",
        ) from error


def is_ours(content: Any) -> bool:
    """Was it written by `Checkpoints`?"""
    meta, tensors = (content.get(KEY), content.get("state_dict")) if isinstance(content, dict) else (None, None)
    return isinstance(meta, dict) and isinstance(meta.get("config"), dict) and isinstance(tensors, dict)


def load(file: str | Path, key: str = "ckpt") -> dict[str, Any]:
    """A checkpoint of ours as a dictionary, tensors on the CPU.

    Raises:
        UserError: as `read`, or not ours.
    """
    state = read(file, key)
    if not is_ours(state):
        raise UserError(
            f"{key}={file}", "was not written by train.py", "give the checkpoints/last.ckpt of a run folder"
        )
    return state  # type: ignore[no-any-return]


def newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file to continue from and its content: `last.ckpt`, or, where that is damaged or missing, the one
    before it, with a warning that names both.

    Raises:
        UserError: neither can be read.
    """
    last, previous = folder / "last.ckpt", folder / "previous.ckpt"
    try:
        return last, load(last, "resume=true")
    except UserError as error:
        if not previous.is_file():
            raise
        state = load(previous, "resume=true")
        reason = str(error).replace("resume=true=", "", 1)
        warnings.warn(f"{reason.split('; ')[0]}; continued from {previous} instead", stacklevel=2)
        return previous, state


def backbone_state(state: dict[str, Any]) -> dict[str, Tensor]:
    """The trained network's tensors, named as in the backbone."""
    prefix = "backbone."
    return {k[len(prefix) :]: v for k, v in tensors(state).items() if k.startswith(prefix)}


def tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    """The named tensors of the whole state dict."""
    return {k: v for k, v in state["state_dict"].items() if isinstance(k, str) and isinstance(v, Tensor)}
