"""What features tell without labels."""

from dataclasses import dataclass
from typing import Any

from siamese.augment import Views
from siamese.build import at_most
from siamese.data import Part
from siamese.errors import check_number
from siamese.evaluation.features import extract, view_features
from siamese.evaluation.subject import Subject
from siamese.monitor import health


@dataclass
class Unlabelled:
    """RankMe, alpha-ReQ, uniformity and std of un-augmented features of training images, alignment and LiDAR of
    features of augmented views. All on the backbone's features, since a published file has no projector;
    RankMe's paper takes the projector's output.

    Args:
        samples: images of the first four; RankMe's paper takes 25,600.
        view_images, views: of the last two; LiDAR's paper takes 1,000 images and 50 views.
    """

    samples: int
    view_images: int
    views: int

    def __post_init__(self) -> None:
        for key in ("samples", "view_images", "views"):
            check_number(f"eval.unlabelled.{key}", getattr(self, key), 2)

    def evaluate(self, subject: Subject, pretrain: Part, views: Views) -> dict[str, Any]:
        """The figures, and how many images they are of."""
        assert subject.network is not None
        device, load = subject.loading.device, subject.loading.loader
        part = at_most(pretrain, self.samples)
        z = extract(subject.network, load(part, subject.batch_size, shuffle=False), subject.view, device, True)
        few = at_most(pretrain, self.view_images)
        loader = load(few, subject.batch_size, shuffle=False)
        seen = view_features(subject.network, views, loader, self.view_images, self.views, device)
        figures = {**health.of_features(z.x), **health.of_views(seen)}
        return {**figures, "samples": len(part), "view_images": len(few), "views": self.views}
