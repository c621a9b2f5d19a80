"""What all backbones have in common.

Arguments of every builder: `channels` of the images; `adapt_first_layer`: take weights of a first layer for another
number of channels (see `siamese.checkpoints.formats.adapted_weight`), instead of refusing them; `freeze_stem`: the
weights of the first layer, with the norm that follows it, are not trained.
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


STEMS = (("patch_embed",), ("conv1", "bn1"), ("conv_stem", "bn1"), ("stem",))  # of ViTs, ResNets, timm's other networks


def prepared(model: Backbone, adapt_first_layer: bool, freeze_stem: bool) -> Backbone:
    """The model with these settings.

    Raises:
        UserError: it has no stem that we know.
    """
    model.adapt_first_layer = adapt_first_layer
    if freeze_stem:
        parts = _stem(model)
        if not parts:
            raise UserError("backbone.freeze_stem=true", "this network has no stem that we know", "leave it false")
        for part in parts:
            part.requires_grad_(False)
    return model


def _stem(model: nn.Module) -> list[nn.Module]:
    """The first layer and its norm; [] if unknown."""
    for names in STEMS:
        found = [getattr(model, name, None) for name in names]
        if all(isinstance(part, nn.Module) for part in found):
            return [part for part in found if isinstance(part, nn.Module)]
    layers = next((m for m in (model, *model.children()) if isinstance(m, nn.Sequential)), nn.Sequential())
    first = list(layers.children())[:2]
    return first if len(first) == 2 and isinstance(first[0], nn.Conv2d) else []
