"""Any model of timm."""

import logging
from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import Tensor

from siamese.backbones.common import Backbone, channel_count, prepared
from siamese.errors import UserError
from siamese.schema.types import Channels, Name, Pixels


def timm_model(
    name: Name,
    image_size: Pixels,
    pretrained: bool,
    options: dict[str, Any],
    channels: Channels = 3,
    adapt_first_layer: bool = False,
    freeze_stem: bool = False,
) -> Backbone:
    """Any timm model by name, without its classifier.

    Args:
        image_size: side of the views; models with a position embedding are built for it.
        pretrained: start from timm's published weights (downloads them); timm adapts their first layer to `channels`.
        options: further arguments of `timm.create_model`.
    """
    import timm  # seconds to import, so only where it is asked for

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=4)
        raise UserError(
            f"backbone.name={name}", "timm has no such model", f"did you mean {', '.join(near) or 'another name'}?"
        )
    options = dict(options)
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options.setdefault("img_size", image_size)
    try:
        if channel_count(channels) != 3:
            options.setdefault("in_chans", channels)
        model = timm.create_model(name, num_classes=0, **options)
        if pretrained:
            model = _pretrained(name, options)
        was_training = model.training
        with torch.no_grad():
            features = model.eval()(torch.zeros(1, channel_count(channels), image_size, image_size))
        model.train(was_training)
    except UserError:
        raise
    except Exception as error:  # timm's models raise many kinds
        raise UserError(
            f"backbone.name={name}",
            f"cannot be built for views of {image_size} pixels ({error})",
            "choose larger views (data.crop), another model, or pass options by '+backbone.options.KEY=VALUE'",
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise UserError(
            f"backbone.name={name}",
            f"gives {tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__}",
            "choose a model that pools to (B, D)",
        )
    model.feature_dim = features.shape[1]  # type: ignore[assignment]
    return prepared(cast(Backbone, model), adapt_first_layer, freeze_stem)


def _pretrained(name: str, options: dict[str, Any]) -> Any:
    """The model with timm's published weights, out of its cache or downloaded."""
    import timm

    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # it tells of each attempt
    try:
        return timm.create_model(name, pretrained=True, num_classes=0, **options)
    except Exception as error:  # of the network, the hub's client, or other tensors
        reason = str(error).split("\n")[0]
        raise UserError(
            f"backbone.name={name}", f"its published weights cannot be loaded ({reason})",
            "check the connection, or give the weights as a file",
        ) from error  # fmt: skip
