"""Pretrain a backbone: python train.py method=simsiam data=digits. docs/ lists the settings."""

from typing import Any

from omegaconf import DictConfig

from siamese import cli


def train(cfg: DictConfig) -> float:
    """One run, from config to closing table. Returns the validation figure: linear top-1 (mAP where an image may have
    several labels), or RankMe of the features if there are no labels."""
    from siamese import (  # torch and Lightning take seconds to import: Hydra reports its errors first
        config,
        sweep,
        training,
    )

    value, run = training.run(training.build(training.check(cfg)))
    if config.in_sweep() and run.summary:
        sweep.record(run.folder, run.summary, None)
    return value


def main(cfg: DictConfig) -> Any:
    from siamese import config, sweep

    if cfg.get("mode") in ("check", "preview"):
        from siamese import inspection

        return inspection.check(cfg) if cfg.mode == "check" else inspection.preview(cfg)
    if not config.in_sweep():
        return train(cfg)
    try:
        return train(cfg)
    except Exception as error:  # a failed trial does not end the sweep; the table names it
        sweep.record(None, None, error)
        return float("nan")


if __name__ == "__main__":
    cli.run(main, "train")
