"""The early end of unpromising trials of a search."""

import csv
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig

from siamese.config import in_sweep, optuna
from siamese.errors import UserError
from siamese.schema.types import Name, Natural, Percentile
from siamese.training.state import EVALUATED

PREFERRED = ("knn_top1", "knn_map", "feature_rank")


class Pruning(pl.Callback):
    """Ends a trial of an Optuna search whose figure is worse than most earlier trials' at the same epoch
    (`optuna.pruners.PercentilePruner`). The trial makes its closing table, and counts with what it has reached.

    Only trials of earlier batches are compared, those that ran side by side with this one are not. So it makes no
    difference to the search when each trial ran, or whether it was interrupted.

    Args:
        monitor: a figure of the online evaluation; ``auto`` is kNN's, or RankMe where there are no labels.
        mode: whether it is to rise or to fall.
        percentile: of the earlier trials that a trial must reach; 50 is their median, 25 the best quarter.
        startup_trials: trials that must have ended before any is ended early.
        warmup_epochs: of each trial, before it may be ended.
    """

    def __init__(
        self,
        monitor: Name,
        mode: Literal["min", "max"],
        percentile: Percentile,
        startup_trials: Natural,
        warmup_epochs: Natural,
    ):
        self.monitor, self.mode, self.percentile = monitor, mode, percentile
        self.startup_trials, self.warmup_epochs = startup_trials, warmup_epochs
        self.own: dict[int, float] = {}  # epoch -> figure
        self.ended = False

    def check(self, setting: str, measured: Collection[str]) -> None:
        """Resolve ``auto``.

        Args:
            setting: names the callback in messages.
            measured: figures of the online evaluation.

        Raises:
            UserError: the run is no trial of an Optuna search.
        """
        searched = in_sweep() and "sampler" in HydraConfig.get().sweeper
        if not searched:
            raise UserError(setting, "only a trial of a search can be ended early", "use it with -m and sweep=METHOD")
        if self.monitor == "auto":
            self.monitor = next(name for name in PREFERRED if name in measured)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.ended:  # the trial was interrupted before its closing table
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if int(trainer.callback_metrics.get(EVALUATED, -1)) != epoch or self.monitor not in trainer.callback_metrics:
            return
        value = float(trainer.callback_metrics[self.monitor])
        if math.isfinite(value):
            self.own[epoch] = value
        if epoch > self.warmup_epochs and epoch < (trainer.max_epochs or 0) and self._unpromising():
            self.ended = trainer.should_stop = True

    def _unpromising(self) -> bool:
        search = optuna()
        pruner = search.pruners.PercentilePruner(self.percentile, self.startup_trials, self.warmup_epochs)
        study = search.create_study(direction="maximize" if self.mode == "max" else "minimize", pruner=pruner)
        for curve in self._earlier():
            trial = _reported(study.ask(), curve)
            study.tell(trial, curve[max(curve)])
        return bool(_reported(study.ask(), self.own).should_prune())

    def _earlier(self) -> list[dict[int, float]]:
        """Epoch -> figure of the finished trials of earlier batches."""
        hydra = HydraConfig.get()
        first = int(hydra.job.num) // int(hydra.sweeper.n_jobs) * int(hydra.sweeper.n_jobs)
        found = (curve_of(Path(hydra.sweep.dir), number, self.monitor) for number in range(first))
        return [curve for curve in found if curve]

    def state_dict(self) -> dict[str, Any]:
        return {"own": dict(self.own), "ended": self.ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.own, self.ended = dict(state_dict["own"]), state_dict["ended"]


def _reported(trial: Any, curve: dict[int, float]) -> Any:
    for epoch, value in curve.items():
        trial.report(value, epoch)
    return trial


def curve_of(sweep: Path, number: int, figure: str) -> dict[int, float]:
    """Epoch -> figure of a trial in the folder of a sweep; empty if it has not finished or has failed."""
    run_dir = sweep / f"{number:02d}"
    try:
        if json.loads((sweep / "trials" / f"{number:04d}.json").read_text(encoding="utf-8"))["error"] is not None:
            return {}
        with (run_dir / "metrics.csv").open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row.get(figure) and row.get("epoch")]
        found = {round(float(row["epoch"])): float(row[figure]) for row in rows}
    except (OSError, ValueError, KeyError):
        return {}
    return {epoch: value for epoch, value in found.items() if math.isfinite(value)}
