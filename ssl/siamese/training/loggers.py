"""The logger that every run has: metrics.csv."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from siamese.distributed import is_rank_zero
from siamese.errors import RunAborted
from siamese.files import write


class CsvLog(Logger):
    """metrics.csv: one row per logging step, appended. Lightning's own CSVLogger deletes an existing file, so that a
    resumed run would lose its earlier rows, and knows the columns of the first row only.

    Args:
        file: the target. A row with new columns rewrites the header.
        keep_to: rows of later steps are removed from an existing file, because a run that resumes at this step writes
            them again. (Lightning counts from 0: the loss in a row of this number belongs to the next step.)

    Raises:
        RunAborted: a disk write failed.
    """

    def __init__(self, file: Path, keep_to: int | None = None):
        super().__init__()
        self.file = file
        self.columns: list[str] = []
        if file.exists():
            rows = self._rows()
            if keep_to is not None and is_rank_zero():
                self._write([row for row in rows if int(row["step"]) + bool(row.get("loss")) <= keep_to])

    def _rows(self) -> list[dict[str, Any]]:
        with self.file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            self.columns = list(reader.fieldnames or [])
            return [row for row in reader if None not in row.values()]  # a killed run may leave an incomplete row

    def _write(self, rows: list[dict[str, Any]]) -> None:
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write(self.file, stream.getvalue())

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {"step": step, **metrics}
        new = [key for key in row if key not in self.columns]
        try:
            if new:
                rows = self._rows() if self.file.exists() else []
                self.columns += new
                self._write(rows)
            with self.file.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, self.columns).writerow(row)
        except OSError as error:
            raise RunAborted(
                f"step {step}: {self.file} cannot be written ({error}); make room, then continue with resume=true "
                f"run_dir={self.file.parent}"
            ) from error
