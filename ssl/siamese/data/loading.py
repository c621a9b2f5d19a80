"""Batches of images on the device: from a resident tensor, from memory, or from worker processes."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from siamese.data.crops import Cutter
from siamese.data.dataset import Split
from siamese.data.files import ImageFiles
from siamese.data.images import ImageBatch, Images, ImageStore, Unread, check_readable, listed, rows
from siamese.data.labels import hide
from siamese.distributed import rank, union, world_size

Batch = tuple[Images, Tensor, Tensor | None]


class StoreDataset(Dataset[ImageBatch]):
    """A store for torch's DataLoader, which asks for a whole batch at once.

    Args:
        cutter: makes crops of files; the indices are then epoch * len(store) + index.
    """

    def __init__(self, store: ImageStore, cutter: Cutter | None = None):
        self.store, self.cutter = store, cutter

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ImageBatch]:
        """Indices (B,) and their images."""
        index = torch.tensor(indices)
        if self.cutter is None:
            return index, self.store.read(index)
        epoch, index = indices[0] // len(self.store), index % len(self.store)
        return index, cast(ImageFiles, self.store).crops(index, self.cutter, epoch)


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_signals_to_main(worker: int) -> None:
    """The main process handles signals that are sent to all processes: it saves before it ends. SIGTERM cannot be
    ignored, since torch ends its workers by it; in a process group of its own a worker does not receive a group's."""
    os.setpgid(0, 0)
    for signum in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)


class EpochSampler(Sampler[int]):
    """The indices of this rank, in an order that depends on (seed, epoch) alone.

    All ranks draw the same permutation and take their share of each global batch, so that the batches of all ranks
    together are those of a single process. The incomplete last global batch is dropped, as in every official
    pretraining code.
    """

    def __init__(self, length: int, batch_size: int, shuffle: bool, seed: int = 0):
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.numbers_epochs = False  # give epoch * length + index
        self.epoch = 0
        self.first = 0  # samples of the epoch that an interrupted run has used

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Indices (len(self),) of this rank and epoch."""
        if not self.shuffle:
            return torch.arange(self.length)
        seed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        permutation = torch.randperm(self.length, generator=torch.Generator().manual_seed(seed))
        batches = permutation[: len(self) * world_size()].view(-1, world_size(), self.batch_size)
        return batches[:, rank()].flatten()

    def __iter__(self) -> Iterator[int]:
        order = self.order()[self.first :]
        return iter((order + self.epoch * self.length if self.numbers_epochs else order).tolist())

    def __len__(self) -> int:
        if not self.shuffle:
            return self.length
        return self.length // (self.batch_size * world_size()) * self.batch_size


class Loader:
    """Batches (images, labels (B,) or (B, K), aspect ratios (B,) on the host or None) of a split. Images are
    (B, C, H, W), or for each view (B, C, size, size), cut out of files.

    Args:
        split: the samples.
        batch_size: of this process.
        shuffle: True gives a new order each epoch, this rank's share only, without the incomplete last batch; False
            gives every sample in order on every rank, the last batch shorter.
        resident: hold the images as one tensor on `device` and index batches there. Otherwise `workers`
            processes decode ahead, or a thread reads ahead where nothing is decoded.
        seed: of the order.
        epoch_batches: batches of an epoch; None for all. Fewer where gradient accumulation leaves some out.
        cutter: what to cut out of image files that are decoded for each batch; other stores give whole images.

    Raises:
        UserError: an image cannot be decoded and the store's `on_error` is ``stop``.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        shuffle: bool,
        resident: bool,
        device: torch.device | str = "cpu",
        workers: int = 0,
        seed: int = 0,
        epoch_batches: int | None = None,
        cutter: Cutter | None = None,
    ):
        self.cutter = cutter if split.images.decodes and not resident else None
        self.store, self.labels = split.images, split.labels
        self.batch_size, self.device, self.workers = batch_size, torch.device(device), workers
        self.sampler = EpochSampler(len(split), batch_size, shuffle, seed)
        self.sampler.numbers_epochs = self.cutter is not None
        self.batches = 0  # batches of this epoch that were given out
        self.epoch_batches = len(self) if epoch_batches is None else epoch_batches
        self.resume_at = 0  # batches that the next iteration skips
        self.skipped: set[str] = set()  # unreadable files met so far
        self.loader: DataLoader[Any] | None = None
        self.held: Tensor | None = None  # the resident images
        self.aspect_ratios: Tensor | None = None  # of the resident images
        self._report(self.store.prepare())
        if resident:
            whole = self.store.read_all(max(1, workers))
            self._report(whole.errors)
            labels = _known(self.labels, whole)
            (held,) = listed(whole.images)
            self.held, self.labels = held.to(self.device), labels.to(self.device)
            self.aspect_ratios = whole.aspect_ratios
        elif self.store.decodes:
            self.loader = self._workers(shuffle)

    def _workers(self, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            StoreDataset(self.store, self.cutter),
            self.batch_size,
            sampler=self.sampler,
            num_workers=self.workers,
            collate_fn=_unchanged,
            drop_last=shuffle,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.workers > 0,
            worker_init_fn=_leave_signals_to_main,
            generator=torch.Generator(),  # its random numbers are not the run's
        )

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The position within the epoch and the skipped files. Lightning keeps it in the checkpoint."""
        return {"batches": self.batches % max(1, self.epoch_batches), "skipped": sorted(self.skipped)}

    def share_skipped(self, device: torch.device) -> None:
        """Make `skipped` the files of all ranks. Every rank must call it; it waits for the device."""
        self.skipped = union(self.skipped, device)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at that position at the next iteration."""
        self.resume_at = state["batches"]
        self.skipped |= set(state["skipped"])

    def __iter__(self) -> Iterator[Batch]:
        self.batches, self.resume_at = self.resume_at, 0
        self.sampler.first = self.batches * self.batch_size
        for batch in self._batches():
            self.batches += 1
            yield batch

    def epochs(self, count: int) -> Iterator[Batch]:
        """The batches of so many epochs, each in an order of its own."""
        for epoch in range(count):
            self.sampler.set_epoch(epoch)
            yield from self

    def _batches(self) -> Iterator[Batch]:
        if self.loader is not None:
            for index, batch in self.loader:
                yield self._ready(index, batch)
            return
        order = self.sampler.order()[self.sampler.first :]
        indices = order.split(self.batch_size)
        if self.held is None:
            yield from self._read_ahead(indices)
            return
        pinned = order.pin_memory() if self.device.type == "cuda" else order  # a pageable copy would be waited for
        on_device = pinned.to(self.device, non_blocking=True).split(self.batch_size)
        for index, there in zip(indices, on_device, strict=True):
            yield (
                rows(self.held, there),
                self.labels[there],
                None if self.aspect_ratios is None else self.aspect_ratios[index],
            )

    def _read_ahead(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        """Batches of a store that need no decoding; a thread reads the next one meanwhile."""

        def read(index: Tensor) -> ImageBatch:
            batch = self.store.read(index)
            return batch.pin_memory() if self.device.type == "cuda" else batch

        with ThreadPoolExecutor(1) as pool:
            ahead = None
            for index in indices:
                ready, ahead = ahead, (index, pool.submit(read, index))
                if ready is not None:
                    yield self._ready(ready[0], ready[1].result())
            if ahead is not None:
                yield self._ready(ahead[0], ahead[1].result())

    def _ready(self, index: Tensor, batch: ImageBatch) -> Batch:
        self._report(batch.errors)
        labels = _known(self.labels[index], batch)
        return batch.images, labels.pin_memory() if self.device.type == "cuda" else labels, batch.aspect_ratios

    def _report(self, errors: Sequence[Unread]) -> None:
        check_readable(self.store, errors)
        self.skipped |= {path for path, _ in errors}


def _known(labels: Tensor, batch: ImageBatch) -> Tensor:
    """The labels of a batch, unknown where a neighbour's image takes the place of an unreadable file."""
    return labels if batch.unreadable is None else hide(labels, batch.unreadable)


@dataclass(frozen=True)
class LoaderConfig:
    """How the batches of a run are made (`conf/data`).

    Args:
        resident: ``auto`` decides by size; true and false are taken as they are.
        resident_mb: the largest set that ``auto`` keeps resident, in MB (10^6 bytes).
        workers: processes that decode.
        device: of the resident images.
        seed: of the order.
        whole_mb: size of the largest split of the data set, in MB. ``auto`` decides by it for files, so that all splits
            show the same pixels: squares of all, or crops of the files of all.
    """

    resident: str | bool
    resident_mb: float
    workers: int
    device: torch.device
    seed: int
    whole_mb: float = 0

    def loader(
        self, split: Split, batch_size: int, shuffle: bool, seed: int | None = None, epoch_batches: int | None = None,
        cutter: Cutter | None = None,
    ) -> Loader:  # fmt: skip
        """A `Loader` of a split; `seed` None is the run's."""
        resident, seed = self.keeps_resident(split), self.seed if seed is None else seed
        return Loader(split, batch_size, shuffle, resident, self.device, self.workers, seed, epoch_batches, cutter)

    def cuts_files(self, split: Split) -> bool:
        """Whether crops are cut out of files, at their own resolution."""
        return split.images.decodes and not self.keeps_resident(split)

    def keeps_resident(self, split: Split) -> bool:
        """Whether the images lie on the device; otherwise they are streamed."""
        return self._megabytes(split) <= self.resident_mb if self.resident == "auto" else bool(self.resident)

    def _megabytes(self, split: Split) -> float:
        own = split.images.nbytes / 1e6
        return max(own, self.whole_mb) if split.images.decodes else own

    def describe(self, split: Split) -> str:
        """One line: resident or streamed, and why."""
        kind = str(split.images.dtype).removeprefix("torch.")
        megabytes, resident = split.images.nbytes / 1e6, self.keeps_resident(split)
        why = f"data.resident={self.resident}".lower()
        if self.resident == "auto":
            why = f"{'<=' if resident else '>'} data.resident_mb={self.resident_mb}"
            if not resident and megabytes <= self.resident_mb:
                why = f"another split takes {self.whole_mb:,.1f} MB {why}"
        place = f"resident on {self.device}, no worker processes" if resident else split.images.place
        return f"{len(split):,} images, {megabytes:,.1f} MB as {kind}: {place} ({why})"
