"""A grid of linear classifiers on cached features, trained at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.errors import UserError
from siamese.evaluation.features import Features


@dataclass
class LinearResult:
    """One linear head: its top-1 (a fraction) and the setting that gave it."""

    top1: float
    lr: float
    weight_decay: float


@dataclass
class LinearGrid:
    """Multinomial logistic regressions, one for each pair of learning rate and weight decay.

    Features are standardised by the training features' mean and standard deviation (an affine map, so
    the probe stays linear; it frees the learning rate of the features' scale). Every head starts at zero
    and is trained by SGD with momentum 0.9 and a cosine schedule on the same batches. All heads'
    logits are one matrix product and the gradient of softmax cross entropy is written out, so the grid
    costs about what one head costs.

    Args:
        lrs, weight_decays: the grid.
        epochs, batch_size: of the training.
        seed: of the order of the samples.
    """

    lrs: Sequence[float]
    weight_decays: Sequence[float]
    epochs: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not self.lrs or not self.weight_decays or min(self.lrs) <= 0 or min(self.weight_decays) < 0:
            raise UserError(
                f"eval.linear.lrs={list(self.lrs)} eval.linear.weight_decays={list(self.weight_decays)}",
                "positive learning rates and weight decays of at least 0 are needed",
                "give lists such as [0.01,0.1]",
            )
        if self.epochs < 1 or self.batch_size < 1:
            raise UserError(
                f"eval.linear.epochs={self.epochs} eval.linear.batch_size={self.batch_size}",
                "must be at least 1",
                "try 100 and 256",
            )

    def settings(self) -> list[tuple[float, float]]:
        """(lr, weight decay) of each head."""
        return [(lr, wd) for lr in self.lrs for wd in self.weight_decays]

    @torch.no_grad()
    def train(self, fit: Features, num_classes: int, settings: Sequence[tuple[float, float]]) -> Tensor:
        """Weights (heads, D + 1, classes), the last row being the bias, for standardised features."""
        heads, device = len(settings), fit.x.device
        x, y = fit.x, F.one_hot(fit.y, num_classes).to(fit.x.dtype)
        lr = torch.tensor([s[0] for s in settings], device=device).view(1, heads, 1)
        decay = torch.tensor([s[1] for s in settings], device=device).view(1, heads, 1)
        weight = torch.zeros(x.shape[1], heads, num_classes, device=device)
        velocity = torch.zeros_like(weight)
        steps, step = self.epochs * -(-len(x) // self.batch_size), 0
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epochs):
            for index in torch.randperm(len(x), generator=generator).to(device).split(self.batch_size):
                rate = lr * (0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item()))
                batch = x[index]
                probability = (batch @ weight.flatten(1)).view(len(index), heads, num_classes).softmax(2)
                error = probability.sub_(y[index].unsqueeze(1)).div_(len(index))
                gradient = (batch.T @ error.flatten(1)).view_as(weight).add_(weight * decay)
                velocity.mul_(0.9).add_(gradient)
                weight.sub_(velocity * rate)
                step += 1
        return weight.transpose(0, 1)

    def scores(self, weight: Tensor, on: Features) -> tuple[Tensor, Tensor]:
        """Top-1 and mean cross entropy of each head, (heads,) each, on standardised features."""
        logits = torch.einsum("nd,hdc->hnc", on.x, weight)
        top1 = (logits.argmax(2) == on.y).float().mean(1)
        picked = logits.log_softmax(2).gather(2, on.y.view(1, -1, 1).expand(len(weight), -1, 1))
        return top1, -picked.mean((1, 2))

    def choose(self, fit: Features, select: Features, num_classes: int) -> LinearResult:
        """Train the grid on `fit`; the head with the best top-1 on `select`, among equals (frequent on a
        small part) the one with the lowest cross entropy there."""
        fit, select = _standardise(fit, fit, select)
        settings = self.settings()
        top1, loss = self.scores(self.train(fit, num_classes, settings), select)
        best = int(torch.where(top1 == top1.max(), loss, torch.inf).argmin())
        return LinearResult(top1[best].item(), *settings[best])

    def score(self, fit: Features, on: Features, num_classes: int, chosen: LinearResult) -> LinearResult:
        """Train the chosen setting on `fit` and score it once on `on`."""
        fit, on = _standardise(fit, fit, on)
        setting = (chosen.lr, chosen.weight_decay)
        return LinearResult(self.scores(self.train(fit, num_classes, [setting]), on)[0][0].item(), *setting)


def _standardise(by: Features, *all: Features) -> list[Features]:
    """Each with mean 0 and deviation 1 of `by`, and a column of ones for the bias."""
    mean, std = by.x.mean(0), by.x.std(0)
    std = torch.where(std > 1e-6 * std.amax().clamp(min=1e-12), std, 1)  # a constant feature stays 0
    return [Features(F.pad((f.x - mean) / std, (0, 1), value=1.0), f.y) for f in all]
