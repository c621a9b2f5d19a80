"""Features of a frozen network, in memory or on disk."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.augment import CleanView, Views
from siamese.data import Part
from siamese.data.images import digest_of_files
from siamese.data.packed import Packed
from siamese.errors import Stopped, UserError
from siamese.run import digest_of_file, unfinished

ROWS = 8192  # of a block, where features are gone through in order
Batches = Iterable[tuple[Tensor, Tensor, Tensor | None]]


@dataclass
class Features:
    """(N, D) features and their (N,) int64 labels.

    Args:
        x: float32, or float16 in a file that is read as it is needed (a memory map).
        y: labels; -1 is unknown.
        device: where they are computed with; None where `x` lies.
    """

    x: Tensor
    y: Tensor
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def at(self) -> torch.device:
        """Where rows and blocks are given."""
        return self.device or self.x.device

    def subset(self, index: Tensor) -> "Features":
        """The rows at `index`, in memory."""
        return Features(self.x[index].float(), self.y[index], self.device)

    def rows(self, index: Tensor) -> Tensor:
        """(len(index), D) float32, ready to compute with."""
        return self.x.index_select(0, index.to(self.x.device)).to(self.at).float()

    def blocks(self, size: int = ROWS) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, labels) in order, ready to compute with."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.x[part].to(self.at).float(), self.y[part].to(self.at)

    def plus(self, other: "Features") -> "Features":
        """Both, one after the other. Files stay files."""
        if self.x.dtype == other.x.dtype == torch.float32:
            return Features(torch.cat([self.x, other.x]), torch.cat([self.y, other.y]), self.device)
        files = cast(Tensor, Joined([self.x, other.x]))  # has what is asked of `x` here
        return Features(files, torch.cat([self.y.cpu(), other.y.cpu()]), self.at)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) of each feature; a constant one gets the deviation 1."""
        mean = sum(x.sum(0, dtype=torch.float64) for x, _ in self.blocks()) / len(self)
        square = sum((x - mean).square().sum(0) for x, _ in self.blocks()) / max(1, len(self) - 1)
        assert isinstance(mean, Tensor) and isinstance(square, Tensor)
        std = square.sqrt()
        std = torch.where(std > 1e-6 * std.amax().clamp(min=1e-12), std, 1)
        return mean.float(), std.float()


class Joined:
    """Rows (N, D) of several tensors of one width, one after the other, without a copy of them all."""

    def __init__(self, parts: Sequence[Tensor]):
        self.parts = [p.half() for p in parts]  # a small part may have been held in memory
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
            out[here] = x.index_select(0, index[here] - (self.ends[i] - len(x))).cpu()
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

    The network comes back as it was, mode of every module included. Samples without a label (unknown, or
    an unreadable file skipped) are left out unless `keep_unlabelled`.
    """
    features, labels = [], []
    for x, y in forward(backbone, batches, view, device):
        features.append(x)
        labels.append(y)
    x, y = torch.cat(features), torch.cat(labels)
    known = y >= 0
    return Features(x, y) if keep_unlabelled or bool(known.all()) else Features(x[known], y[known])


@torch.no_grad()
def forward(
    backbone: nn.Module, batches: Batches, view: CleanView | None, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    """(features (B, D) float32, labels (B,)) of each batch, in eval mode; see `extract`. Without a view the
    batches hold what the network takes."""
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    view = None if view is None else view.to(device)
    try:
        for images, y, aspect in batches:
            x = images if view is None else view(images.to(device, non_blocking=True), aspect)
            with torch.compiler.set_stance("force_eager"):  # another compilation for eval mode would not pay
                features = backbone(x).float()
            yield features, y.to(device)
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def view_features(
    backbone: nn.Module, views: Views, batches: Batches, per_image: int, device: torch.device | str
) -> Tensor:
    """Features (N, Q, D) of `per_image` augmented views of each of N images, in eval mode. The method's
    views take turns; they are drawn from a generator of their own, so a run goes on as it would have."""
    generator = torch.Generator().manual_seed(0)
    views = views.to(device)

    def augmented(q: int) -> Batches:
        for x, y, aspect in batches:
            yield views.views[q % len(views.views)](x.to(device), generator, aspect), y, None

    seen = [torch.cat([x for x, _ in forward(backbone, augmented(q), None, device)]) for q in range(per_image)]
    return torch.stack(seen, 1)


@torch.no_grad()
def raw_pixels(batches: Batches, device: torch.device | str, side: int = 32) -> Features:
    """The pixels themselves in [0, 1], images larger than `side` resized to it (D = 3 * side * side)."""
    features, labels = [], []
    for images, y, _ in batches:
        x = images.to(device).float().div_(255)
        if max(x.shape[-2:]) > side:
            x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        features.append(x.flatten(1))
        labels.append(y.to(device))
    x, y = torch.cat(features), torch.cat(labels)
    return Features(x[y >= 0], y[y >= 0])


class FeatureCache:
    """Features on disk, found again by what they follow from: the network's tensors, the images, the view.

    Args:
        folder: where to keep them, a folder a set; None keeps nothing.
        in_memory_mb: float32 features of at most so many MB (10^6 bytes) are held in memory; larger ones are
            stored as float16 and stay in their file, so that a million images need no more memory than a
            thousand. Without a folder everything is held in memory.
    """

    def __init__(self, folder: Path | None, in_memory_mb: float):
        self.folder, self.in_memory_mb = folder, in_memory_mb
        self.found = 0  # how often features were there already

    def features(
        self, backbone: nn.Module, part: Part, batches: Batches, view: CleanView, device: torch.device
    ) -> Features:
        """As `extract`.

        Raises:
            UserError: a stored file is damaged.
            Stopped: the disk refuses.
        """
        if self.folder is None:
            return extract(backbone, batches, view, device)
        large = len(part) * int(getattr(backbone, "feature_dim", 0)) * 4 / 1e6 > self.in_memory_mb
        described = {
            "network": digest_of_network(backbone),
            "part": digest_of_part(part),
            "view": [view.size, view.center, view.mean.tolist(), view.std.tolist(), view.interpolation],
            "dtype": "float16" if large else "float32",
            "layout": 3,
        }
        name = hashlib.blake2b(json.dumps(described).encode(), digest_size=16).hexdigest()
        where = self.folder / name
        if where.is_dir():
            self.found += 1
        else:
            try:
                self._store(where, described, forward(backbone, batches, view, device), len(part))
            except OSError as error:
                raise Stopped(
                    f"features cannot be stored in {self.folder} ({error}); make room, or set eval.cache=null"
                ) from error
        return self._load(where, described, len(part), device)

    def _store(
        self, where: Path, described: dict[str, Any], blocks: Iterable[tuple[Tensor, Tensor]], rows: int
    ) -> None:
        temporary = unfinished(where)
        try:
            labels, seen, dim = [], 0, 0
            with (temporary / "x.bin").open("wb") as file:
                for features, y in blocks:
                    known = y >= 0
                    file.write(features[known].cpu().numpy().astype(described["dtype"]).tobytes())
                    labels.append(y[known].cpu())
                    seen, dim = seen + len(y), features.shape[1]
            assert seen == rows
            y = torch.cat(labels)
            np.save(temporary / "y.npy", y.numpy())
            digests = {n: digest_of_file(temporary / n) for n in ("x.bin", "y.npy")}
            meta = {**described, "shape": [len(y), dim], "sha256": digests}
            (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            try:
                os.rename(temporary, where)
            except OSError:
                if not where.is_dir():  # another process may have stored the same meanwhile
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _load(self, where: Path, described: dict[str, Any], most: int, device: torch.device) -> Features:
        try:
            meta = json.loads((where / "meta.json").read_text(encoding="utf-8"))
            if {k: meta.get(k) for k in described} != described:
                raise ValueError("it is of other features")
            for name in ("x.bin", "y.npy"):
                if not (where / name).is_file() or digest_of_file(where / name) != meta["sha256"][name]:
                    raise ValueError("its content has changed")
            rows, dim = meta["shape"]
            y = torch.from_numpy(np.load(where / "y.npy"))
            if y.dtype != torch.int64 or tuple(y.shape) != (rows,) or not 0 <= rows <= most or dim < 0:
                raise ValueError(f"it has {tuple(y.shape)} labels")
            if (where / "x.bin").stat().st_size != rows * dim * np.dtype(meta["dtype"]).itemsize:
                raise ValueError(f"it is not {rows} x {dim}")
            if not rows:
                return Features(torch.zeros(0, dim, device=device), y.to(device))
            x = np.memmap(where / "x.bin", meta["dtype"], "c", shape=(rows, dim))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(
                f"eval.cache={self.folder}", f"{where} is damaged ({error})", "delete it, or set eval.cache=null"
            ) from error
        if described["dtype"] == "float16":
            return Features(torch.from_numpy(x), y, device)
        return Features(torch.from_numpy(np.array(x)).to(device), y.to(device))


def digest_of_network(network: nn.Module) -> str:
    """Of its structure and every tensor of its state."""
    digest = hashlib.blake2b(repr(network).encode(), digest_size=16)
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_of_part(part: Part) -> str:
    """Of images and labels; of image files as `digest_of_files`."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(part.images, Tensor):
        digest.update(str(tuple(part.images.shape)).encode())
        digest.update(part.images.contiguous().numpy().data)
    elif isinstance(part.images, Packed):
        digest.update(part.images.store.key.encode())
        digest.update(part.images.index.numpy().data)
    else:
        digest.update(f"{digest_of_files(part.images)} {part.size}".encode())
    digest.update(part.labels.contiguous().numpy().data)
    return digest.hexdigest()
