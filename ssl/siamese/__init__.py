"""siamese: self-supervised pretraining of image backbones, and evaluation of the features."""

from typing import Any

from siamese.options import register

__version__ = "0.1.0"
__all__ = ["ImageData", "Pretrained", "load", "pretrain"]
register()


def __getattr__(name: str) -> Any:
    """What `siamese.api` has; torch and Lightning, which take seconds to import, are imported only for it."""
    if name not in __all__:
        raise AttributeError(f"module 'siamese' has no attribute {name!r}")
    from siamese.imports import without_scipy_signal

    with without_scipy_signal():
        from siamese import api

    return getattr(api, name)
