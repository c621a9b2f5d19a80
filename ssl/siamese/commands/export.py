"""`siamese export`: hand a trained backbone to another library."""

from omegaconf import DictConfig

from siamese.signals import ended_by_sigterm


def main(cfg: DictConfig) -> None:
    """Write the folder that `to=` names, proved on real images."""
    from siamese.handoff.export import export

    with ended_by_sigterm():
        export(cfg)
