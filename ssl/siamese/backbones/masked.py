"""Vision Transformers on a part of the patches, and a decoder that draws the other ones (MAE, arXiv:2111.06377)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from siamese.backbones.vit import sincos_position


def encode_visible(backbone: Any, images: Tensor, visible: Tensor) -> Tensor:
    """The tokens of the class and of some patches after the last norm, (N, 1 + K, D): the blocks see no others.

    lightly's MaskedVisionTransformerTIMM starts the backbone's weights anew, and as a part of a method it would hold
    them under a second name beside a mask token without gradient.

    Args:
        backbone: see `siamese.backbones.is_vit`.
        visible: (N, K) numbers of patches, row by row from 0.
    """
    tokens = backbone._pos_embed(backbone.patch_embed(images))
    first = backbone.num_prefix_tokens
    tokens = torch.cat([tokens[:, :first], tokens[:, first:].gather(1, spread(visible, tokens))], 1)
    return backbone.norm(backbone.blocks(backbone.norm_pre(tokens)))  # type: ignore[no-any-return]


class MaskedDecoder(nn.Module):
    """Blocks on the visible tokens and on one learned token in the place of each masked patch, with fixed positions.
    lightly's MaskedVisionTransformerDecoderTIMM is not in lightly 1.5, and its MAEDecoderTIMM is deprecated.

    Args:
        inputs: width of the encoder's tokens.
        width, depth, heads: of the decoder's tokens, blocks and attention.
        patches: their number, a square.
        outputs: for each masked patch.
    """

    position: Tensor

    def __init__(self, inputs: int, width: int, depth: int, heads: int, patches: int, outputs: int):
        super().__init__()
        from timm.models.vision_transformer import Block

        self.embed = nn.Linear(inputs, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, qkv_bias=True, norm_layer=nn.LayerNorm) for _ in range(depth))
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        position = sincos_position(width, math.isqrt(patches), class_token=False)
        self.register_buffer("position", position, persistent=False)

    def forward(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """The encoder's tokens (N, F + K, D), F of them of the class, to (N, M, P) of the masked patches.

        Args:
            visible, masked: (N, K) and (N, M), all patches together.
        """
        z = self.embed(tokens)
        first = z.shape[1] - visible.shape[1]
        whole = self.mask_token.to(z.dtype).expand(len(z), self.position.shape[1], -1)
        whole = whole.scatter(1, spread(visible, z), z[:, first:]) + self.position
        y = self.norm(self.blocks(torch.cat([z[:, :first].to(whole.dtype), whole], 1)))[:, first:]
        return self.head(y.gather(1, spread(masked, y)))  # type: ignore[no-any-return]


def spread(numbers: Tensor, tokens: Tensor) -> Tensor:
    """(N, K) to (N, K, D), for `gather` and `scatter`."""
    return numbers.unsqueeze(2).expand(-1, -1, tokens.shape[2])
