"""Losses as pure functions. All compute in float32 or float64, also under autocast and TF32: at low temperatures less
precise logits change the gradient by several per cent. Matrix products of the backward pass may use TF32."""

from siamese.losses.clustering import prototype_scores, self_distillation, sinkhorn, swapped_prediction
from siamese.losses.contrastive import (
    contrastive,
    cosine_similarity,
    dcl,
    dclw,
    info_nce_batch,
    info_nce_queue,
    nt_logistic,
    nt_xent,
    nt_xent_chunked,
    triplet,
)
from siamese.losses.distillation import similarity_cross_entropy
from siamese.losses.gaussian import keyed_generator, random_slices, sigreg, view_spread, visreg
from siamese.losses.neighbours import info_nce_neighbours, nearest
from siamese.losses.precision import full_precision
from siamese.losses.reconstruction import masked_pixels, patchify
from siamese.losses.redundancy import barlow_twins, vicreg
from siamese.losses.supervised import sup_con

__all__ = [
    "barlow_twins", "contrastive", "cosine_similarity", "dcl", "dclw", "full_precision", "info_nce_batch",
    "info_nce_neighbours", "info_nce_queue", "keyed_generator", "masked_pixels", "nearest", "nt_logistic", "nt_xent",
    "nt_xent_chunked", "patchify", "prototype_scores", "random_slices", "self_distillation", "sigreg",
    "similarity_cross_entropy", "sinkhorn", "sup_con", "swapped_prediction", "triplet", "vicreg", "view_spread",
    "visreg",
]  # fmt: skip
