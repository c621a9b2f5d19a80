"""Devices, precision and the division of the global batch."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from siamese.augment.operation import CompilerError
from siamese.config import make
from siamese.environment import cpu_has_amx, cuda_has_bf16
from siamese.errors import UserError

# Compiling the networks has taken 25 to 70 s on a GPU. Assumed, not measured: a compiled step is 3 ms shorter by its
# launches, and a nanosecond shorter for each pixel of its views. So many steps or pixels of a whole run save 60 s.
COMPILE_FROM_STEPS, COMPILE_FROM_PIXELS = 20_000, 6e10


def make_trainer(cfg: DictConfig, steps_per_epoch: int, sync_batchnorm: bool, plugins: Sequence[Any]) -> pl.Trainer:
    """`conf/trainer` to a Lightning trainer without a progress bar, checkpoints and samplers of its own.

    Args:
        steps_per_epoch: optimiser steps.
        sync_batchnorm: convert BatchNorm on GPUs to torch's synchronised one.
        plugins: of Lightning, such as how checkpoint files are written.

    Raises:
        UserError: Lightning refuses the settings.
    """
    try:
        return make(
            cfg.trainer,
            max_epochs=cfg.epochs,
            limit_train_batches=steps_per_epoch * cfg.trainer.accumulate_grad_batches,
            plugins=list(plugins),
            logger=[],
            sync_batchnorm=sync_batchnorm and on_gpu(cfg),  # ignored on one device; torch has none for CPUs
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    except Exception as error:
        cause = error.__cause__ or error
        raise UserError("trainer", f"Lightning refuses these settings ({cause})", "see conf/trainer") from error


def resolve_auto(cfg: DictConfig) -> DictConfig:
    """A copy of the config in which ``auto`` is replaced by its meaning on this device: precision (bf16 on GPUs that
    support it, else float32), and no torch.compile of the networks except on one GPU with Triton, where
    `resolve_compile` decides.

    On CPUs float32 stays: in bf16 oneDNN's threads wait for each other by spinning, so that two runs on the same cores
    come almost to a standstill (docs/figures.md)."""
    cfg = cfg.copy()
    gpu = on_gpu(cfg)
    if cfg.compile == "auto":
        one = cfg.trainer.devices == 1 and cfg.trainer.num_nodes == 1
        if not (gpu and one and importlib.util.find_spec("triton")):
            cfg.compile = False
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = "bf16-mixed" if gpu and cuda_has_bf16() else "32-true"
    return cfg


def resolve_compile(cfg: DictConfig, steps_per_epoch: int, view_sizes: Sequence[int]) -> tuple[DictConfig, str]:
    """A copy in which ``compile=auto`` is decided by the length of the run, and the decision for the user.

    The length is that of the whole run, so that a resumed run decides as it did at its start.

    Args:
        steps_per_epoch: optimiser steps.
        view_sizes: sides of the views of an image, pixels.
    """
    cfg, why = cfg.copy(), ""
    if cfg.compile == "auto":
        steps = cfg.epochs * steps_per_epoch
        pixels = steps * cfg.batch_size * sum(size**2 for size in view_sizes)
        cfg.compile = steps >= COMPILE_FROM_STEPS or pixels >= COMPILE_FROM_PIXELS
        why = (
            f" ({steps:,} steps and {pixels:.1g} pixels in the run; compiled from {COMPILE_FROM_STEPS:,} steps or "
            f"{COMPILE_FROM_PIXELS:.0g} pixels)"
        )
        if cfg.compile and on_gpu(cfg):
            from siamese.augment import gpu  # imports Triton

            try:
                gpu.try_compiler(torch.device("cuda", torch.cuda.current_device()))
            except CompilerError as error:
                cfg.compile, why = False, f" ({error}; {error.remedy})"
    return cfg, f"networks {'' if cfg.compile else 'not '}compiled{why}"


def on_gpu(cfg: DictConfig) -> bool:
    """Whether Lightning will use CUDA devices."""
    return cfg.trainer.accelerator in ("gpu", "cuda") or (
        cfg.trainer.accelerator == "auto" and torch.cuda.is_available()
    )


def precision_note(cfg: DictConfig) -> str:
    """The precision, and what would be faster on this processor if it computes by several threads."""
    faster = _in_float32_by_choice(cfg) and torch.get_num_threads() > 1
    hint = " (bf16-mixed is faster on this processor, for one run at a time)" if faster else ""
    return f"precision {cfg.trainer.precision}{hint}"


def _in_float32_by_choice(cfg: DictConfig) -> bool:
    """Whether a CPU that has AMX computes in float32."""
    return not on_gpu(cfg) and str(cfg.trainer.precision) == "32-true" and cpu_has_amx()


def what_shortens(cfg: DictConfig) -> str:
    """What a person could change so that the run takes less time."""
    ways = [
        f"fewer epochs (epochs={cfg.epochs})", f"a smaller backbone (backbone.name={cfg.backbone.name})",
        f"smaller views (data.crop={cfg.data.crop})", "fewer images (data.train_images=)",
    ]  # fmt: skip
    if not on_gpu(cfg):
        if _in_float32_by_choice(cfg):
            ways.insert(0, "bf16 where no other run is on these cores (trainer.precision=bf16-mixed)")
        ways.insert(0, "a GPU (trainer=gpu)")
    elif cfg.trainer.devices == 1 and torch.cuda.device_count() > 1:
        ways.insert(0, "all GPUs (trainer=ddp)")
    return ", ".join(ways)


def check_devices(cfg: DictConfig) -> None:
    """Check that the devices of `trainer` exist.

    Raises:
        UserError: they do not, or the precision needs others.
    """
    accelerator, devices = cfg.trainer.accelerator, cfg.trainer.devices
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator={accelerator}", "this machine has no CUDA device", "use trainer=cpu or trainer=auto"
        )
    if on_gpu(cfg) and isinstance(devices, int) and devices > torch.cuda.device_count():
        raise UserError(
            f"trainer.devices={devices}", f"this machine has {torch.cuda.device_count()} CUDA devices", "use fewer"
        )
    clips = cfg.trainer.get("gradient_clip_val")
    half = str(cfg.trainer.precision).startswith("16")
    if half and clips and cfg.optimizer.algorithm.get("fused"):
        raise UserError(
            f"trainer.gradient_clip_val={clips}", "in fp16 the gradients of a fused optimiser cannot be clipped",
            "add optimizer.algorithm.fused=false, or use bf16-mixed",
        )  # fmt: skip
    if half and not on_gpu(cfg):
        raise UserError(f"trainer.precision={cfg.trainer.precision}", "fp16 needs a GPU", "use bf16-mixed or 32-true")
    if isinstance(devices, int) and devices < 1:
        raise UserError(f"trainer.devices={devices}", "at least one device is needed", "use trainer.devices=1")


def micro_batch_and_steps(cfg: DictConfig, world_size: int, images: int) -> tuple[int, int]:
    """Images of a micro-batch on one device, and optimiser steps of an epoch.

    Args:
        world_size: number of devices.
        images: of the training split.

    Raises:
        UserError: the global batch cannot be divided so.
    """
    parts = world_size * cfg.trainer.accumulate_grad_batches
    if cfg.batch_size % parts:
        raise UserError(
            f"batch_size={cfg.batch_size}",
            f"is global and must be a multiple of {world_size} devices x {parts // world_size} accumulated batches",
            f"try {max(2, round(cfg.batch_size / parts)) * parts}",
        )
    if cfg.batch_size > images:
        raise UserError(
            f"batch_size={cfg.batch_size}", f"larger than the training set ({images} images)", f"at most {images}"
        )
    if cfg.batch_size // parts < 2:
        raise UserError(
            f"batch_size={cfg.batch_size}",
            f"leaves one image to each of {parts} micro-batches",
            f"at least {2 * parts}",
        )
    return cfg.batch_size // parts, images // cfg.batch_size


def work_of_a_step(network: nn.Module, channels: int, sides: Sequence[int], images: int) -> float:
    """Floating-point operations of a training step, roughly: three times those of the backbone's forward pass.

    Args:
        channels: of the images.
        sides: of an image's views, pixels.
        images: of a micro-batch.
    """
    was_training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, channels, max(sides), max(sides)))
    network.train(was_training)
    views = sum((side / max(sides)) ** 2 for side in sides)
    return 3.0 * counter.get_total_flops() * views * images
