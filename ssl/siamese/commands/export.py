"""`siamese export`: hand a trained backbone to another library."""

import signal
import sys

from omegaconf import DictConfig


def main(cfg: DictConfig) -> None:
    """Write the folder that `to=` names, proved on real images."""
    from siamese.handoff.export import export

    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))  # temporary files are removed
    export(cfg)
