"""Imports that take seconds."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

NAME = "scipy.signal"


class _Later(ModuleType):
    """Stands in for scipy.signal, and imports it when somebody asks for more than `hamming`."""

    hamming = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
        return getattr(importlib.import_module(NAME), name)


@contextlib.contextmanager
def without_scipy_signal() -> Iterator[None]:
    """Import Lightning within: it imports torchmetrics, which imports scipy.signal only to give it back a function,
    `hamming`, for a package of audio metrics. That is a seventh of the time that importing Lightning takes
    (benchmarks/startup.py). Afterwards scipy.signal is imported as always."""
    if NAME in sys.modules:
        yield
        return
    sys.modules[NAME] = stand_in = _Later(NAME)
    try:
        yield
    finally:
        if sys.modules.get(NAME) is stand_in:
            del sys.modules[NAME]
