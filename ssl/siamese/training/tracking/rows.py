"""Rows of metrics: their order, their epoch, and which of them an earlier sitting of the run has sent."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from siamese.schema.saved import upgraded
from siamese.training.report import FIGURES

# Rows of one step, in the order in which they are made: the step's figures, the closing table, other callbacks' before
# the next step, and the next step's loss, which Lightning numbers by the step before it.
FIGURE, CLOSING, OTHER, LOSS = range(4)
KINDS = 4


def has(row: Mapping[str, Any], key: str) -> bool:
    """Whether a row, of a logger or of metrics.csv, has a value of this name."""
    return row.get(key) not in (None, "")


def position(row: Mapping[str, Any], step: int) -> int:
    """A number that rises with the rows of a run, over all its sittings."""
    kind = LOSS if has(row, "loss") else FIGURE if has(row, "epoch") else OTHER
    if kind == OTHER and any(has(row, key) for key in FIGURES):
        kind = CLOSING
    return KINDS * step + kind


def epochs(row: Mapping[str, Any], step: int, steps_per_epoch: int) -> float:
    """The epochs that the run had trained at a row."""
    return (step + has(row, "loss")) / steps_per_epoch


def read_rows(file: Path) -> list[dict[str, str]]:
    """The complete rows of metrics.csv; a killed run may leave an incomplete one."""
    with file.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if None not in row.values()]


@dataclass(frozen=True)
class Sitting:
    """What is known of the last sitting of a run that is resumed.

    Args:
        targets: classes of its trackers.
        position: of its last row in metrics.csv, which may lie behind the checkpoint.
        steps: name of a figure -> its last step there.
        step: of the checkpoint.
        figures: rows of metrics.csv at that step that stay valid.
    """

    targets: frozenset[str]
    position: int
    steps: dict[str, int]
    step: int
    figures: tuple[dict[str, float], ...]


def last_sitting(folder: Path, step: int) -> Sitting:
    """Read config.yaml and metrics.csv of a run folder, before the new sitting changes them.

    Args:
        step: of the checkpoint.
    """
    try:
        config = upgraded(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        nodes = config.get("logger") or {}
        targets = frozenset(str(n["_target_"]) for n in nodes.values() if isinstance(n, dict) and "_target_" in n)
        rows = read_rows(folder / "metrics.csv")
        last = max((position(row, int(row["step"])) for row in rows), default=-1)
        steps = {key: int(row["step"]) for row in rows for key in row if has(row, key)}
        kept = [row for row in rows if int(row["step"]) == step and not has(row, "loss")]
        figures = tuple({k: float(v) for k, v in row.items() if k != "step" and v != ""} for row in kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):  # a killed run's
        return Sitting(frozenset(), -1, {}, step, ())
    return Sitting(targets, last, steps, step, figures)
