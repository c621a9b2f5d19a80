"""Metrics of features that need no labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from siamese import factory
from siamese.augment import View
from siamese.evaluation.protocols.base import Protocol
from siamese.evaluation.target import EvalTarget
from siamese.probes import metrics
from siamese.probes.features import ROWS, extract, view_features
from siamese.schema.types import AtLeastTwo


@dataclass
class Unlabelled(Protocol):
    """RankMe, alpha-ReQ, uniformity and std of un-augmented features of training images; alignment and LiDAR of
    features of augmented views. All are of the backbone's features. A checkpoint of ours also has RankMe and LiDAR of
    the projector's output (`projection_rank`, `projection_lidar`), which RankMe's paper takes.

    Args:
        samples: images of the first four; RankMe's paper takes 25,600.
        view_images, views: of the last two; LiDAR's paper takes 1,000 images and 50 views.
    """

    samples: AtLeastTwo
    view_images: AtLeastTwo
    views: AtLeastTwo

    name = "unlabelled"
    description = "backbone features of training images, no labels"
    needs_labels = False
    multilabel = True
    order = 70

    def evaluate(self, target: EvalTarget) -> dict[str, Any]:
        assert target.network is not None
        device, load, pretrain = target.loading.device, target.loading.loader, target.data.pretrain
        split, few = pretrain.at_most(self.samples), pretrain.at_most(self.view_images)
        central = factory.central_crop(target.view)
        loader = load(split, target.batch_size, shuffle=False, cutter=central)
        z = extract(target.network, loader, target.view, device, True)
        views = target.make_views()
        crops = factory.random_crops(cast(Sequence[View], views.views), seed=0)
        loader = load(few, target.batch_size, shuffle=False, cutter=crops)
        seen = view_features(target.network, views, loader, self.views, device)
        figures = {**metrics.of_features(z.x), **metrics.of_views(seen)}
        if target.projector is not None:
            figures["projection_rank"] = metrics.rankme(projected(target.projector, z.x))
            views_projected = projected(target.projector, seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
            figures["projection_lidar"] = metrics.lidar(views_projected)
        return {**figures, "samples": len(split), "view_images": len(few), "views": self.views}

    def cells(self, result: dict[str, Any]) -> dict[str, str]:
        return {f"{k}, no labels": f"{v:.3f}" for k, v in result.items() if isinstance(v, float)}


@torch.no_grad()
def projected(projector: nn.Module, x: Tensor) -> Tensor:
    """Features (N, D) through a projector in eval mode, in blocks."""
    return torch.cat([projector(block) for block in x.split(ROWS)])
