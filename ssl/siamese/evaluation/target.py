"""What is judged, and on what."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from siamese import factory
from siamese.augment import CleanView, View, Views
from siamese.backbones import Backbone
from siamese.data import DataSet, Loader, LoaderConfig, Split
from siamese.errors import RunAborted
from siamese.evaluation.cache import FeatureCache
from siamese.probes.features import Features, raw_pixels
from siamese.progress import over, within

SPLITS = ("train_labeled", "val", "test")


@dataclass
class EvalTarget:
    """A frozen network and a labelled data set.

    Args:
        name: of its row in the tables.
        network: None for the raw pixels.
        view: un-augmented.
        augment: the training's settings of `conf/augment`; `crops` takes from these what it is not given.
        make_views: builds the training's views.
        data: the data set; its test split chooses nothing.
        loading: how batches are made.
        loaders: of the splits, shared by all targets on this data set.
        batch_size: of a forward pass without gradient.
        cache: keeps features.
        say: prints a line for the user; a line that was printed before is not repeated.
        projector: of the training, in eval mode; None if the file has none.
    """

    name: str
    network: Backbone | None
    view: CleanView
    augment: dict[str, Any]
    make_views: Callable[[], Views]
    data: DataSet
    loading: LoaderConfig
    loaders: dict[str, Loader]
    batch_size: int
    cache: FeatureCache
    say: Callable[[str], None] = print
    projector: nn.Module | None = None
    extracted: dict[tuple[str, str], Features] = field(default_factory=dict)

    def split(self, name: str) -> Split:
        """A split of `SPLITS`."""
        split: Split | None = getattr(self.data, name)
        assert split is not None
        return split

    def loader(self, split: str, view: CleanView) -> Loader:
        """Batches of a split; what is cut out of files depends on the view."""
        if not self.loading.cuts_files(self.split(split)):
            return self.loaders[split]
        cutter = factory.central_crop(view)
        return self.loading.loader(self.split(split), self.batch_size, shuffle=False, cutter=cutter)

    def features(self, split: str, interpolation: str | None = None) -> Features:
        """Features of a split of `SPLITS`; they are kept from the first call on.

        Args:
            interpolation: of the view; None is the training's.

        Raises:
            RunAborted: no image can be read, or the features hold NaN or infinity.
        """
        wanted = self.view.interpolation if interpolation is None else interpolation
        key = split, wanted
        if key not in self.extracted:
            view, device = self.view.resized_by(wanted), self.loading.device
            loader = self.loader(split, view)
            with within(f"{split} split"):
                if self.network is None:
                    self.extracted[key] = raw_pixels(over(loader, len(loader), "features", "batches"), view, device)
                else:
                    self.extracted[key] = self.cache.features(self.network, self.split(split), loader, view, device)
            if not len(self.extracted[key]):
                raise RunAborted(f"no image of the {split} split of {self.data.name} can be read")
            lost = len(self.split(split).labelled()) - len(self.extracted[key])
            if lost:
                self.say(f"skipped {lost} unreadable images of the {split} split")
            if not all(bool(x.isfinite().all()) for x, _ in self.extracted[key].blocks()):
                raise RunAborted(f"{self.name}: features of the {split} split of {self.data.name} hold NaN or infinity")
        return self.extracted[key]

    def all_features(self) -> Features:
        """Features of all images with training labels: `train_labeled`, then `val`."""
        return self.features("train_labeled").concat(self.features("val"))

    def all_training(self, mark_val: bool = True) -> Split:
        """All images with training labels: `train_labeled`, then `val`.

        Args:
            mark_val: add the number of classes to the labels of the validation split.
        """
        val = self.data.val
        shift = self.data.num_classes * (val.labels >= 0) if mark_val else 0  # -1 stays unknown
        return self.data.train_labeled.concat(replace(val, labels=val.labels + shift))

    def crops(self, scale: Any, flip: float | None, interpolation: Any) -> View:
        """Random resized crops and flips of the training's size and normalisation; None takes the training's value."""
        a = self.augment
        return View(
            size=self.view.size, crop_scale=a["crop_scale"] if scale is None else scale, crop_ratio=a["crop_ratio"],
            interpolation=a["interpolation"] if interpolation is None else interpolation,
            flip_p=a["flip_p"] if flip is None else flip, jitter=[0.0] * 4, jitter_p=0, gray_p=0, gray_first=False,
            blur_p=0, blur_sigma=a["blur_sigma"], blur_kernel=a["blur_kernel"], solarize_p=0, rotate_degrees=0,
            mean=self.view.mean.tolist(), std=self.view.std.tolist(), value_range=self.view.value_range,
        ).to(self.loading.device)  # fmt: skip
