"""Composed configs: to objects, to plain values; and how Hydra was started."""

import importlib
import inspect
import warnings
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from siamese.errors import UserError


def make(node: Any, **arguments: Any) -> Any:
    """Hydra's `instantiate`.

    Args:
        node: holds `_target_`.
        arguments: further arguments of the target.

    Raises:
        UserError: the target's own, or its arguments are unknown, missing or impossible.
    """
    try:
        made = instantiate(node, _convert_="all", _partial_=True)
        try:
            inspect.signature(made.func).bind(**made.keywords, **arguments)
        except TypeError as error:  # an unknown or a missing argument
            raise UserError(str(node._target_), str(error), "--cfg job prints all keys") from error
        return made(**arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(str(node._target_), f"cannot be built ({reason})", "--cfg job prints all keys") from error


def to_dict(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain values."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def quoted(text: str) -> str:
    """Text in quotes for Hydra's parser, in which nothing is interpolated."""
    return QuotedString(text.replace("${", "\\${"), Quote.single).with_quotes()


def optuna() -> Any:
    """The module of that name. Hydra's sweeper needs release 2.10, which SQLAlchemy 2 warns about, and which announces
    each study."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module("optuna")
    found.logging.set_verbosity(found.logging.WARNING)
    return found


def in_sweep() -> bool:
    """True in a trial of a sweep (`-m`)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
