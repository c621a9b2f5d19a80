"""Pretrain a backbone: python train.py method=simsiam data=digits. README.md lists the settings."""

from typing import Any

from omegaconf import DictConfig

from siamese import cli


def train(cfg: DictConfig) -> float:
    """One run, from config to closing table. Returns the validation figure: linear top-1, or RankMe of the
    features where there are no labels."""
    from siamese.session import Session  # torch and Lightning take seconds: a misspelt key is told before

    session = Session(cfg)  # everything is built, and whatever is wrong is said
    try:
        session.start()  # the run folder is made, the first thing written
        session.fit()
        return session.finish()
    finally:
        session.close()


def main(cfg: DictConfig) -> Any:
    from siamese import run, sweep

    if not run.in_sweep():
        return train(cfg)
    try:
        return train(cfg)
    except Exception as error:  # a failed trial is named at the end and does not end the sweep
        sweep.record(None, None, error)
        return float("nan")


if __name__ == "__main__":
    cli.run(main, "train")
