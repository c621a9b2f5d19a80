"""Pretrain a backbone: python train.py method=simsiam data=digits. docs/ lists the settings."""

from typing import Any

from omegaconf import DictConfig

from siamese import cli


def main(cfg: DictConfig) -> Any:
    from siamese.commands import train  # torch and Lightning take seconds to import: Hydra reports its errors first

    return train.main(cfg)


if __name__ == "__main__":
    cli.run(main, "train")
