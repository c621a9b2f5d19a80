"""`siamese embed`: features of images in a file."""

from omegaconf import DictConfig

from siamese.handoff.embed import embed
from siamese.signals import ended_by_sigterm


def main(cfg: DictConfig) -> None:
    """Write the features; a signal lets the position be noted, and the same command goes on."""
    with ended_by_sigterm():
        embed(cfg)
