"""The contract of a protocol."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from siamese.evaluation.target import EvalTarget

P = TypeVar("P", bound="Protocol")


class Protocol(ABC):
    """A way to judge features. A subclass is a dataclass; its fields are the keys of conf/eval/NAME/default.yaml.

    Attributes:
        name: of the folder in conf/eval, and in results.json.
        description: what is done, for results.json.
        needs_network: False if raw pixels can be judged, too.
        needs_labels: False if a data set without labels or test split can be judged, too.
        multilabel: True if images with several labels can be judged, too (`EvalTarget.data.multilabel`).
        order: `eval=all` runs protocols by this number; the cheap ones come first.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    needs_network: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    multilabel: ClassVar[bool] = False
    order: ClassVar[int] = 100

    @abstractmethod
    def evaluate(self, target: EvalTarget) -> dict[str, Any]:
        """The figures of a target, as plain values for results.json.

        A single figure is ``top1``, a fraction in [0, 1]; of several labels an image ``map`` (macro) and ``micro_map``,
        mean average precision, and ``classes_left_out``, the labels that no test image has. What the validation split
        chose is ``chosen``. The test split must choose nothing.
        """

    def cells(self, result: dict[str, Any]) -> dict[str, str]:
        """Lines of the table: label to text."""
        return one_cell(self.name, result)

    def as_trained(self: P, probe: Mapping[str, Any]) -> P:
        """The protocol with its null settings taken from the training's `probe` node."""
        return self

    def settings(self) -> dict[str, Any]:
        """The settings as plain values, for results.json."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]


def one_cell(label: str, result: Mapping[str, Any], note: str = "") -> dict[str, str]:
    """The line of a single figure, or those of macro and micro mAP."""
    if "map" not in result:
        return {label: percent(result["top1"]) + note}
    return {f"{label}, mAP": percent(result["map"]) + note, f"{label}, micro mAP": percent(result["micro_map"]) + note}


def percent(top1: float, half: float | None = None) -> str:
    """A fraction as percent, with half the width of an interval."""
    return f"{100 * top1:.2f}" + ("" if half is None else f" ± {100 * half:.2f}")
