"""What is judged, and on what."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from siamese.augment import CleanView, View
from siamese.backbones import Backbone
from siamese.build import Loading
from siamese.data import DataSet, Loader, Part
from siamese.errors import Stopped
from siamese.evaluation.features import FeatureCache, Features, raw_pixels

PARTS = ("fit", "val", "test")


@dataclass
class Subject:
    """A frozen network and a labelled data set.

    Args:
        name: of its row in the tables.
        network: None for the raw pixels.
        view: un-augmented.
        augment: arguments of the training's `View`; of these the crops of `crops` take what they are not given.
        data: the labels; `test` chooses nothing.
        loading: how batches are made.
        loaders: of the parts, shared by all subjects on this data set.
        batch_size: of a forward pass without gradient.
        cache: where features are kept.
        projector: of the training, in eval mode; None where the file has none.
    """

    name: str
    network: Backbone | None
    view: CleanView
    augment: dict[str, Any]
    data: DataSet
    loading: Loading
    loaders: dict[str, Loader]
    batch_size: int
    cache: FeatureCache
    projector: nn.Module | None = None
    made: dict[tuple[str, str], Features] = field(default_factory=dict)

    def part(self, name: str) -> Part:
        """`fit`, `val` or `test`."""
        part: Part | None = getattr(self.data, name)
        assert part is not None
        return part

    def features(self, part: str, interpolation: str | None = None) -> Features:
        """Features of `fit`, `val` or `test`, from the first call on kept; `interpolation` None is the training's."""
        wanted = self.view.interpolation if interpolation is None else interpolation
        key = part, wanted
        if key not in self.made:
            loader, device = self.loaders[part], self.loading.device
            if self.network is None:
                self.made[key] = raw_pixels(loader, device)
            else:
                view = self.view.resized_by(wanted)
                self.made[key] = self.cache.features(self.network, self.part(part), loader, view, device)
            if not len(self.made[key]):
                raise Stopped(f"no image of the {part} part of {self.data.name} can be read")
            if not all(bool(x.isfinite().all()) for x, _ in self.made[key].blocks()):
                raise Stopped(f"{self.name}: features of the {part} part of {self.data.name} hold NaN or infinity")
        return self.made[key]

    def whole(self) -> Features:
        """Features of all training labels."""
        return self.features("fit").plus(self.features("val"))

    def all_training(self, marked: bool = True) -> Part:
        """All images with training labels; `marked` adds the number of classes to the labels of the
        validation part."""
        val = self.data.val
        shift = self.data.num_classes * (val.labels >= 0) if marked else 0  # -1 stays unknown
        return self.data.fit.plus(replace(val, labels=val.labels + shift))

    def crops(self, scale: Any, flip: float | None, interpolation: Any) -> View:
        """Random resized crops and flips of the training's size and normalisation; None takes the training's."""
        a = self.augment
        return View(
            size=self.view.size, crop_scale=a["crop_scale"] if scale is None else scale, crop_ratio=a["crop_ratio"],
            interpolation=a["interpolation"] if interpolation is None else interpolation,
            flip_p=a["flip_p"] if flip is None else flip, jitter=[0.0] * 4, jitter_p=0, gray_p=0, gray_first=False,
            blur_p=0, blur_sigma=a["blur_sigma"], blur_kernel=a["blur_kernel"], solarize_p=0, rotate_degrees=0,
            mean=self.view.mean.tolist(), std=self.view.std.tolist(),
        ).to(self.loading.device)  # fmt: skip
