"""Optimisers, parameter groups and schedules.

Learning rates are scaled by the global batch and scheduled per optimiser step, in closed form
(`lr_factor`), so that a test can compare every step with the paper's formula.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from siamese.errors import UserError
from siamese.schema.types import Built, Natural, NonNegative, Positive, Probability


class LARS(Optimizer):
    """SGD with momentum and a trust ratio |w| / |g| per tensor (arXiv:1708.03888), for large batches.

    Groups with ``adapt=False`` (biases, norms) take a plain step. The ratio is 1 where a norm is zero,
    and nothing is added to the norms, as in the official SimCLR, BYOL and MoCo v3 code. The clipped form
    is solo-learn's (solo/utils/lars.py).

    Args:
        params: parameters or groups; a group may hold ``adapt``.
        lr: learning rate.
        momentum: of the buffer.
        weight_decay: added to the gradient before the norms are taken.
        trust_coefficient: eta, the factor of the ratio.
        lr_in_buffer: True is SimCLR's order (v = m v + lr g; w -= v), False is BYOL's and MoCo v3's
            (v = m v + g; w -= lr v). They differ while the learning rate changes.
        clip: the rate of a tensor, eta |w| / (|g| + decay |w| + 1e-8) with |g| before the decay, takes the
            place of `lr` and is at most `lr`: LARC. A tensor with a zero norm takes a plain step without decay.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: Probability = 0.9,
        weight_decay: NonNegative = 0.0,
        trust_coefficient: Positive = 1e-3,
        lr_in_buffer: bool = False,
        clip: bool = False,
    ):
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient)
        super().__init__(params, {**defaults, "lr_in_buffer": lr_in_buffer, "clip": clip, "adapt": True})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("clip", False)  # absent in older checkpoints

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step over all parameters that have a gradient; no synchronisation with the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            if group["adapt"] and group["clip"]:
                grads = _clipped(params, grads, group)
            else:
                if group["weight_decay"]:
                    grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
                if group["adapt"]:
                    weight_norm = torch.stack(torch._foreach_norm(params))
                    grad_norm = torch.stack(torch._foreach_norm(grads))
                    ratio = torch.where(
                        (weight_norm > 0) & (grad_norm > 0), group["trust_coefficient"] * weight_norm / grad_norm, 1.0
                    )
                    grads = _each_times(grads, ratio)
            buffers = []
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                buffers.append(self.state[p]["momentum_buffer"])
            torch._foreach_mul_(buffers, group["momentum"])
            inside, outside = (group["lr"], 1.0) if group["lr_in_buffer"] else (1.0, group["lr"])
            torch._foreach_add_(buffers, grads, alpha=inside)
            torch._foreach_add_(params, buffers, alpha=-outside)
        return loss


def _clipped(params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """The gradients with decay, times min(1, rate / lr), of LARS's clipped form."""
    decay, weight_norm = group["weight_decay"], torch.stack(torch._foreach_norm(params))
    grad_norm = torch.stack(torch._foreach_norm(grads))
    rate = group["trust_coefficient"] * weight_norm / (grad_norm + decay * weight_norm + 1e-8)
    ratio = (rate / group["lr"]).clamp(max=1)  # 1 where lr is 0: a tensor over 0.0 is infinite
    adapted = (weight_norm > 0) & (grad_norm > 0)
    out = _each_times(grads, torch.where(adapted, ratio, 1.0))
    torch._foreach_add_(out, _each_times(params, torch.where(adapted, decay * ratio, 0.0)))
    return out


def _each_times(tensors: list[Tensor], factors: Tensor) -> list[Tensor]:
    """Each tensor times its own factor (n,). A GPU's foreach kernels take tensors of one shape and layout, and multiply
    by a scalar on the device tensor by tensor; so the factors are written out there, by one kernel for many of them."""
    return list(torch._foreach_mul(tensors, _written_out(factors, tensors) if factors.is_cuda else factors.unbind()))


def _written_out(factors: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Tensors of the shapes and layouts of `like`, each filled with its factor (n,)."""
    flat = torch.cat([f.expand(x.numel()) for f, x in zip(factors.unbind(), like, strict=True)])
    parts = flat.split([x.numel() for x in like])
    return [part.as_strided(x.shape, x.stride()) for part, x in zip(parts, like, strict=True)]


def lr_factor(
    step: int,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: float = 0.0,
    schedule: str = "cosine",
    milestones: Sequence[int] = (),
    per: str = "step",
) -> float:
    """The learning rate of an optimiser step as a fraction of the peak.

    Linear from 0 over the warm-up, then half a cosine to 0 (arXiv:1608.03983 without restarts), or
    x 0.1 at each milestone (epochs), or constant. ``per="epoch"`` holds the value of the epoch's first
    step (the official MoCo v1, v2 and SimSiam code); the warm-up is always per step.
    """
    epoch = step / steps_per_epoch
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    if per == "epoch":
        epoch = float(step // steps_per_epoch)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, epoch - warmup_epochs) / (epochs - warmup_epochs))))
    if schedule == "milestones":
        return 0.1 ** sum(epoch >= m for m in milestones)
    return 1.0


def split_groups(groups: Iterable[dict[str, Any]], weight_decay: float) -> list[dict[str, Any]]:
    """Split each group in two: tensors of two or more dimensions, and the rest (biases, norms), which is
    excluded from weight decay and from LARS's adaptation."""
    out = []
    for group in groups:
        params = list(group["params"])
        for adapt in (True, False):
            part = [p for p in params if (p.ndim > 1) == adapt]
            if part:
                out.append({**group, "params": part, "weight_decay": weight_decay if adapt else 0.0, "adapt": adapt})
    return out


def scaled_groups(groups: Iterable[dict[str, Any]], network: nn.Module, lr_scale: float) -> list[dict[str, Any]]:
    """Split each group: the parameters of `network` get ``lr_scale``. Unchanged if it is 1."""
    if lr_scale == 1:
        return list(groups)
    own, out = {id(p) for p in network.parameters()}, []
    for group in groups:
        params = list(group["params"])
        for inside in (True, False):
            part = [p for p in params if (id(p) in own) == inside]
            if part:
                out.append({**group, "params": part, **({"lr_scale": lr_scale} if inside else {})})
    return out


ALGORITHM_OWN = {"params": "nothing", "lr": "optimizer.lr=", "weight_decay": "optimizer.weight_decay="}


@dataclass
class OptimizerRecipe:
    """How the trainable parameters are optimised (`conf/optimizer`).

    Args:
        algorithm: takes groups and ``lr`` and returns the optimiser.
        lr: base learning rate.
        scaling: ``linear`` (lr * batch / 256), ``sqrt`` (lr * sqrt(batch)) or ``none``, by the GLOBAL batch.
        weight_decay: of all parameters, or without biases and norms if `exclude_bias_and_norm`.
        warmup_epochs, schedule, milestones, per: see `lr_factor`.
        warmup_at_most: upper bound of the warm-up, as a fraction of the training.
        final_weight_decay: of the last step, reached along half a cosine (DINO, arXiv:2104.14294, section 3.2); None:
            the weight decay is constant.
        backbone_lr_scale: factor of the backbone's learning rate, for weights that are trained already.
    """

    algorithm: Annotated[Callable[..., Optimizer], Built(own=ALGORITHM_OWN, partial=True)]
    lr: Positive
    scaling: Literal["linear", "sqrt", "none"]
    weight_decay: NonNegative
    exclude_bias_and_norm: bool
    warmup_epochs: NonNegative
    schedule: Literal["cosine", "milestones", "constant"]
    per: Literal["step", "epoch"]
    milestones: Sequence[Natural] = ()
    warmup_at_most: Probability = 1.0
    final_weight_decay: NonNegative | None = None
    backbone_lr_scale: Positive = 1.0

    def warmup(self, epochs: int) -> float:
        """Epochs of warm-up in a training of `epochs`."""
        return min(self.warmup_epochs, self.warmup_at_most * epochs)

    def check(self, epochs: int) -> None:
        """Refuse settings that cannot work together, or that the optimiser rejects.

        Raises:
            UserError: the warm-up is as long as the training, or a setting of `algorithm` is impossible.
        """
        if self.warmup(epochs) >= epochs:
            raise UserError(
                f"optimizer.warmup_epochs={self.warmup_epochs}",
                f"the warm-up must be shorter than the training (epochs={epochs})",
                "lower it, or train longer",
            )
        if self.schedule == "milestones" and not self.milestones:
            raise UserError("optimizer.milestones=[]", "optimizer.schedule=milestones needs some", "give [120,160]")
        weight = nn.Parameter(torch.ones(2, 2))
        weight.grad = torch.ones(2, 2)
        try:
            self.algorithm([weight], lr=self.lr).step()
        except Exception as error:  # torch's optimisers raise many kinds
            raise UserError("optimizer.algorithm", f"cannot work ({error})", "see conf/optimizer") from error

    def peak_lr(self, global_batch: int) -> float:
        """The learning rate after the warm-up."""
        return self.lr * {"linear": global_batch / 256, "sqrt": math.sqrt(global_batch), "none": 1.0}[self.scaling]

    def build(
        self, groups: Sequence[dict[str, Any]], global_batch: int, steps_per_epoch: int, epochs: int
    ) -> tuple[Optimizer, LambdaLR]:
        """The optimiser and its schedule; a group with ``fixed_lr`` stays at the peak after the warm-up, one with
        ``lr_scale`` has its rates times that."""
        fixed = [bool(group.get("fixed_lr")) for group in groups]
        groups = [{**group, "fixed_lr": f} for group, f in zip(groups, fixed, strict=True)]
        if self.exclude_bias_and_norm:
            groups = split_groups(groups, self.weight_decay)
        else:
            groups = [{**group, "weight_decay": self.weight_decay} for group in groups]
        if self.final_weight_decay is not None:
            groups = [{**group, "decays": group.get("adapt", True)} for group in groups]
        peak = self.peak_lr(global_batch)
        groups = [{**group, "lr": peak * group["lr_scale"]} if "lr_scale" in group else group for group in groups]
        optimizer = self.algorithm(groups, lr=peak)

        def factor(schedule: str) -> Callable[[int], float]:
            return lambda step: lr_factor(
                step, steps_per_epoch, epochs, self.warmup(epochs), schedule, self.milestones, self.per
            )

        lambdas = [factor("constant" if group["fixed_lr"] else self.schedule) for group in optimizer.param_groups]
        return optimizer, LambdaLR(optimizer, lambdas)

    def set_weight_decay(self, optimizer: Optimizer, step: int, total_steps: int) -> None:
        """Before each step: the weight decay of this step, where it is scheduled."""
        if self.final_weight_decay is None:
            return
        decay = ema_momentum(step, total_steps, self.weight_decay, cosine=True, end=self.final_weight_decay)
        for group in optimizer.param_groups:
            group["weight_decay"] = decay if group["decays"] else 0.0


def ema_momentum(step: int, total_steps: int, start: float, cosine: bool, end: float = 1.0) -> float:
    """The target network's momentum at an optimiser step: `start`, or from `start` to `end` along half a
    cosine (BYOL, arXiv:2006.07733, section 3.3, where `end` is 1)."""
    if not cosine:
        return start
    return end - (end - start) * (math.cos(math.pi * step / total_steps) + 1) / 2


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * online, over parameters; buffers (running
    statistics) stay each network's own, as in the official MoCo and BYOL code."""
    targets: list[Tensor] = list(target.parameters())
    torch._foreach_lerp_(targets, list(online.parameters()), 1 - momentum)
