"""What features tell without labels."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from siamese.augment import Views
from siamese.build import at_most
from siamese.data import Part
from siamese.evaluation.features import ROWS, extract, view_features
from siamese.evaluation.subject import Subject
from siamese.monitor import health
from siamese.schema.types import AtLeastTwo


@dataclass
class Unlabelled:
    """RankMe, alpha-ReQ, uniformity and std of un-augmented features of training images, alignment and LiDAR of
    features of augmented views: of the backbone's features, and of a checkpoint of ours RankMe and LiDAR of the
    projector's output too (`projection_rank`, `projection_lidar`), which is what RankMe's paper takes.

    Args:
        samples: images of the first four; RankMe's paper takes 25,600.
        view_images, views: of the last two; LiDAR's paper takes 1,000 images and 50 views.
    """

    samples: AtLeastTwo
    view_images: AtLeastTwo
    views: AtLeastTwo

    def evaluate(self, subject: Subject, pretrain: Part, views: Views) -> dict[str, Any]:
        """The figures, and how many images they are of."""
        assert subject.network is not None
        device, load = subject.loading.device, subject.loading.loader
        part = at_most(pretrain, self.samples)
        z = extract(subject.network, load(part, subject.batch_size, shuffle=False), subject.view, device, True)
        few = at_most(pretrain, self.view_images)
        loader = load(few, subject.batch_size, shuffle=False)
        seen = view_features(subject.network, views, loader, self.views, device)
        figures = {**health.of_features(z.x), **health.of_views(seen)}
        if subject.projector is not None:
            figures["projection_rank"] = health.rankme(projected(subject.projector, z.x))
            views_projected = projected(subject.projector, seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
            figures["projection_lidar"] = health.lidar(views_projected)
        return {**figures, "samples": len(part), "view_images": len(few), "views": self.views}


@torch.no_grad()
def projected(projector: nn.Module, x: Tensor) -> Tensor:
    """Features (N, D) through a projector in eval mode, in blocks."""
    return torch.cat([projector(block) for block in x.split(ROWS)])
