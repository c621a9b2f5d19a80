"""What online evaluation and the closing table look at."""

from collections.abc import Iterator, Sequence

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from siamese import factory
from siamese.augment import CleanView, View
from siamese.data import DataSet, Loader, LoaderConfig, some_of
from siamese.data.labels import stratified
from siamese.data.loading import Batch
from siamese.intervals import interval
from siamese.probes import Features, LinearGrid, LinearResult, extract, knn_accuracy
from siamese.probes.few import few_label_top1
from siamese.probes.multilabel import MultilabelGrid, multilabel_knn
from siamese.probes.precision import mean_average_precision
from siamese.progress import over

RANK_SAMPLES = 2048  # rows for RankMe: its singular values cost N * D * min(N, D)
VIEW_IMAGES, VIEWS = 256, 4  # for alignment and LiDAR
FEW, CHOICES = (1, 10), 5  # labels a class of the closing table's heads, and choices of them


class Probe:
    """Un-augmented features of a fixed choice of images, for online evaluation and the closing table.

    Args:
        loaders: of the splits `train_labeled` and `val`, or without labels of `pretrain`. Metrics without labels are of
            the first one.
        few: a seeded choice of these images, for metrics of augmented views.
        view: the un-augmented view.
        num_classes: 0 without labels.
        k, temperature: of the kNN.
        multilabel: whether an image may have several labels.
    """

    def __init__(
        self, loaders: dict[str, Loader], few: Loader, view: CleanView, num_classes: int, k: int, temperature: float,
        multilabel: bool = False,
    ):  # fmt: skip
        self.loaders, self.few, self.view, self.num_classes = loaders, few, view, num_classes
        self.k, self.temperature, self.multilabel = k, temperature, multilabel

    @property
    def labelled(self) -> bool:
        return "val" in self.loaders

    def features(self, backbone: nn.Module, device: torch.device, what: str = "features") -> dict[str, Features]:
        """Features of each split; `what` names them where the progress is shown."""
        return {
            split: extract(backbone, batches, self.view, device, keep_unlabelled=not self.labelled)
            for split, batches in self.batches(what).items()
        }

    def batches(self, what: str) -> dict[str, Iterator[Batch]]:
        """Batches of each split, whose progress is shown."""
        return {split: over(loader, len(loader), f"{what}, {split} split", "batches")
                for split, loader in self.loaders.items()}  # fmt: skip

    def rows(self, features: dict[str, Features]) -> Tensor:
        """At most RANK_SAMPLES rows of the first split, always the same seeded choice: the first rows of a sorted data
        set would hold a few classes only."""
        x = next(iter(features.values())).x
        return x[some_of(len(x), RANK_SAMPLES).to(x.device)]

    def knn(self, features: dict[str, Features]) -> dict[str, float]:
        """On the validation split: `knn_top1`, or `knn_map`, macro mAP, where an image may have several labels."""
        bank, val = features["train_labeled"], features["val"]
        if self.multilabel:
            scores = multilabel_knn(bank, val, self.k, self.temperature)
            return {"knn_map": mean_average_precision(scores, val.y).value}
        return {"knn_top1": knn_accuracy(bank, val, self.num_classes, self.k, self.temperature)}


def make_probe(cfg: DictConfig, data: DataSet, loaders: LoaderConfig, views: Sequence[View]) -> Probe:
    """The probe of a run: the labelled training images and the validation split; without labels a choice of training
    images."""
    splits = {"train_labeled": data.train_labeled, "val": data.val} if data.labelled else {}
    splits = splits or {"pretrain": data.pretrain.at_most(RANK_SAMPLES)}
    splits = {name: split.at_most(cfg.monitor.max_images) for name, split in splits.items()}
    batch = min(256, cfg.batch_size)
    view = factory.clean_view(cfg)
    crops, central = factory.random_crops(views, cfg.seed), factory.central_crop(view)
    few = loaders.loader(next(iter(splits.values())).at_most(VIEW_IMAGES), batch, shuffle=False, cutter=crops)
    held = {name: loaders.loader(split, batch, shuffle=False, cutter=central) for name, split in splits.items()}
    classes = data.num_classes if data.labelled else 0
    several = data.labelled and data.multilabel
    return Probe(held, few, view, classes, cfg.probe.knn.k, cfg.probe.knn.temperature, several)


def closing_figures(
    features: dict[str, Features], probe: Probe, grid: LinearGrid, several: MultilabelGrid
) -> dict[str, float]:
    """kNN and linear top-1 on the validation split, and linear top-1 from each of `FEW` labels a class, if the smallest
    class has so many, as the mean over CHOICES choices with half the width of its 95 % interval; `knn_map` and
    `linear_map`, macro mAP, where an image may have several labels. The linear head is chosen on a tenth of the
    labelled training images, so that the validation split chooses nothing."""
    train = features["train_labeled"]
    tenth = _that_choose(train.y.cpu()).to(train.x.device)
    fit, select = train.subset((~tenth).nonzero().squeeze(1)), train.subset(tenth.nonzero().squeeze(1))
    if probe.multilabel:
        found = several.fit_and_score(fit, select, train, features["val"])
        return {**probe.knn(features), "linear_map": found["map"]}
    chosen: LinearResult = grid.choose(fit, select, probe.num_classes)
    linear = grid.score(train, features["val"], probe.num_classes, chosen)
    out = {**probe.knn(features), "linear_top1": linear.top1}
    smallest = int(train.y.bincount().min())
    for count in (n for n in FEW if n <= smallest):
        found = interval(few_label_top1(train, features["val"], probe.num_classes, count, CHOICES))
        out |= {few_key(count): found["mean"], f"{few_key(count)}_interval95": found["interval95"]}
    return out


def _that_choose(y: Tensor) -> Tensor:
    """A mask (N,): every tenth sample, or a tenth of each class where the order would leave a class or most of them on
    one side, as labels that cycle do."""
    tenth = torch.arange(len(y)) % 10 == 0
    if y.ndim == 1:
        fit, select, classes = (len(part.unique()) for part in (y[~tenth], y[tenth], y))
        if fit < classes or select < classes / 2:
            each = stratified(y, 0.1, seed=0)
            largest = int(y.bincount().max())
            return each if each.any() or largest < 2 else stratified(y, 0.51 / largest, seed=0)
    return tenth


def few_key(count: int) -> str:
    """The key in summary.json of linear top-1 from `count` labels a class."""
    return f"linear_top1_{count}_label{'s' if count > 1 else ''}"
