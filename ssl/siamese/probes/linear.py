"""A grid of linear classifiers on cached features, trained at once."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.precision import full_float32
from siamese.probes.features import ROWS, Features
from siamese.progress import over
from siamese.schema.types import Count, Epochs, NonNegatives, Positives, Seed

# The least probability in a gradient: numbers below 1e-38 (denormal) slow a CPU's matrix products a hundredfold.
TINY = 1e-20


@dataclass
class LinearResult:
    """One linear head: its top-1 (a fraction) and its setting."""

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

    lrs: Positives
    weight_decays: NonNegatives
    epochs: Epochs
    batch_size: Count
    seed: Seed

    def settings(self) -> list[tuple[float, float]]:
        """(lr, weight decay) of each head."""
        return [(lr, wd) for lr in self.lrs for wd in self.weight_decays]

    @torch.no_grad()
    def train(self, fit: "Standardised", num_classes: int, settings: Sequence[tuple[float, float]]) -> Tensor:
        """Weights (heads, D + 1, classes), the last row being the bias, for standardised features."""
        heads, device, y = len(settings), fit.at, fit.y.to(fit.at)
        # Heads come last, so that the softmax over classes and the updates run along contiguous rows.
        lr, decay = (torch.tensor(s, device=device).repeat(num_classes) for s in zip(*settings, strict=True))
        weight = torch.zeros(fit.dim, num_classes * heads, device=device)
        velocity = torch.zeros_like(weight)
        one = torch.ones((), device=device)
        steps, step = self.epochs * -(-len(y) // self.batch_size), 0
        generator = torch.Generator().manual_seed(self.seed)
        for _ in over(range(self.epochs), self.epochs, "linear heads", "epochs"):
            order = torch.randperm(len(y), generator=generator)
            # One copy an epoch, not one a batch, to where the features lie and to where the labels lie.
            places = order.to(fit.stored).split(self.batch_size), order.to(device).split(self.batch_size)
            for stored, index in zip(*places, strict=True):
                factor = 0.5 * (1 + math.cos(math.pi * step / steps))
                batch, target = fit.rows(stored), y[index]
                error = (batch @ weight).view(len(index), num_classes, heads).softmax(1).clamp_(min=TINY)
                error.index_put_((torch.arange(len(index), device=device), target), -one, accumulate=True)
                # v <- 0.9 v + gradient + decay * w, all heads at once.
                torch.addmm(velocity, batch.T, error.flatten(1), beta=0.9, alpha=1 / len(index), out=velocity)
                weight.addcmul_(velocity.addcmul_(weight, decay), lr, value=-factor)
                step += 1
        return weight.view(fit.dim, num_classes, heads).permute(2, 0, 1).contiguous()

    def scores(self, weight: Tensor, on: "Standardised") -> tuple[Tensor, Tensor]:
        """Top-1 and mean cross entropy of each head, (heads,) each."""
        return head_scores(weight, on.blocks(max(1, (1 << 26) // weight[..., 0, :].numel())))

    def choose(self, fit: Features, select: Features, num_classes: int) -> LinearResult:
        """Train the grid on `fit`; the head with the best top-1 on `select`, among equals (frequent on a
        small split) the one with the lowest cross entropy there."""
        moments = fit.moments()
        settings = self.settings()
        weight = self.train(Standardised(fit, moments), num_classes, settings)
        top1, loss = self.scores(weight, Standardised(select, moments))
        best = best_head(top1, loss)
        return LinearResult(top1[best].item(), *settings[best])

    def score(self, fit: Features, on: Features, num_classes: int, chosen: LinearResult) -> LinearResult:
        """Train the chosen setting on `fit` and score it once on `on`."""
        moments, setting = fit.moments(), (chosen.lr, chosen.weight_decay)
        weight = self.train(Standardised(fit, moments), num_classes, [setting])
        return LinearResult(self.scores(weight, Standardised(on, moments))[0][0].item(), *setting)


def best_head(top1: Tensor, loss: Tensor) -> int:
    """The index of the best top-1; among equals that of the lowest loss. A head whose loss is not finite is chosen only
    if all are."""
    loss = loss.nan_to_num(torch.inf, torch.inf)
    top1 = torch.where(loss.isfinite(), top1, -1.0)
    return int(torch.where(top1 == top1.max(), loss, torch.inf).argmin())


@full_float32()
def head_scores(weight: Tensor, blocks: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Top-1 and mean cross entropy (heads,) of weights (heads, D, classes) on blocks of (features, labels)."""
    right, loss = torch.zeros(2, len(weight), dtype=torch.float64, device=weight.device).unbind()
    count = 0
    for x, y in blocks:
        logits = torch.einsum("nd,hdc->hnc", x, weight)
        right += (logits.argmax(2) == y).sum(1)
        loss -= logits.log_softmax(2).gather(2, y.view(1, -1, 1).expand(len(weight), -1, 1)).sum((1, 2))
        count += len(y)
    return (right / count).float(), (loss / count).float()


class Standardised:
    """Features shifted and scaled to mean 0 and deviation 1, with a column of ones for the bias.

    Args:
        features: in memory they are standardised once, from a file batch by batch.
        moments: (mean, std) to standardise by, the training features'.
    """

    def __init__(self, features: Features, moments: tuple[Tensor, Tensor]):
        self.y, self.at, self.dim = features.y, features.at, features.x.shape[1] + 1
        self.moments = moments
        in_memory = features.x.dtype == torch.float32 and features.x.device == features.at
        self.features = Features(self._change(features.x), features.y) if in_memory else features
        self.done, self.stored = in_memory, features.x.device  # where `rows` wants its index

    def _change(self, x: Tensor) -> Tensor:
        mean, std = self.moments
        return F.pad((x - mean) / std, (0, 1), value=1.0)

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, index: Tensor) -> Tensor:
        """(len(index), D + 1)."""
        x = self.features.rows(index)
        return x if self.done else self._change(x)

    def blocks(self, size: int = ROWS) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, labels) in order."""
        for x, y in self.features.blocks(size):
            yield x if self.done else self._change(x), y
