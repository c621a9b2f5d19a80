"""Weighted k nearest neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from siamese.evaluation.protocols.base import Protocol, one_cell
from siamese.evaluation.target import EvalTarget
from siamese.probes.features import Features
from siamese.probes.knn import knn_grid
from siamese.probes.multilabel import multilabel_knn_grid
from siamese.probes.precision import MeanPrecision, mean_average_precision
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
        "temperature, `chosen` by the validation split; of several labels an image mAP in its place"
    )
    needs_network = False
    multilabel = True
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
        if target.data.multilabel:
            return self._several(bank, whole, val, test, ks, temperatures, k)
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

    def _several(
        self, bank: Features, whole: Features, val: Features, test: Features, ks: list[int],
        temperatures: list[float], k: int,
    ) -> dict[str, Any]:  # fmt: skip
        """The figures where an image may have several labels: mAP; the validation split chooses by macro mAP."""
        assert self.temperature is not None
        each = [(k, temperature) for k in ks for temperature in temperatures]
        held_out = [macro.value for macro, _ in precisions(bank, val, ks, temperatures)]
        found = precisions(whole, test, ks, temperatures)
        grid = [{"k": k, "temperature": t, "map": macro.value, "micro_map": micro.value}
                for (k, t), (macro, micro) in zip(each, found, strict=True)]  # fmt: skip
        main, best = each.index((k, self.temperature)), held_out.index(max(held_out))
        return {**grid[main], "classes_left_out": found[main][0].left_out,
                "chosen": {**grid[best], "validation_map": held_out[best]}, "grid": grid}  # fmt: skip

    def cells(self, result: dict[str, Any]) -> dict[str, str]:
        return one_cell(f"kNN (k {result['k']}, T {result['temperature']})", result)


def precisions(
    bank: Features, queries: Features, ks: Sequence[int], temperatures: Sequence[float]
) -> list[tuple[MeanPrecision, MeanPrecision]]:
    """Macro and micro mAP for each k and, within it, each temperature."""
    scores = multilabel_knn_grid(bank, queries, ks, temperatures).flatten(0, 1)
    y = queries.y.to(scores.device)
    return [(mean_average_precision(s, y), mean_average_precision(s, y, average="micro")) for s in scores]
