"""Vision Transformers (arXiv:2010.11929), of timm's class. timm is imported only where one is asked for."""

import math
import re
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from siamese.backbones.common import Backbone, channel_count, prepared
from siamese.errors import UserError
from siamese.schema.types import Blocks, Channels, Name, Pixels, Probability, TokenWidth

MOST_PATCHES = 128  # along a side
PATCHES = ((112, 16), (64, 8), (24, 4), (0, 2))  # side of the views, at least, and of the patches of patch_size=auto


def vit(
    name: Name,
    image_size: Pixels,
    patch_size: Literal["auto"] | Pixels,
    width: TokenWidth,
    depth: Blocks,
    heads: Blocks,
    pool: Literal["token", "mean"],
    position: Literal["learned", "sincos"],
    init: Literal["timm", "xavier"],
    freeze_patches: bool,
    drop_path: Probability,
    channels: Channels = 3,
    adapt_first_layer: bool = False,
    freeze_stem: bool = False,
) -> Backbone:
    """A Vision Transformer. The names of its tensors are those of timm's ``vit_*_patch*`` models.

    Args:
        name: for reports.
        image_size: side of the largest views. Smaller views get interpolated position embeddings.
        patch_size: side of the patches, pixels; "auto": see `PATCHES`.
        width, depth, heads: of the tokens, the blocks and their attention.
        pool: the features are the class token, or the mean of the patches' tokens, after the last norm. Both have the
            same tensors, so that a file trained with one can be judged with the other.
        position: of the position embedding: learned, or two-dimensional sines and cosines, fixed (MoCo v3, MAE).
        init: timm's (truncated normal), or Xavier-uniform with queries, keys and values apart, as MoCo v3 and MAE have.
        freeze_patches: the random projection of the patches is not trained (MoCo v3, arXiv:2104.02057, section 4.2).
        drop_path: of the last block, linearly less in those before.

    Raises:
        UserError: patches that do not divide the views, or heads that do not divide the width.
    """
    from timm.models.vision_transformer import VisionTransformer

    side = patch_side(image_size) if patch_size == "auto" else patch_size
    _check(image_size, patch_size, side, width, heads, position)
    model = VisionTransformer(
        img_size=image_size, patch_size=side, in_chans=channel_count(channels), num_classes=0, embed_dim=width,
        depth=depth, num_heads=heads, global_pool="avg" if pool == "mean" else pool, fc_norm=False,
        drop_path_rate=drop_path, dynamic_img_size=True, weight_init="moco" if init == "xavier" else "",
    )  # fmt: skip
    if init == "xavier":
        _start_as_linear(model, width)
    if position == "sincos":
        model.pos_embed = nn.Parameter(sincos_position(width, image_size // side), requires_grad=False)
    if freeze_patches:
        model.patch_embed.proj.requires_grad_(False)
    network = cast(Backbone, model)
    network.feature_dim, network.heads_setting = width, "backbone.heads"
    return prepared(network, adapt_first_layer, freeze_stem)


def _check(image_size: int, patch_size: str | int, side: int, width: int, heads: int, position: str) -> None:
    """Refuse sizes that do not fit together."""
    fitting = [n for n in range(1, 33) if image_size % n == 0 and image_size // n <= MOST_PATCHES]
    if image_size % side:
        raise UserError(
            f"backbone.patch_size={patch_size}", f"does not divide the {image_size} pixels of the views",
            f"give one of {', '.join(map(str, fitting))}" if fitting else "choose another data.crop",
        )  # fmt: skip
    if image_size // side > MOST_PATCHES:
        raise UserError(
            f"backbone.patch_size={patch_size}",
            f"cuts {image_size} pixels into more than {MOST_PATCHES} patches",
            f"give one of {', '.join(map(str, fitting))}" if fitting else "choose another data.crop",
        )  # fmt: skip
    if width % heads or (position == "sincos" and width % 4):
        raise UserError(
            f"backbone.width={width}",
            f"must be a multiple of backbone.heads={heads}" + (" and of 4" if position == "sincos" else ""),
            f"try {max(1, width // math.lcm(heads, 4)) * math.lcm(heads, 4)}",
        )


def _start_as_linear(model: Any, width: int) -> None:
    """The projection of the patches as a linear layer, and a class token that is as good as zero (official code)."""
    projection = model.patch_embed.proj
    bound = math.sqrt(6 / (projection.weight[0].numel() + width))
    nn.init.uniform_(projection.weight, -bound, bound)
    nn.init.zeros_(projection.bias)
    nn.init.normal_(model.cls_token, std=1e-6)


def patch_side(image_size: int) -> int:
    """The side of the patches for views of `image_size` pixels: 14 x 14 patches of 224 pixels, 8 x 8 of 32."""
    return next(side for least, side in PATCHES if image_size >= least)


def sincos_position(width: int, grid: int, class_token: bool = True) -> Tensor:
    """Fixed position embedding (1, 1 + grid * grid, width): sines and cosines of the column, then of the row, a quarter
    of the width each, of frequencies 10000^(-i / (width / 4)); the class token's is zero (MoCo v3, MAE)."""
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.outer(torch.arange(grid, dtype=torch.float64), frequencies)  # (grid, width / 4)
    columns, rows = angle.repeat(grid, 1), angle.repeat_interleave(grid, 0)
    found = torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], 1)
    if class_token:
        found = torch.cat([torch.zeros(1, width, dtype=torch.float64), found])
    return found.unsqueeze(0).float()


def is_vit(backbone: Any) -> bool:
    """Whether it is a Vision Transformer of timm's class, or of a class derived from it."""
    return any(c.__name__ == "VisionTransformer" and c.__module__.startswith("timm.") for c in type(backbone).__mro__)


def attends(backbone: nn.Module) -> bool:
    """Whether it is a transformer of any kind. Pooling by attention is another thing."""
    # timm's names: Attention, WindowAttention, LocallyGroupedAttn, …
    return any(re.search("Attention(?!Pool)|Attn", type(m).__name__) for m in backbone.modules())
