"""A gradient that is not finite: stop before it reaches the weights, or skip the step."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from siamese.checkpoint import Checkpoints
from siamese.distributed import on_all_ranks
from siamese.errors import Stopped, UserError
from siamese.methods import Method


class FiniteGradients(pl.Callback):
    """Looks at every gradient before the optimiser does; a loss that is not finite shows in it.

    On a CPU, and with ``skip``, at each step. With ``stop`` on a GPU the answer is read at logging points
    and before a checkpoint is written, so that no step waits for it. In fp16 Lightning's gradient scaler
    skips the steps that overflow, so there the loss alone is looked at.

    Args:
        how: ``stop`` raises `Stopped`; ``skip`` leaves weights, optimiser, EMA and queue as they were and
            counts.
        checkpoints: whose last file to name.
    """

    def __init__(self, how: str, checkpoints: Checkpoints):
        if how not in ("stop", "skip"):
            raise UserError(f"on_nonfinite={how}", "not known", "choose stop or skip")
        self.how, self.checkpoints = how, checkpoints
        self.skipped = 0
        self.first_bad: Tensor | None = None  # the step, on the device; -1 while all is well

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, Method) and pl_module.latest_loss is not None
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if scaled or not grads:  # each rank has a loss of its own; the averaged gradients are the same on all
            good = on_all_ranks(torch.isfinite(pl_module.latest_loss))
        else:
            good = torch.isfinite(torch.stack([x.float() for x in torch._foreach_norm(grads)]).sum())
        if self.how == "skip":
            if not good:
                self.skipped += 1
                optimizer.zero_grad(set_to_none=True)  # a parameter without gradient is left alone
                pl_module.step_skipped = True
            return
        if self.first_bad is None:
            self.first_bad = torch.full((), -1, device=good.device)
        bad_here = (self.first_bad < 0) & ~good
        self.first_bad = torch.where(bad_here, trainer.global_step, self.first_bad)
        if good.device.type == "cpu":
            self.check(trainer)

    def check(self, trainer: pl.Trainer) -> None:
        """Raise if a gradient was not finite since the last look; waits for the device."""
        step = -1 if self.first_bad is None else int(self.first_bad)
        if step < 0:
            return
        method = trainer.lightning_module
        assert isinstance(method, Method) and method.latest_loss is not None
        loss, rate = float(method.latest_loss), trainer.optimizers[0].param_groups[0]["lr"]
        last = self.checkpoints
        kept = f"{last.file} of step {last.saved_step}" if last.saved_step >= 0 else "none yet"
        raise Stopped(
            f"step {step}: the gradient is not finite (loss {loss:.4g}, learning rate {rate:.4g}); "
            f"last good checkpoint: {kept}; lower optimizer.lr, or set on_nonfinite=skip and continue with resume=true"
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.check(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]
