"""What the features of a checkpoint are worth: python eval_linear.py ckpt=outputs/…/last.ckpt [eval=all]"""

import signal
import sys
from typing import Any

from omegaconf import DictConfig

from siamese import cli


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Checkpoint to figures by the protocols of `eval=`; or runs of this side by side, by `compare=`."""
    if cfg.compare is not None:
        from siamese.evaluation.compare import compare
        from siamese.output import console

        return compare(cfg.compare, console())
    from siamese.evaluation.protocol import Evaluation  # torch and Lightning take seconds to import

    return Evaluation(cfg).run()


def main(cfg: DictConfig) -> float:
    """For sweeps: linear top-1, or kNN's where that alone ran."""
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))  # what is half written goes
    found = evaluate(cfg)
    return float(found.get("linear_top1", found.get("knn_top1", "nan")))


if __name__ == "__main__":
    cli.run(main, "eval_linear")
