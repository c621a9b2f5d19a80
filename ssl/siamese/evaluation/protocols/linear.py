"""A grid of linear heads on cached features."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from siamese.evaluation.protocols.base import Protocol
from siamese.evaluation.target import EvalTarget
from siamese.probes.linear import LinearGrid
from siamese.schema.types import Count, Epochs, NonNegatives, Positives, Seed


@dataclass
class Linear(Protocol):
    """`siamese.probes.linear.LinearGrid`; the head is chosen on the validation split, trained again on all training
    labels, and scored once on the test split.

    Args:
        lrs, weight_decays, batch_size, seed: as there.
        epochs: as there; None is the training's.
    """

    lrs: Positives
    weight_decays: NonNegatives
    epochs: Epochs | None
    batch_size: Count
    seed: Seed

    name = "linear"
    description = (
        "un-augmented features, extracted once; a grid of heads trained on the training labels without the validation "
        "split, the best there trained again on all training labels, test scored once"
    )
    needs_network = False
    order = 20

    def as_trained(self, probe: Mapping[str, Any]) -> "Linear":
        return replace(self, epochs=probe["linear"]["epochs"] if self.epochs is None else self.epochs)

    @property
    def grid(self) -> LinearGrid:
        """The heads."""
        assert self.epochs is not None
        return LinearGrid(self.lrs, self.weight_decays, self.epochs, self.batch_size, self.seed)

    def evaluate(self, target: EvalTarget) -> dict[str, Any]:
        grid, classes = self.grid, target.data.num_classes
        chosen = grid.choose(target.features("train_labeled"), target.features("val"), classes)
        final = grid.score(target.all_features(), target.features("test"), classes, chosen)
        return {
            "top1": final.top1,
            "chosen": {"lr": chosen.lr, "weight_decay": chosen.weight_decay, "validation_top1": chosen.top1},
            "heads": len(grid.settings()),
            "epochs": grid.epochs,
        }
