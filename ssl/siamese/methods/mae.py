"""MAE: a Vision Transformer sees a quarter of the patches, and a small decoder draws the others (arXiv:2111.06377)."""

import math
from typing import Any

import torch
from torch import Tensor

from siamese.augment import described
from siamese.backbones import Backbone, MaskedDecoder, encode_visible
from siamese.distributed import rank, world_size
from siamese.errors import UserError
from siamese.losses import keyed_generator, masked_pixels, patchify
from siamese.methods.base import Method
from siamese.schema.types import Blocks, ProperShare, Seed, TokenWidth


class MAE(Method):
    """He et al. 2021, "Masked Autoencoders Are Scalable Vision Learners".

    Args:
        mask_ratio: part of the patches that are masked, another choice for each image.
        decoder_width, decoder_depth, decoder_heads: of the decoder's tokens, blocks and attention.
        normalise_pixels: the pixels of a patch are predicted minus their mean and over their standard deviation.
        seed: of the masks, with the step and the micro-batch.
    """

    num_views = 1
    needs_vit = True
    projects_features = True
    collapse_causes = "a learning rate that is too high, or patches that are predicted well from their neighbours"

    def __init__(
        self, backbone: Backbone, mask_ratio: ProperShare, decoder_width: TokenWidth, decoder_depth: Blocks,
        decoder_heads: Blocks, normalise_pixels: bool, seed: Seed = 0, **base: Any,
    ):  # fmt: skip
        super().__init__(backbone, **base)
        vit: Any = backbone
        if any(p is not None and list(p.parameters()) for p in (vit.attn_pool, vit.fc_norm)):
            problem = "it pools by layers that MAE does not train"
            raise UserError("backbone", problem, "give +backbone.options.global_pool=token")
        self.patches, self.side = vit.patch_embed.num_patches, vit.patch_embed.patch_size[0]
        self.visible = self.patches - round(mask_ratio * self.patches)
        if not 0 < self.visible < self.patches:
            problem = f"masks {self.patches - self.visible} of {self.patches} patches"
            raise UserError(f"method.mask_ratio={mask_ratio:g}", problem, "leave some, and mask some")
        if decoder_width % (unit := math.lcm(4, decoder_heads)):
            problem = f"must be a multiple of method.decoder_heads={decoder_heads} and of 4"
            raise UserError(
                f"method.decoder_width={decoder_width}", problem, f"try {max(1, decoder_width // unit) * unit}"
            )
        self.normalise_pixels, self.seed = normalise_pixels, seed
        pixels = self.side**2 * vit.patch_embed.proj.in_channels
        self.decoder = MaskedDecoder(
            backbone.feature_dim, decoder_width, decoder_depth, decoder_heads, self.patches, pixels
        )

    def check_views(self, sizes: list[int]) -> None:
        super().check_views(sizes)
        built = self.backbone.patch_embed.img_size[0]  # type: ignore[union-attr, index]
        if sizes[0] != built:
            told = f"augment.views={described(sizes)}"
            raise UserError(told, f"the backbone is built for {built} pixels", "give data.crop, and leave size out")

    def compile_networks(self) -> None:
        super().compile_networks()
        self.backbone.blocks.compile()  # type: ignore[union-attr, operator]

    def loss(self, views: list[Tensor]) -> Tensor:
        (x,) = views
        order = self.draw(len(x), x.device)
        visible, masked = order[:, : self.visible], order[:, self.visible :]  # (N, K), (N, L - K)
        tokens = encode_visible(self.backbone, x, visible)  # (N, 1 + K, D)
        self.projection = self.backbone.forward_head(tokens, pre_logits=True).detach()  # type: ignore[operator]
        prediction = self.decoder(tokens, visible, masked)  # (N, L - K, P)
        return masked_pixels(prediction, patchify(x, self.side), masked, self.normalise_pixels)

    def draw(self, n: int, device: torch.device) -> Tensor:
        """(N, L) the patches in random order: this rank's part of the joint batch's."""
        generator = keyed_generator((self.seed, self.step, self.micro_batch), device)
        joint = torch.rand(n * world_size(), self.patches, generator=generator, device=device)
        return joint[n * rank() : n * (rank() + 1)].argsort(1)
