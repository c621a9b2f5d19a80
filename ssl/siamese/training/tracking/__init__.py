"""Trackers of a run beside metrics.csv: wandb, TensorBoard, MLflow, or several at once.

`check` before anything is written; `connect` at the start; then `begin`, `end` and `close` of `Tracking`.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import Logger

from siamese.config import to_dict
from siamese.distributed import is_rank_zero
from siamese.errors import RunAborted, UserError
from siamese.schema.check import locate, shown
from siamese.training.tracking import mlflow_tracker, other_tracker, tensorboard_tracker, wandb_tracker
from siamese.training.tracking.labels import labels
from siamese.training.tracking.privacy import secrets, without_secrets
from siamese.training.tracking.rows import Sitting, last_sitting
from siamese.training.tracking.tracker import Closing, Status, TrackedRun, Tracker, cannot_start

__all__ = ["Closing", "Sitting", "Status", "TrackedRun", "Tracker", "Tracking", "check", "connect", "last_sitting"]

# Class of Lightning -> its tracker, the package it needs, and how to install that.
KNOWN: dict[type[Logger], tuple[ModuleType, str, str]] = {
    WandbLogger: (wandb_tracker, "wandb", "pip install wandb"),
    TensorBoardLogger: (tensorboard_tracker, "tensorboard", "pip install tensorboard"),
    MLFlowLogger: (mlflow_tracker, "mlflow", "pip install 'siamese-ssl[mlflow]'"),
}
REMEDY = {
    wandb_tracker: "check the network and `wandb login`, or set WANDB_MODE=offline",
    mlflow_tracker: "check tracking_uri and the server, or leave it out",
}


def check(cfg: DictConfig) -> None:
    """Check the group `logger`. Writes nothing.

    Raises:
        UserError: a node names no logger, its package is missing, there is no account, or the checkpoint that a tracker
            is to get holds a secret.
    """
    for label, node in to_dict(cfg.logger).items():
        kind = locate(f"logger.{label}._target_", node["_target_"])
        if not (isinstance(kind, type) and issubclass(kind, Logger)):
            raise UserError(f"logger.{label}._target_={node['_target_']}", "is no Lightning logger", "name one")
        module, package, remedy = _known(kind)
        if package and importlib.util.find_spec(package) is None:
            raise UserError(f"logger={label}", f"{package} is not installed", remedy)
        if module is mlflow_tracker and mlflow_tracker.tracking_uri(node) is None:
            missing = [name for name in ("sqlalchemy", "alembic") if importlib.util.find_spec(name) is None]
            if missing:
                raise UserError(f"logger={label}", f"a local database needs {' and '.join(missing)}", remedy)
        if node.get("log_model"):
            _check_model(label, node["log_model"], secrets(to_dict(cfg)))
        if module is wandb_tracker and is_rank_zero():
            wandb_tracker.check_login(label, node)


def _check_model(label: str, given: Any, found: Sequence[str]) -> None:
    if given is not True:
        raise UserError(f"logger.{label}.log_model={shown(given)}", "not a possible value", "give true or false")
    if found:
        raise UserError(
            f"logger.{label}.log_model=true", f"the checkpoint holds {', '.join(found[:3])}, which may be secret",
            "give that by an environment variable, or set log_model=false",
        )  # fmt: skip


def _known(kind: type) -> tuple[ModuleType, str, str]:
    return next((found for base, found in KNOWN.items() if issubclass(kind, base)), (other_tracker, "", ""))


class Tracking:
    """The trackers of a run; none on other ranks than 0.

    Args:
        trackers: Lightning loggers.
    """

    def __init__(self, trackers: Sequence[Tracker] = ()):
        self.trackers = list(trackers)

    def begin(self, picture: Path) -> None:
        """Send config and views.png.

        Raises:
            UserError, RunAborted: a tracker cannot, the latter for want of room.
        """
        for one in self.trackers:
            try:
                one.begin(picture)
            except Exception as error:
                raise _refused(one.label, error, "") from error

    def end(self, closing: Closing) -> None:
        """Send the closing table, and the checkpoint if asked for."""
        for one in self.trackers:
            one.attempt(one.end, closing)

    def close(self, status: Status) -> None:
        """End the sitting. Further calls do nothing."""
        for one in self.trackers:
            one.attempt(one.shut, status)
        self.trackers = []


def connect(
    cfg: DictConfig, folder: Path, run_id: str, steps_per_epoch: int, last: Sitting | None, say: Callable[[str], None]
) -> Tracking:
    """Start the trackers.

    Args:
        cfg: of the run.
        folder: the run folder; it exists.
        run_id: the run's own.
        steps_per_epoch: optimiser steps.
        last: of a run that is resumed.
        say: prints one line.

    Raises:
        UserError: a server or an account refuses. The trackers that were started are ended.
    """
    run = TrackedRun(folder, run_id, without_secrets(to_dict(cfg)), labels(cfg), steps_per_epoch, last, say)
    made = Tracking()
    for label, node in to_dict(cfg.logger).items():
        module = _known(locate(f"logger.{label}._target_", node["_target_"]))[0]  # type: ignore[arg-type]
        known = last is not None and node["_target_"] in last.targets
        try:
            made.trackers.append(module.connect(label, node, run, known))
        except Exception as error:
            made.close("failed")
            raise _refused(label, error, REMEDY.get(module, "")) from error
    return made


def _refused(label: str, error: Exception, remedy: str) -> Exception:
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        return RunAborted(str(cannot_start(label, error, "make room, or choose another logger")))
    return cannot_start(label, error, remedy or "choose another logger")
