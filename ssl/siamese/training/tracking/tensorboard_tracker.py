"""TensorBoard."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from siamese.config import make
from siamese.training.tracking.rows import CLOSING, KINDS
from siamese.training.tracking.tracker import Closing, Status, TrackedRun, Tracker


def connect(label: str, node: dict[str, Any], run: TrackedRun, known: bool) -> "TensorBoardTracker":
    """A writer of event files. Nothing is written yet."""
    purge = {} if run.last is None else {"purge_step": run.last.step}
    logger = make({"default_hp_metric": False, **node}, save_dir=str(run.folder), **purge)
    return TensorBoardTracker(label, logger, run, known)


class TensorBoardTracker(Tracker):
    """One stream over all sittings, an event file for each. A new sitting tells TensorBoard to drop what the last one
    wrote from its checkpoint's step on, and writes the figures of that step again."""

    def sent_before(self, place: int) -> bool:
        return False

    def begin(self, picture: Path) -> None:
        step, writer, logger = self.run.step, self.experiment, cast(TensorBoardLogger, self.logger)
        old = Path(logger.log_dir) / logger.NAME_HPARAMS_FILE
        old.unlink(missing_ok=True)  # Lightning would keep it
        writer.add_text("config", f"```yaml\n{self.run.config_text}```", step)
        if not self.known:
            with Image.open(picture) as image:
                writer.add_image("views", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        for figures in () if self.run.last is None or not self.known else self.run.last.figures:
            self.row(figures, step, KINDS * step)

    def row(self, metrics: dict[str, Any], step: int, place: int) -> None:
        if place % KINDS != CLOSING:  # `end` sends these, with the config beside them
            self.logger.log_metrics(self.once(metrics, step), step)

    def save(self) -> None:
        self.attempt(self.experiment.flush)

    def end(self, closing: Closing) -> None:
        if closing.rows:
            lines = [closing.columns, ["---"] * len(closing.columns), *closing.table]
            text = "\n".join(f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |" for line in lines)
            self.experiment.add_text("closing_table", text, closing.step)
        new = self.once(closing.figures, closing.step)
        self.logger.log_hyperparams(self.run.config, new, closing.step)  # type: ignore[call-arg]

    def shut(self, status: Status) -> None:
        self.logger.finalize("success")
