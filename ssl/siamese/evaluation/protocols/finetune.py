"""Fine-tuning: the whole network is trained on with labels."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese import factory
from siamese.augment import CleanView, View
from siamese.backbones import is_vit
from siamese.data import Loader, Split, to_device
from siamese.environment import autocast
from siamese.evaluation.protocols.base import Protocol
from siamese.evaluation.target import EvalTarget
from siamese.optim import lr_factor
from siamese.probes.features import forward
from siamese.probes.linear import best_head
from siamese.progress import over, within
from siamese.schema.types import (
    AtLeastTwo,
    Count,
    CropScale,
    Interpolation,
    NonNegative,
    Positives,
    Probability,
    Seed,
    Share,
)

AFTER_BLOCKS = ("norm", "fc_norm", "attn_pool")  # parts of a Vision Transformer


class Score(NamedTuple):
    """Number of correct images, their summed cross entropy, and the number of images with a label."""

    right: int
    loss: float
    images: int

    @property
    def top1(self) -> float:
        return self.right / self.images


@dataclass
class Tuning:
    """SGD or AdamW on the whole network and a linear classifier that starts at zero, on random crops and flips, with
    BatchNorm in train mode (SimCLR, arXiv:2002.05709, appendix B.5 and B.8; AdamW: MAE, arXiv:2111.06377, A.1).

    Args:
        scaling: ``none`` (lr is the rate of a step) or ``linear`` (lr * images of a step / 256). With fewer images than
            `batch_size` a step has all of them, and ``linear`` lowers the rate accordingly, to the disadvantage of a
            network that has more to learn. It is for recipes that were made for full batches.
        weight_decay: of all weights; AdamW's of all but biases, norms, class token and position embedding.
        batch_size: the last incomplete batch of an epoch is dropped.
        warmup_epochs: of a linear warm-up; then half a cosine.
        layer_decay: the rate of a layer is that of the next one times this; the classifier has the whole rate.
        crop_scale, interpolation, flip: as in `LinearCrops`.
        optimizer: ``sgd`` (Nesterov, 0.9) or ``adamw`` (betas 0.9 and 0.999).
    """

    scaling: Literal["linear", "none"]
    weight_decay: NonNegative
    batch_size: AtLeastTwo
    warmup_epochs: NonNegative
    layer_decay: Share
    crop_scale: CropScale | None
    interpolation: Interpolation | None
    flip: Probability | None
    optimizer: Literal["sgd", "adamw"] = field(default="sgd", kw_only=True)

    def step_images(self, images: int) -> int:
        """Images of a step if there are `images`."""
        return min(self.batch_size, images)

    def rate(self, lr: float, images: int) -> float:
        """The rate of the first step after the warm-up if there are `images`."""
        return lr * (self.step_images(images) / 256 if self.scaling == "linear" else 1.0)

    def score(self, target: EvalTarget, on: Split, test: Split, lr: float, epochs: int, seed: int) -> Score:
        """Train a copy of the target's network on one split and score it on another."""
        assert target.network is not None
        device = target.loading.device
        view = target.crops(self.crop_scale, self.flip, self.interpolation)
        crops = factory.random_crops([view], seed)
        loader = target.loading.loader(on, self.step_images(len(on)), shuffle=True, seed=seed, cutter=crops)
        network = Classifier(copy.deepcopy(target.network), target.data.num_classes).to(device)
        network.requires_grad_(True)
        groups = layer_groups(network.backbone, self.layer_decay)
        groups.append({"params": list(network.head.parameters()), "lr_scale": 1.0})
        self.train(network, groups, loader, view, self.rate(lr, len(on)), epochs, seed)
        clean = target.view.resized_by(str(view.settings["interpolation"]))
        central = factory.central_crop(clean)
        scored = target.loading.loader(test, target.batch_size, shuffle=False, cutter=central)
        return score(network, scored, clean, device)

    def make_optimizer(self, groups: list[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
        """The optimiser of groups with an ``lr_scale``."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True, weight_decay=self.weight_decay)
        split = []
        for group in groups:
            for decays in (True, False):  # tokens and positions have a first dimension of 1
                params = [p for p in group["params"] if (p.ndim > 1 and p.shape[0] > 1) == decays]
                split.append({**group, "params": params, "weight_decay": self.weight_decay if decays else 0.0})
        return torch.optim.AdamW([group for group in split if group["params"]], lr=rate)

    def train(
        self, network: "Classifier", groups: list[dict[str, Any]], loader: Loader, view: View, rate: float,
        epochs: int, seed: int,
    ) -> None:  # fmt: skip
        """Train `network` in place, on a GPU in bf16 where it has that. It is scored in float32."""
        optimizer = self.make_optimizer(groups, rate)
        generator, steps = torch.Generator().manual_seed(seed), len(loader)
        device = next(network.parameters()).device
        network.train()
        batches = over(loader.epochs(epochs), epochs * steps, "fine-tuning", "steps")
        for step, (images, labels, aspect_ratio) in enumerate(batches):
            factor = lr_factor(step, steps, epochs, min(self.warmup_epochs, epochs / 2))
            for group in optimizer.param_groups:
                group["lr"] = rate * factor * group["lr_scale"]
            x = view(to_device(images, device), generator, aspect_ratio)
            with autocast(device):
                logits = network(x)
            loss = F.cross_entropy(logits.float(), labels.to(device), ignore_index=-1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@dataclass
class FineTune(Tuning, Protocol):
    """Fine-tuning on all training labels.

    Args:
        lrs: learning rates to choose from on the validation split; a single one is used as it is.
        epochs: of the training.
        seed: of order and crops.
    """

    lrs: Positives
    epochs: Count
    seed: Seed

    name = "finetune"
    description = (
        "the whole network on all training labels, random resized crops and flips; with several rates the best on the "
        "validation split"
    )
    order = 60

    def evaluate(self, target: EvalTarget) -> dict[str, Any]:
        """Top-1 on the test split. Several rates are first tried on `train_labeled`, scored on the validation split."""
        data, lr = target.data, self.lrs[0]
        assert data.test is not None
        out: dict[str, Any] = {"epochs": self.epochs}
        if len(self.lrs) > 1:
            tried: list[Score] = []
            for r in self.lrs:
                with within(f"rate {len(tried) + 1} of {len(self.lrs)}"):
                    tried.append(self.score(target, data.train_labeled, data.val, r, self.epochs, self.seed))
            best = best_of(tried)
            lr = self.lrs[best]
            out["chosen"] = {"lr": lr, "validation_top1": tried[best].top1}
        part = target.all_training(mark_val=False)
        out |= {"batch_size": self.step_images(len(part)), "rate": self.rate(lr, len(part))}
        return {"top1": self.score(target, part, data.test, lr, self.epochs, self.seed).top1, "lr": lr, **out}


class Classifier(nn.Module):
    """A backbone and a linear layer that starts at zero."""

    def __init__(self, backbone: nn.Module, classes: int):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.feature_dim), classes)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))  # type: ignore[no-any-return]


def layer_groups(backbone: nn.Module, decay: float) -> list[dict[str, Any]]:
    """One group per layer, with ``lr_scale`` = decay to the power of the layers between it and the classifier. A
    layer is a part of the backbone, or a member of its numbered `blocks`, `layers` or `stages`. In a Vision Transformer
    all that is before the blocks is one layer, and what follows them has the classifier's rate (arXiv:2106.08254)."""
    layers: dict[str, list[nn.Parameter]] = {}
    last: list[nn.Parameter] = []
    vit = is_vit(backbone)
    for name, parameter in backbone.named_parameters():
        numbered = re.match(r"((?:blocks|layers|stages)\.\d+)\.", name)
        part = numbered.group(1) if numbered else name.split(".")[0]
        if vit and part in AFTER_BLOCKS:
            last.append(parameter)
        else:
            layers.setdefault("embedding" if vit and not numbered else part, []).append(parameter)
    # Tensors of one part have one depth, and parts are registered in the order of the forward pass.
    groups = [{"params": p, "lr_scale": decay ** (len(layers) - i)} for i, p in enumerate(layers.values())]
    return groups + [{"params": last, "lr_scale": 1.0}] * bool(last)


def score(network: Classifier, loader: Loader, view: CleanView, device: torch.device) -> Score:
    """The score on un-augmented images, in eval mode."""
    right, loss, count = 0, 0.0, 0
    with torch.no_grad():
        for logits, y in forward(network, loader, view, device):
            right += int(((logits.argmax(1) == y) & (y >= 0)).sum())
            loss += F.cross_entropy(logits, y, ignore_index=-1, reduction="sum").item()
            count += int((y >= 0).sum())
    return Score(right, loss, count)


def best_of(scores: Sequence[Score]) -> int:
    """The index of the best top-1; among equals (frequent on a small split) that of the lowest loss."""
    return best_head(torch.tensor([s.top1 for s in scores]), torch.tensor([s.loss / s.images for s in scores]))
