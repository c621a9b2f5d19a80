"""`siamese train`, train.py: pretrain a backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from siamese.config import in_sweep
from siamese.imports import without_scipy_signal


def train(cfg: DictConfig) -> tuple[float, Path, Mapping[str, Any]]:
    """One run, from config to closing table.

    Returns:
        The validation figure: linear top-1 (mAP where an image may have several labels), or RankMe of the features if
        there are no labels; the run folder; the summary, which is empty on other ranks than 0.
    """
    with without_scipy_signal():
        from siamese import training  # torch and Lightning take seconds to import; a finished trial needs neither

    value, run = training.run(training.build(training.check(cfg)))
    return value, run.folder, run.summary


def main(cfg: DictConfig) -> Any:
    """Train, or what `mode=` says. A failed trial does not end its sweep; the table names it."""
    if cfg.get("mode") in ("check", "preview"):
        from siamese import inspection

        return inspection.check(cfg) if cfg.mode == "check" else inspection.preview(cfg)
    if not in_sweep():
        return train(cfg)[0]
    from siamese.sweep.trial import carry_out

    return carry_out(cfg, train)
