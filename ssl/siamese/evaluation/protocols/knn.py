"""Weighted k nearest neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from siamese.evaluation.protocols.base import Protocol, percent
from siamese.evaluation.target import EvalTarget
from siamese.probes.knn import knn_grid
from siamese.schema.types import Count, Positive


@dataclass
class KNN(Protocol):
    """Cosine kNN for a grid of k and temperatures (`siamese.probes.knn`).

    Args:
        k, temperature: of the main figure; None is the training's.
        ks, temperatures: further values of the grid.
    """

    k: Count | None
    temperature: Positive | None
    ks: Sequence[Count]
    temperatures: Sequence[Positive]

    name = "knn"
    description = (
        "un-augmented features; cosine, weighted votes; bank of all training labels; `top1` by the training's k and "
        "temperature, `chosen` by the validation split"
    )
    needs_network = False
    order = 10

    def as_trained(self, probe: Mapping[str, Any]) -> "KNN":
        k, temperature = probe["knn"]["k"], probe["knn"]["temperature"]
        return replace(
            self, k=k if self.k is None else self.k,
            temperature=temperature if self.temperature is None else self.temperature,
        )  # fmt: skip

    def evaluate(self, target: EvalTarget) -> dict[str, Any]:
        assert self.k is not None and self.temperature is not None
        classes = target.data.num_classes
        bank, whole = target.features("train_labeled"), target.all_features()
        val, test = target.features("val"), target.features("test")
        if max([self.k, *self.ks]) > len(whole):
            target.say(f"kNN: every k above {len(whole)}, the number of labelled images, is {len(whole)}")
        k = min(self.k, len(whole))
        ks = sorted({min(other, len(whole)) for other in (self.k, *self.ks)})
        temperatures = sorted({self.temperature, *self.temperatures})
        right = (knn_grid(whole, test, classes, ks, temperatures) == test.y.to(test.at)).float().mean(2)
        held_out = (knn_grid(bank, val, classes, ks, temperatures) == val.y.to(val.at)).float().mean(2)
        i, j = divmod(int(held_out.argmax()), len(temperatures))
        return {
            "top1": right[ks.index(k), temperatures.index(self.temperature)].item(),
            "k": k,
            "temperature": self.temperature,
            "chosen": {"k": ks[i], "temperature": temperatures[j], "validation_top1": held_out[i, j].item(),
                       "top1": right[i, j].item()},
            "grid": [{"k": k, "temperature": t, "top1": right[a, b].item()}
                     for a, k in enumerate(ks) for b, t in enumerate(temperatures)],
        }  # fmt: skip

    def cells(self, result: dict[str, Any]) -> dict[str, str]:
        return {f"kNN (k {result['k']}, T {result['temperature']})": percent(result["top1"])}
