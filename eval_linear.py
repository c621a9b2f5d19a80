"""Judge the features of a checkpoint: python eval_linear.py ckpt=outputs/…/checkpoints/last.ckpt [eval=all]"""

from omegaconf import DictConfig

from siamese import cli


def main(cfg: DictConfig) -> float:
    from siamese.commands import eval  # torch takes seconds to import: Hydra reports its errors first

    return eval.main(cfg)


if __name__ == "__main__":
    cli.run(main, "eval_linear")
