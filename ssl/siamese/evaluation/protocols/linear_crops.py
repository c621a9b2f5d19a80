"""The papers' linear evaluation: heads on the features of random crops, one forward pass per epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese import factory
from siamese.data import to_device
from siamese.environment import autocast
from siamese.evaluation.protocols.base import Protocol
from siamese.evaluation.target import EvalTarget
from siamese.optim import lr_factor
from siamese.probes.features import Features
from siamese.probes.linear import TINY, best_head, head_scores
from siamese.progress import over
from siamese.schema.types import (
    Count,
    CropScale,
    Interpolation,
    Natural,
    NonNegative,
    NonNegatives,
    Positives,
    Probability,
    Seed,
)


@dataclass
class LinearCrops(Protocol):
    """Linear classifiers on a frozen backbone in eval mode, trained on random resized crops and flips.

    All heads of the grid are trained on the same crops, so that a sweep costs one run. Each head exists twice: one copy
    learns from the training labels without the validation split, which then chooses the setting; the other learns from
    all training labels and, if chosen, is scored once on the test split. Features are not standardised. On a GPU that
    has bf16 the crops' features are computed in it, and those that are scored in float32.

    Args:
        lrs, weight_decays: the grid.
        scaling: ``linear`` (lr * batch / 256) or ``none``.
        batch_size, epochs: of the training; the last incomplete batch of an epoch is dropped.
        schedule, milestones, per: as in `siamese.optim.lr_factor`.
        momentum, nesterov: of SGD.
        trust_coefficient: of LARS (apex's LARC without clipping, weights and biases separately); 0 is plain SGD.
        init_std: of the weights at the start; biases start at 0.
        crop_scale, interpolation: of the crops, the latter also of the un-augmented view that is scored; None takes
            the training's.
        flip: probability; None takes the training's.
        seed: of order, crops and starting weights.
    """

    lrs: Positives
    weight_decays: NonNegatives
    scaling: Literal["linear", "none"]
    batch_size: Count
    epochs: Count
    schedule: Literal["cosine", "milestones", "constant"]
    milestones: Sequence[Natural]
    per: Literal["step", "epoch"]
    momentum: Probability
    nesterov: bool
    trust_coefficient: NonNegative
    init_std: NonNegative
    crop_scale: CropScale | None
    interpolation: Interpolation | None
    flip: Probability | None
    seed: Seed

    name = "linear_crops"
    description = (
        "frozen backbone in eval mode, random resized crops and flips, a forward pass per epoch; chosen on the "
        "validation split by heads that do not learn from it, test scored once by the chosen one's twin, which learns "
        "from all training labels"
    )
    order = 40

    @torch.no_grad()
    def evaluate(self, target: EvalTarget) -> dict[str, Any]:
        """Top-1 on the test split by the head that the validation split chose."""
        network, classes, device = target.network, target.data.num_classes, target.loading.device
        assert network is not None
        settings = [(lr, wd) for lr in self.lrs for wd in self.weight_decays]
        part = target.all_training()
        batch_size = min(self.batch_size, len(part))
        view = target.crops(self.crop_scale, self.flip, self.interpolation)
        crops = factory.random_crops([view], self.seed)
        loader = target.loading.loader(part, batch_size, shuffle=True, seed=self.seed, cutter=crops)
        heads = Heads(self, settings, network.feature_dim, classes, device, batch_size)
        generator = torch.Generator().manual_seed(self.seed)
        steps = len(loader)
        batches = over(loader.epochs(self.epochs), self.epochs * steps, "heads on random crops", "steps")
        for step, (images, labels, aspect_ratio) in enumerate(batches):
            # `all_training` marks the validation split by labels beyond the classes.
            crop = view(to_device(images, device), generator, aspect_ratio)
            with autocast(device):
                x = network(crop)
            x = x.float()
            y = labels.to(device)
            factor = lr_factor(step, steps, self.epochs, 0.0, self.schedule, self.milestones, self.per)
            heads.step(x, y % classes, (y >= 0) & (y < classes), y >= 0, factor)
        half = len(settings)
        top1, loss = heads.score(target.features("val", self.interpolation), slice(0, half))
        best = best_head(top1, loss)
        test = target.features("test", self.interpolation)
        final, _ = heads.score(test, slice(half + best, half + best + 1))
        return {
            "top1": final[0].item(),
            "chosen": {
                "lr": settings[best][0],
                "weight_decay": settings[best][1],
                "validation_top1": top1[best].item(),
            },
            "heads": len(settings),
            "epochs": self.epochs,
            "batch_size": batch_size,
        }


class Heads:
    """Weights and biases of all heads, twice: the first half learns from `train_labeled`, the second half from all
    training labels.

    Args:
        recipe: how they are trained.
        settings: (lr, weight decay) of each.
    """

    def __init__(
        self, recipe: LinearCrops, settings: Sequence[tuple[float, float]], dim: int, classes: int,
        device: torch.device, batch_size: int,
    ):  # fmt: skip
        self.recipe, self.count = recipe, 2 * len(settings)
        scale = batch_size / 256 if recipe.scaling == "linear" else 1.0
        self.lr = torch.tensor([s[0] * scale for s in settings] * 2, device=device).view(-1, 1, 1)
        self.decay = torch.tensor([s[1] for s in settings] * 2, device=device).view(-1, 1, 1)
        generator = torch.Generator().manual_seed(recipe.seed)
        start = recipe.init_std * torch.randn(1, dim, classes, generator=generator)
        self.weight = start.repeat(self.count, 1, 1).to(device)
        self.bias = torch.zeros(self.count, 1, classes, device=device)
        self.velocity = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]

    def step(self, x: Tensor, y: Tensor, first: Tensor, second: Tensor, factor: float) -> None:
        """One step of every head on features (B, D) and labels (B,); masks (B,) say which samples each half
        learns from."""
        classes = self.bias.shape[2]
        logits = torch.einsum("bd,hdc->hbc", x, self.weight) + self.bias
        error = logits.softmax(2).clamp_(min=TINY).sub_(F.one_hot(y, classes))
        for half, mask in zip(error.chunk(2), (first, second), strict=True):
            half.mul_((mask / mask.sum().clamp(min=1)).view(1, -1, 1))
        gradients = torch.einsum("bd,hbc->hdc", x, error), error.sum(1, keepdim=True)
        for w, g, v in zip((self.weight, self.bias), gradients, self.velocity, strict=True):
            g = g + self.decay * w
            if self.recipe.trust_coefficient:
                size, slope = (t.flatten(1).norm(dim=1).view(-1, 1, 1) for t in (w, g))
                g = g * torch.where((size > 0) & (slope > 0), self.recipe.trust_coefficient * size / slope, 1.0)
            v.mul_(self.recipe.momentum).add_(g)
            w.sub_((g + self.recipe.momentum * v if self.recipe.nesterov else v) * (self.lr * factor))

    def score(self, features: Features, which: slice) -> tuple[Tensor, Tensor]:
        """Top-1 and mean cross entropy (heads,) of some heads."""
        weight = torch.cat([self.weight[which], self.bias[which]], 1)
        return head_scores(weight, ((F.pad(x, (0, 1), value=1.0), y) for x, y in features.blocks()))
