"""metrics.csv: a row a logging step, appended."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only


class CsvLog(Logger):
    """Lightning's own CSVLogger deletes an existing file, so a resumed run would lose its past, and it
    knows the columns of the first row only.

    Args:
        file: where to; a row whose columns are new rewrites the header.
    """

    def __init__(self, file: Path):
        super().__init__()
        self.file = file
        self.columns: list[str] = []
        if file.exists():
            with file.open(newline="") as stream:
                self.columns = next(csv.reader(stream), [])

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {"step": step, **metrics}
        new = [key for key in row if key not in self.columns]
        if new:
            rows: list[dict[str, Any]] = []
            if self.file.exists():
                with self.file.open(newline="") as stream:
                    rows = list(csv.DictReader(stream))
            self.columns += new
            with self.file.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, self.columns)
                writer.writeheader()
                writer.writerows(rows)
        with self.file.open("a", newline="") as stream:
            csv.DictWriter(stream, self.columns).writerow(row)
