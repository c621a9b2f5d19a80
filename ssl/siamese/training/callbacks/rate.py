"""The learning rate in metrics.csv."""

from typing import Any

import pytorch_lightning as pl


class LearningRate(pl.Callback):
    """Logs `lr`, the rate of the coming step, beside the loss. Of groups it is the first one that follows the
    schedule."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Lightning logs by batches; a value is made at these only, because it goes to the device.
        if (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        groups = trainer.optimizers[0].param_groups
        group = next((g for g in groups if not g.get("fixed_lr")), groups[0])
        pl_module.log("lr", float(group["lr"]), on_step=True, on_epoch=False, batch_size=1)
