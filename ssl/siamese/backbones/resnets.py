"""ResNets: of our own, torchvision's and lightly's."""

import re
from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from siamese.backbones.common import Backbone, channel_count, prepared
from siamese.errors import UserError
from siamese.schema.types import Channels, Depth, Name, Natural, Widths


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, as in ResNet-18 (arXiv:1512.03385, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class SmallResNet(Backbone):
    """A ResNet for images of 8 to 64 pixels that two cores can train: a 3x3 stem without stride, then
    a stage a width, each but the first halving the image, then the mean over the image.

    Args:
        widths: channels of each stage; the last one is `feature_dim`.
        blocks: blocks of each stage.
        channels: of the images.
    """

    def __init__(self, widths: Sequence[int], blocks: int, channels: int = 3):
        super().__init__()
        stem = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(widths[0]), nn.ReLU()]
        inputs = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(_Block(inputs, width, stride=2 if stage and not block else 1))
                inputs = width
        self.layers = nn.Sequential(*layers)
        self.feature_dim = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))


def small_resnet(
    name: Name,
    widths: Widths,
    blocks: Depth,
    channels: Channels = 3,
    adapt_first_layer: bool = False,
    freeze_stem: bool = False,
) -> Backbone:
    """A `SmallResNet`; `name` is for reports."""
    return prepared(SmallResNet(widths, blocks, channel_count(channels)), adapt_first_layer, freeze_stem)


def torchvision_resnet(
    name: Name,
    small_stem: bool,
    zero_init_residual: bool,
    stem_padding: Natural | None = None,
    channels: Channels = 3,
    adapt_first_layer: bool = False,
    freeze_stem: bool = False,
) -> Backbone:
    """A torchvision ResNet without its classifier.

    Args:
        name: ``resnet18``, ``resnet50``, ``wide_resnet50_2``, ...
        small_stem: for images of about 32 pixels: a 3x3 first convolution without stride, no max-pooling
            (SimCLR, arXiv:2002.05709, appendix B.9).
        stem_padding: of that convolution; None is 1, and rejects files of solo-learn, whose networks have 2.
        zero_init_residual: the last BatchNorm of each block starts at zero (arXiv:1706.02677, 5.1).
    """
    known = [n for n in torchvision.models.list_models() if re.fullmatch(r"(wide_)?res(net|next)\d+.*", n)]
    if name not in known:
        raise UserError(
            f"backbone.name={name}", "torchvision has no such ResNet", f"one of {', '.join(known)}, or backbone=timm"
        )
    if stem_padding is not None and not small_stem:
        raise UserError(f"backbone.stem_padding={stem_padding}", "the 7x7 stem has its own", "leave it out")
    model = torchvision.models.get_model(name, weights=None, zero_init_residual=zero_init_residual)
    model.feature_dim = model.fc.in_features
    model.fc = nn.Identity()
    if small_stem:
        padding = 1 if stem_padding is None else stem_padding
        model.conv1 = nn.Conv2d(channel_count(channels), 64, kernel_size=3, stride=1, padding=padding, bias=False)
        model.stem_padding = stem_padding
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    elif channel_count(channels) != 3:
        model.conv1 = nn.Conv2d(channel_count(channels), 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return prepared(model, adapt_first_layer, freeze_stem)


def lightly_resnet(
    name: Name,
    num_splits: Natural,
    channels: Channels = 3,
    adapt_first_layer: bool = False,
    freeze_stem: bool = False,
) -> Backbone:
    """The network that lightly's tutorials and CIFAR-10 benchmark train: the children of lightly's own small ResNet in
    a row, which leaves out the ReLU after the first BatchNorm.

    Args:
        name: ``resnet-18``, ...
        num_splits: parts of a batch that each BatchNorm takes apart; 0 is a plain one.
    """
    from lightly.models import ResNetGenerator  # seconds to import, so only where it is asked for

    try:
        network = ResNetGenerator(name, num_splits=num_splits)
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(f"backbone.name={name}", "lightly has no such ResNet", "try resnet-18 or resnet-50") from error
    stem, count = network.conv1, channel_count(channels)
    if count != 3:
        network.conv1 = nn.Conv2d(count, stem.out_channels, stem.kernel_size, stem.stride, stem.padding, bias=False)
    model = nn.Sequential(*list(network.children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.feature_dim = network.linear.in_features
    return prepared(cast(Backbone, model), adapt_first_layer, freeze_stem)
