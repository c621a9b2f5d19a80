"""The end of a training whose figures no longer improve."""

from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping as LightningEarlyStopping

from siamese.schema.types import Count, Name, NonNegative
from siamese.training.state import EVALUATED


class EarlyStopping(LightningEarlyStopping):
    """Lightning's `EarlyStopping` on a figure of the online evaluation. Patience counts evaluations, not epochs.

    Args:
        monitor: the figure.
        mode: whether it is to rise or to fall.
        min_delta: a smaller change is no improvement.
        patience: evaluations without an improvement after which the training ends.
    """

    def __init__(self, monitor: Name, mode: Literal["min", "max"], min_delta: NonNegative, patience: Count):
        super().__init__(
            monitor,
            min_delta=min_delta,
            patience=patience,
            mode=mode,
            check_finite=False,
            check_on_train_epoch_end=True,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.wait_count >= self.patience:  # the training was interrupted before its closing table
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if int(trainer.callback_metrics.get(EVALUATED, -1)) == trainer.current_epoch + 1:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})  # a resumed run may be given more
