"""Gradients that are not finite: stop before they reach the weights, or skip the step."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from siamese.distributed import on_all_ranks
from siamese.errors import RunAborted
from siamese.methods import Method
from siamese.training.state import RunState


class NonFiniteGradients(pl.Callback):
    """Checks every gradient before the optimiser step; a loss that is not finite makes its gradient so.

    On a CPU, and with ``skip``, the check is read at each step. With ``stop`` on a GPU it is read at logging points and
    before a checkpoint is written, so that no step waits for the device. In fp16 Lightning's gradient scaler skips the
    steps that overflow, so the loss alone is checked there.

    Args:
        how: ``stop`` raises `RunAborted`; ``skip`` leaves weights, optimiser, EMA and queue unchanged and counts.
        state: names the last checkpoint; receives the count.
    """

    def __init__(self, how: str, state: RunState):
        self.how, self.state = how, state
        self.first_bad: Tensor | None = None  # the first such step, on the device; -1 for none
        self.earlier: Tensor | None = None  # whether the losses of this step's earlier micro-batches are finite

    @property
    def state_key(self) -> str:
        return "FiniteGradients"  # its name in checkpoints since 2026-11

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, Method) and pl_module.latest_loss is not None
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if scaled or not grads:  # losses differ between ranks, averaged gradients do not
            good = torch.isfinite(pl_module.latest_loss)
            good, self.earlier = on_all_ranks(good if self.earlier is None else good & self.earlier), None
        else:
            good = torch.isfinite(torch.stack([x.float() for x in torch._foreach_norm(grads)]).sum())
        if self.how == "skip":
            if not good:
                self.state.skipped_steps += 1
                if scaled and getattr(optimizer, "_step_supports_amp_scaling", False):
                    torch._foreach_add_(grads, torch.inf)  # the scaler, which fails without gradients, skips the step
                else:
                    optimizer.zero_grad(set_to_none=True)  # the optimiser leaves a parameter without gradient unchanged
                pl_module.step_skipped = True
            return
        if self.first_bad is None:
            self.first_bad = torch.full((), -1, device=good.device)
        bad_here = (self.first_bad < 0) & ~good
        self.first_bad = torch.where(bad_here, trainer.global_step, self.first_bad)
        if good.device.type == "cpu":
            self.check(trainer)

    def check(self, trainer: pl.Trainer) -> None:
        """Raise if a gradient was not finite since the last check. Waits for the device.

        Raises:
            RunAborted: names the step, the loss, the learning rate and the last good checkpoint.
        """
        step = -1 if self.first_bad is None else int(self.first_bad)
        if step < 0:
            return
        method = trainer.lightning_module
        assert isinstance(method, Method) and method.latest_loss is not None
        self.state.settle()
        loss, rate = float(method.latest_loss), trainer.optimizers[0].param_groups[0]["lr"]
        kept = f"{self.state.checkpoint} of step {self.state.saved_step}" if self.state.saved_step >= 0 else "none yet"
        raise RunAborted(
            f"step {step}: the gradient is not finite (loss {loss:.4g}, learning rate {rate:.4g}); "
            f"last good checkpoint: {kept}; lower optimizer.lr, or set on_nonfinite=skip and continue with resume=true"
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.epoch_loop._should_accumulate():
            if getattr(trainer.precision_plugin, "scaler", None) is not None:
                assert isinstance(pl_module, Method) and pl_module.latest_loss is not None
                good = torch.isfinite(pl_module.latest_loss)
                self.earlier = good if self.earlier is None else good & self.earlier
        elif trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.check(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.check(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.state.skipped_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state.skipped_steps = state_dict["skipped"]
