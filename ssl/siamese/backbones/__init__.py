"""Backbones: (B, C, H, W) float images to (B, D) features, with ``.feature_dim`` = D."""

from siamese.backbones.common import Backbone, channel_count
from siamese.backbones.masked import MaskedDecoder, encode_visible
from siamese.backbones.resnets import SmallResNet, lightly_resnet, small_resnet, torchvision_resnet
from siamese.backbones.timm_models import timm_model
from siamese.backbones.vit import attends, is_vit, vit

__all__ = [
    "Backbone", "MaskedDecoder", "SmallResNet", "attends", "channel_count", "encode_visible", "is_vit",
    "lightly_resnet", "small_resnet", "timm_model", "torchvision_resnet", "vit",
]  # fmt: skip
