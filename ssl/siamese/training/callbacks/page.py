"""The report while a run trains."""

import pytorch_lightning as pl

from siamese.training.page import RunReport


class ReportPage(pl.Callback):
    """Asks for a new page at the start and at the end of every epoch; the report decides whether it is time.

    Args:
        report: of the run.
        every: epochs between two online evaluations; 0 is never.
    """

    def __init__(self, report: RunReport, every: int):
        self.report, self.every = report, every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.report.update(trainer.current_epoch, trainer.global_step, evaluated=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        evaluated = bool(self.every) and (epoch % self.every == 0 or epoch == trainer.max_epochs)
        self.report.update(epoch, trainer.global_step, evaluated)
