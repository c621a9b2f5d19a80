"""`siamese embed`: features of images in a file."""

import signal
import sys

from omegaconf import DictConfig

from siamese.handoff.embed import embed


def main(cfg: DictConfig) -> None:
    """Write the features; a signal lets the position be noted, and the same command goes on."""
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    embed(cfg)
