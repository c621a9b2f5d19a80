"""What a report shows of the features before and after the training: nearest neighbours and a map."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamese.data import Loader, is_known, listed, some_of
from siamese.pages.pictures import thumbnail
from siamese.pages.stored import FeatureMap, Near, Query
from siamese.probes import Features
from siamese.probes.plane import LEAST_FOR_TSNE, nearest, principal_plane, tsne_plane
from siamese.training.probe import Probe
from siamese.training.report import shown_colours

QUERIES, NEIGHBOURS, MAP_IMAGES = 8, 6, 500
TSNE_FROM = 120.0  # seconds of training from which the seconds of t-SNE are worth it
TOLD_LABELS = 3  # of an image with several


@dataclass
class Gallery:
    """The part of report.json that needs features and images; see `siamese.pages.stored.Stored`."""

    of: str = ""
    pictures: list[str] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    map: FeatureMap | None = None
    notes: list[str] = field(default_factory=list)


def make_gallery(
    probe: Probe, classes: list[str], before: dict[str, Features], after: dict[str, Features], seconds: float,
    show: list[int] | None = None,
) -> Gallery:  # fmt: skip
    """Neighbours of a few images of the validation split among the labelled training images; without labels among the
    training images. And a map of the validation split, or of training images.

    Args:
        probe: the images.
        classes: names of the labels.
        before, after: features of the probe's splits.
        seconds: the training's, by which the kind of map is chosen.
        show: three channels as red, green and blue.
    """
    out = Gallery()
    if any(not f.x.isfinite().all() for kinds in (before, after) for f in kinds.values()):
        out.notes.append("neighbours and map: features are not finite")
        return out
    where = {split: _places(loader, len(after[split])) for split, loader in probe.loaders.items()}
    if any(len(before[split]) != len(after[split]) or place is None for split, place in where.items()):
        out.notes.append("neighbours and map: other images could be read after the training than before")
        return out
    bank, asked = ("train_labeled", "val") if probe.labelled else ("pretrain", "pretrain")
    y = after[asked].y.cpu()
    if not probe.labelled:
        y = torch.full((len(y),), -1)
    chosen = _queries(y)
    own = None if probe.labelled else chosen
    found = [nearest(kinds[asked].rows(chosen), kinds[bank], NEIGHBOURS, own) for kinds in (before, after)]
    names = _Labels(classes, after[bank].y.cpu() if probe.labelled else None, y)
    album = _Album(out.pictures, probe, show)
    for i, query in enumerate(chosen.tolist()):
        sides = [[_near(j, s, names, query, album.add(probe.loaders[bank], where[bank], j))
                  for j, s in zip(index[i].tolist(), similarity[i].tolist(), strict=True)]
                 for index, similarity in found]  # fmt: skip
        picture = album.add(probe.loaders[asked], where[asked], query)
        out.queries.append(Query(picture=picture, label=names.of(y[query]), before=sides[0], after=sides[1]))
    album.draw()
    among = f"{len(after[bank]):,} training images"
    out.of = f"Of {len(chosen)} images of the validation split, among {among}." if probe.labelled else f"Among {among}."
    out.map = _map(before[asked], after[asked], y if probe.labelled else None, classes, seconds)
    return out


def _places(loader: Loader, count: int) -> Tensor | None:
    """Number in the store of each of `count` rows of features: images that could not be read have no row. None if it
    cannot be told."""
    total = len(loader.store)
    if count == total:
        return torch.arange(total)
    kept = None
    if loader.held is not None:
        kept = is_known(loader.labels).cpu()
    elif (names := loader.store.names()) is not None:
        kept = torch.tensor([str(name) not in loader.skipped for name in names])
    return kept.nonzero().squeeze(1) if kept is not None and int(kept.sum()) == count else None


def _queries(y: Tensor) -> Tensor:
    """A seeded choice of rows, of different classes as far as there are any."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).tolist()
    seen: set[Any] = set()
    first: list[int] = []
    rest: list[int] = []
    for i in order:
        label = tuple(y[i].tolist()) if y.ndim == 2 else int(y[i])
        (rest if label in seen else first).append(i)
        seen.add(label)
    return torch.tensor([*first, *rest][:QUERIES])


class _Labels:
    """Names of labels, and whether two images share theirs."""

    def __init__(self, classes: list[str], bank: Tensor | None, asked: Tensor):
        self.classes, self.bank, self.asked = classes, bank, asked

    def of(self, label: Tensor | None) -> str:
        if label is None or not self.classes:
            return ""
        if label.ndim == 0:
            return self.classes[int(label)] if int(label) >= 0 else ""
        names = [self.classes[i] for i in (label == 1).nonzero().squeeze(1).tolist()]
        return ", ".join(names[:TOLD_LABELS]) + (", …" if len(names) > TOLD_LABELS else "")


def _near(row: int, similarity: float, names: _Labels, query: int, picture: int) -> Near:
    label = None if names.bank is None else names.bank[row]
    same = None if label is None or label.ndim else bool(label == names.asked[query])
    return Near(picture=picture, label=names.of(label), same=same, similarity=round(similarity, 4))


class _Album:
    """Collects pictures by number and draws each once."""

    def __init__(self, pictures: list[str], probe: Probe, show: list[int] | None):
        self.pictures, self.probe, self.show = pictures, probe, show
        self.wanted: dict[tuple[int, int], tuple[int, Loader]] = {}

    def add(self, loader: Loader, where: Tensor | None, row: int) -> int:
        assert where is not None
        place = int(where[row])
        return self.wanted.setdefault((id(loader.store), place), (len(self.wanted), loader))[0]

    def draw(self) -> None:
        self.pictures += [""] * len(self.wanted)
        for loader in {id(loader): loader for _, loader in self.wanted.values()}.values():
            mine = [(place, number) for (_, place), (number, of) in self.wanted.items() if of is loader]
            batch = loader.store.read(torch.tensor([place for place, _ in mine]))
            device = self.probe.view.mean.device
            levels = self.probe.view.levels(listed(batch.images)[0].to(device)).float()
            pixels = shown_colours(levels, self.show).clamp(0, 255).round().to(torch.uint8).cpu()
            ratios = [1.0] * len(mine) if batch.aspect_ratios is None else batch.aspect_ratios.tolist()
            for (_, number), image, ratio in zip(mine, pixels, ratios, strict=True):
                array: np.ndarray[Any, Any] = image.permute(1, 2, 0).contiguous().numpy()
                self.pictures[number] = thumbnail(array, ratio)


def _map(before: Features, after: Features, y: Tensor | None, classes: list[str], seconds: float) -> FeatureMap:
    """A map of a seeded choice of the images."""
    index = some_of(len(after), MAP_IMAGES)
    sets = [kind.rows(index) for kind in (before, after)]
    groups = None if y is None or y.ndim == 2 else y[index].tolist()
    if seconds >= TSNE_FROM and len(index) >= LEAST_FOR_TSNE:
        way, notes = "t-SNE of the normalised features, by scikit-learn: only neighbourhoods have a meaning", ["", ""]
        planes = [tsne_plane(x) for x in sets]
    else:
        pairs = [principal_plane(x) for x in sets]
        planes, notes = [p for p, _ in pairs], [f"{share:.0%} of the variance" for _, share in pairs]
        way = "the first two principal components (PCA) of the normalised features"
    if y is not None and y.ndim == 2:
        way += "; without colours, because an image may have several labels"
    rounded = [[(round(a, 4), round(b, 4)) for a, b in plane.tolist()] for plane in planes]
    return FeatureMap(
        way=way, before=rounded[0], after=rounded[1], groups=groups, classes=classes if groups is not None else [],
        before_note=notes[0], after_note=notes[1],
    )  # fmt: skip
