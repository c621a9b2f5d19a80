"""Any other logger of Lightning, named by its `_target_`."""

from pathlib import Path
from typing import Any

from siamese.config import make
from siamese.schema.check import arguments, locate
from siamese.training.tracking.tracker import Closing, Status, TrackedRun, Tracker


def connect(label: str, node: dict[str, Any], run: TrackedRun, known: bool) -> "OtherTracker":
    """Build the logger, with the run folder if it takes one."""
    takes = "save_dir" in arguments(locate(f"logger.{label}._target_", node["_target_"]))
    return OtherTracker(label, make(node, **({"save_dir": str(run.folder)} if takes else {})), run, known)


class OtherTracker(Tracker):
    """Gets the config and the metrics."""

    def begin(self, picture: Path) -> None:
        self.logger.log_hyperparams(self.run.config)

    def row(self, metrics: dict[str, Any], step: int, place: int) -> None:
        self.logger.log_metrics(metrics, step)

    def save(self) -> None:
        self.attempt(self.logger.save)

    def end(self, closing: Closing) -> None:
        """Nothing: Lightning's loggers have no common way to take a table."""

    def shut(self, status: Status) -> None:
        self.logger.finalize("success" if status == "finished" else status)
