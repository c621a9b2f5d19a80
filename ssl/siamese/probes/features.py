"""Features of a frozen network: extraction, and rows in memory or in a file."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.augment import CleanView, Views
from siamese.data import Images, Loader, is_known, listed, to_device

ROWS = 8192  # rows of a block when features are read in order
Batches = Iterable[tuple[Images, Tensor, Tensor | None]]


@dataclass
class Features:
    """(N, D) features and their labels.

    Args:
        x: float32, or float16 in a memory-mapped file.
        y: (N,) int64, -1 is unknown; or (N, K) uint8 multi-hot, a row of 255 is unknown.
        device: on which they are used; None is the device of `x`.
    """

    x: Tensor
    y: Tensor
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def at(self) -> torch.device:
        """The device of rows and blocks."""
        return self.device or self.x.device

    def subset(self, index: Tensor) -> "Features":
        """The rows at `index`, in memory."""
        return Features(self.x[index].float(), self.y[index], self.device)

    def rows(self, index: Tensor) -> Tensor:
        """(len(index), D) float32 on the device `at`."""
        return self.x.index_select(0, index.to(self.x.device)).to(self.at).float()

    def blocks(self, size: int = ROWS) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, labels) in order, on the device `at`."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.x[part].to(self.at).float(), self.y[part].to(self.at)

    def concat(self, other: "Features") -> "Features":
        """Both, one after the other. Files stay in files."""
        if self.x.dtype == other.x.dtype == torch.float32:
            return Features(torch.cat([self.x, other.x]), torch.cat([self.y, other.y]), self.device)
        files = cast(Tensor, ConcatRows([self.x, other.x]))  # implements what is used of `x` here
        return Features(files, torch.cat([self.y.cpu(), other.y.cpu()]), self.at)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) of each feature; a constant one gets the deviation 1."""
        mean = sum(x.sum(0, dtype=torch.float64) for x, _ in self.blocks()) / len(self)
        square = sum((x - mean).square().sum(0) for x, _ in self.blocks()) / max(1, len(self) - 1)
        assert isinstance(mean, Tensor) and isinstance(square, Tensor)
        std = square.sqrt()
        std = torch.where(std > 1e-6 * std.amax().clamp(min=1e-12), std, 1)
        return mean.float(), std.float()


class ConcatRows:
    """Rows (N, D) of several tensors of one width, one after the other, without a copy."""

    def __init__(self, parts: Sequence[Tensor]):
        self.parts = [p.cpu().half() for p in parts]  # a small part may be float32 in memory, also a GPU's
        self.ends = torch.tensor([len(p) for p in parts]).cumsum(0)
        self.shape = int(self.ends[-1]), parts[0].shape[1]
        self.dtype, self.device = torch.float16, torch.device("cpu")

    def __getitem__(self, at: slice | Tensor) -> Tensor:
        index = torch.arange(self.shape[0])[at] if isinstance(at, slice) else at.cpu()
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        out = torch.empty(len(index), self.shape[1], dtype=self.dtype)
        part = torch.searchsorted(self.ends, index, right=True)
        for i, x in enumerate(self.parts):
            here = part == i
            out[here] = x.index_select(0, index[here] - (self.ends[i] - len(x)))
        return out

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """As of a tensor, for rows."""
        assert dim == 0
        return self[index]


@torch.no_grad()
def extract(
    backbone: nn.Module,
    batches: Batches,
    view: CleanView,
    device: torch.device | str,
    keep_unlabelled: bool = False,
) -> Features:
    """Features of un-augmented images, with the backbone in eval mode (running BatchNorm statistics).

    The mode of every module is restored. Samples without a label (unknown, or an unreadable file that was skipped) are
    left out unless `keep_unlabelled`.
    """
    features, labels = [], []
    for x, y in forward(backbone, batches, view, device):
        features.append(x)
        labels.append(y)
    x, y = torch.cat(features), torch.cat(labels)
    known = is_known(y)
    return Features(x, y) if keep_unlabelled or bool(known.all()) else Features(x[known], y[known])


@torch.no_grad()
def forward(
    backbone: nn.Module, batches: Batches, view: CleanView | None, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    """(features (B, D) float32, labels (B,) or (B, K)) of each batch, in eval mode; see `extract`. Without a view the
    batches hold the network's inputs."""
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    view = None if view is None else view.to(device)
    try:
        for images, y, aspect_ratio in batches:
            x = images if view is None else view(to_device(images, device), aspect_ratio)
            with torch.compiler.set_stance("force_eager"):  # a compilation for eval mode costs more than it saves
                features = backbone(x).float()
            yield features, y.to(device)
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def view_features(
    backbone: nn.Module, views: Views, batches: Loader, per_image: int, device: torch.device | str
) -> Tensor:
    """Features (N, Q, D) of `per_image` augmented views of each of N images, in eval mode. The method's views of
    the largest size are used in turn. They are drawn from a separate generator, so that the run's random state does not
    change.

    Args:
        batches: whole images, or crops of files for each of the views.
    """
    generator = torch.Generator().manual_seed(0)
    views = views.to(device)

    def augmented(q: int) -> Batches:
        number = views.largest[q % len(views.largest)]
        batches.sampler.set_epoch(q)  # other crops
        for images, y, aspect_ratio in batches:
            x = to_device([images[number]] if isinstance(images, list) else images, device)
            yield views.views[number](x, generator, aspect_ratio), y, None

    seen = [torch.cat([x for x, _ in forward(backbone, augmented(q), None, device)]) for q in range(per_image)]
    return torch.stack(seen, 1)


@torch.no_grad()
def raw_pixels(batches: Batches, view: CleanView, device: torch.device | str, side: int = 32) -> Features:
    """The pixels themselves in [0, 1], images larger than `side` resized to it (D = C * side * side). Of files that are
    streamed they are those of the un-augmented view.

    Args:
        view: knows the channels and the range of the values.
    """
    features, labels = [], []
    view = view.to(device)
    for images, y, _ in batches:
        x = view.levels(listed(to_device(images, device))[0]).float() / 255
        if max(x.shape[-2:]) > side:
            x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        features.append(x.flatten(1))
        labels.append(y.to(device))
    x, y = torch.cat(features), torch.cat(labels)
    known = is_known(y)
    return Features(x[known], y[known])
