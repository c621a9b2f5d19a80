"""What all backbones have in common.

Arguments of every builder: `channels` of the images; `adapt_first_layer`: take weights of a first layer for another
number of channels (see `siamese.checkpoints.formats.adapted_weight`), instead of refusing them.
"""

from torch import nn

from siamese.errors import UserError


class Backbone(nn.Module):
    """A module with this attribute; the type of what the builders below return."""

    feature_dim: int
    heads_setting: str = "+backbone.options.num_heads"  # the key of a transformer's number of heads, for messages
    adapt_first_layer: bool = False  # weights of a first layer for another number of channels are adapted


def channel_count(channels: str | int) -> int:
    """The number of channels. "auto" is replaced by it once the images are known (`siamese.factory.resolve_images`)."""
    if isinstance(channels, str):
        raise UserError(f"backbone.channels={channels}", "is not known without images", "give a number")
    return channels


def adapts(model: Backbone, adapt_first_layer: bool) -> Backbone:
    """The model, with this attribute."""
    model.adapt_first_layer = adapt_first_layer
    return model
