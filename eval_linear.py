"""What the frozen features of a checkpoint are worth: python eval_linear.py ckpt=outputs/…/last.ckpt"""

from typing import Any

from omegaconf import DictConfig

from siamese import cli


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Checkpoint to frozen features to kNN and linear top-1 on the test part."""
    from siamese.evaluation.protocol import LinearEvaluation  # torch and Lightning take seconds to import

    return LinearEvaluation(cfg).run()


def main(cfg: DictConfig) -> float:
    """For sweeps: linear top-1."""
    return float(evaluate(cfg)["linear_top1"])


if __name__ == "__main__":
    cli.run(main, "eval_linear")
