"""How batches of uint8 images reach the device: out of a resident tensor, or out of worker processes."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from siamese.data.dataset import Part
from siamese.data.images import decode
from siamese.data.packed import Packed
from siamese.distributed import rank, world_size
from siamese.errors import UserError


class Files(Dataset[tuple[Tensor, int, float, str]]):
    """Decoded image files: (image, label, aspect, error). An unreadable file gives a neighbour's image
    with the label -1, and its own path and reason as error."""

    def __init__(self, part: Part):
        assert isinstance(part.images, list)
        self.part, self.files = part, part.images

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int, float, str]:
        error = ""
        for step in range(len(self.files)):
            at = (index + step) % len(self.files)
            try:
                image, aspect = decode(self.files[at], self.part.size)
            except Exception as reason:  # Pillow has many words for a damaged file
                error = error or f"{self.files[at]}\t{reason}"
                continue
            return image, -1 if error else int(self.part.labels[at]), aspect, error
        raise UserError("data.path", f"none of its {len(self.files)} images can be read ({error})", "check the files")


def _collate(samples: list[tuple[Tensor, int, float, str]]) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    images, labels, aspects, errors = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels), torch.tensor(aspects), [e for e in errors if e]


def _leave_signals_to_main(worker: int) -> None:
    """A signal to all processes of a run ends it by its main process, which saves first. SIGTERM cannot be
    ignored, since torch ends its workers by it; in a process group of their own a group's does not reach them."""
    os.setpgid(0, 0)
    for signum in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)


class EpochSampler(Sampler[int]):
    """This rank's share of the data in an order that follows from (seed, epoch).

    All ranks draw the same permutation and take their part of each global batch, so that the batches of
    all ranks together are those of a single process; what does not fill a global batch is left out, as
    in every official pretraining code.
    """

    def __init__(self, length: int, batch_size: int, shuffle: bool, seed: int = 0):
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.epoch = 0
        self.first = 0  # samples of the epoch that were used before an interruption

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it at the start of each epoch."""
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
        return iter(self.order()[self.first :].tolist())

    def __len__(self) -> int:
        if not self.shuffle:
            return self.length
        return self.length // (self.batch_size * world_size()) * self.batch_size


class Loader:
    """Batches (images (B, 3, H, W) uint8, labels (B,), aspects (B,) on the host or None) of a part.

    Args:
        part: the samples.
        batch_size: of this process.
        shuffle: a new order each epoch, incomplete batches dropped, and this rank's share only; False
            gives every sample in order, the last batch shorter, on every rank.
        resident: hold the images as one uint8 tensor on `device`, and take batches out of it there;
            otherwise `workers` processes decode ahead.
        seed: of the order.
    """

    def __init__(
        self,
        part: Part,
        batch_size: int,
        shuffle: bool,
        resident: bool,
        device: torch.device | str = "cpu",
        workers: int = 0,
        seed: int = 0,
    ):
        self.part, self.batch_size, self.device = part, batch_size, torch.device(device)
        self.sampler = EpochSampler(len(part), batch_size, shuffle, seed)
        self.batches = 0  # given out in this epoch
        self.epoch_batches = len(self)  # fewer where gradient accumulation leaves some out
        self.resume_at = 0  # how many of them the next iteration leaves out
        self.skipped: set[str] = set()  # unreadable files met so far
        self.loader: DataLoader[Any] | None = None
        self.aspects: Tensor | None = None
        self.images: Tensor | Packed
        if isinstance(part.images, Packed):
            self._report(part.images.store.errors)
            self.aspects = part.images.aspects
            part = replace(part, labels=torch.where(part.images.unreadable, -1, part.labels))
            self.part = part
        if resident:
            self.images, self.labels = self._load(workers)
        elif isinstance(part.images, list):
            self.loader = DataLoader(
                Files(part),
                batch_size,
                sampler=self.sampler,
                num_workers=workers,
                collate_fn=_collate,
                drop_last=shuffle,
                pin_memory=self.device.type == "cuda",
                persistent_workers=workers > 0,
                worker_init_fn=_leave_signals_to_main,
                generator=torch.Generator(),  # its draws are none of the run's
            )
        else:
            self.images, self.labels = part.images, part.labels

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The place within the epoch, and the files left out so far; Lightning keeps it in the checkpoint."""
        return {"batches": self.batches % max(1, self.epoch_batches), "skipped": sorted(self.skipped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at that place at the next iteration."""
        self.resume_at = state["batches"]
        self.skipped |= set(state["skipped"])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        self.batches, self.resume_at = self.resume_at, 0
        self.sampler.first = self.batches * self.batch_size
        for batch in self._batches():
            self.batches += 1
            yield batch

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        if self.loader is not None:
            for images, labels, aspects, errors in self.loader:
                self._report(errors)
                yield images, labels, aspects
            return
        order = self.sampler.order()[self.sampler.first :]
        if isinstance(self.images, Packed):
            yield from self._read_ahead(order.split(self.batch_size))
            return
        on_device = order.to(self.images.device).split(self.batch_size)
        for index, there in zip(order.split(self.batch_size), on_device, strict=True):
            yield self.images[there], self.labels[there], None if self.aspects is None else self.aspects[index]

    def _read_ahead(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Batches of a packed file; a thread reads the next one meanwhile."""

        def read(index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            images = self.images[index]
            if self.device.type == "cuda":
                images = images.pin_memory()
            return images, self.labels[index], None if self.aspects is None else self.aspects[index]

        with ThreadPoolExecutor(1) as pool:
            ahead = None
            for index in batches:
                ready, ahead = ahead, pool.submit(read, index)
                if ready is not None:
                    yield ready.result()
            if ahead is not None:
                yield ahead.result()

    def _load(self, workers: int) -> tuple[Tensor, Tensor]:
        images, labels = self.part.images, self.part.labels
        if isinstance(images, list):
            files = Files(self.part)
            with ThreadPoolExecutor(max(1, workers)) as pool:  # decoding leaves Python's lock
                images, labels, self.aspects, errors = _collate(list(pool.map(files.__getitem__, range(len(files)))))
            self._report(errors)
        elif isinstance(images, Packed):
            images = images[torch.arange(len(images))]
        return images.to(self.device), labels.to(self.device)

    def _report(self, errors: list[str]) -> None:
        for path, reason in (error.split("\t", 1) for error in errors):
            if self.part.on_error == "stop":
                raise UserError(
                    f"data.path: {path}", f"cannot be decoded ({reason})", "remove it, or set data.on_error=skip"
                )
            self.skipped.add(path)


def choose_residence(part: Part, resident: str | bool, limit_mb: int, device: torch.device | str) -> tuple[bool, str]:
    """Resident on the device or streamed, and a line that says so and why.

    Args:
        resident: ``auto`` decides by size, true and false are taken as they are.
        limit_mb: the largest set that ``auto`` keeps resident, in MB (10^6 bytes).
    """
    megabytes = part.nbytes / 1e6
    chosen = megabytes <= limit_mb if resident == "auto" else bool(resident)
    why = (
        f"{'<=' if chosen else '>'} data.resident_mb={limit_mb}"
        if resident == "auto"
        else f"data.resident={resident}".lower()
    )
    streamed = "in main memory, batches copied over"
    if isinstance(part.images, list):
        streamed = "streamed by a DataLoader"
    elif isinstance(part.images, Packed):
        streamed = f"read from {part.images.store.where}"
    place = f"resident on {device}, no worker processes" if chosen else streamed
    return chosen, f"{len(part):,} images, {megabytes:,.1f} MB as uint8: {place} ({why})"
