"""`siamese train`, train.py: pretrain a backbone."""

from typing import Any

from omegaconf import DictConfig

from siamese import sweep, training
from siamese.config import in_sweep


def train(cfg: DictConfig) -> float:
    """One run, from config to closing table. Returns the validation figure: linear top-1 (mAP where an image may have
    several labels), or RankMe of the features if there are no labels."""
    value, run = training.run(training.build(training.check(cfg)))
    if in_sweep() and run.summary:
        sweep.record(run.folder, run.summary, None)
    return value


def main(cfg: DictConfig) -> Any:
    """Train, or what `mode=` says. A failed trial does not end its sweep; the table names it."""
    if cfg.get("mode") in ("check", "preview"):
        from siamese import inspection

        return inspection.check(cfg) if cfg.mode == "check" else inspection.preview(cfg)
    if not in_sweep():
        return train(cfg)
    try:
        return train(cfg)
    except Exception as error:
        sweep.record(None, None, error)
        return float("nan")
