"""The callbacks that a person chooses by the group `callbacks`."""

import importlib.util

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import DeviceStatsMonitor

from siamese.config import make
from siamese.errors import UserError
from siamese.training.callbacks import EarlyStopping, OnlineEvaluation, Pruning
from siamese.training.devices import on_gpu


def chosen_callbacks(cfg: DictConfig, online: OnlineEvaluation) -> list[pl.Callback]:
    """The callbacks of the group `callbacks`.

    Raises:
        UserError: one is no callback, or monitors a figure that is not measured.
    """
    out = []
    for name, node in cfg.callbacks.items():
        made = make(node)
        if not isinstance(made, pl.Callback):
            raise UserError(f"callbacks.{name}._target_={node._target_}", "is no Lightning callback", "name one")
        if isinstance(made, DeviceStatsMonitor) and not on_gpu(cfg) and importlib.util.find_spec("psutil") is None:
            raise UserError(f"callbacks.{name}", "on a CPU it needs psutil", "pip install psutil, or leave it out")
        if isinstance(made, Pruning):
            made.check(f"callbacks.{name}", online.names())
        figure = made.monitor if isinstance(made, (EarlyStopping, Pruning)) else None
        if figure is not None and figure not in online.names():
            raise UserError(
                f"callbacks.{name}.monitor={figure}", "is not measured", f"choose one of {', '.join(online.names())}"
            )
        if figure is not None and not cfg.monitor.every:
            raise UserError(
                f"callbacks.{name}.monitor={figure}", "monitor.every=0 measures nothing", "give monitor.every"
            )
        out.append(made)
    return out
