"""Features on disk, found again by a digest of what they depend on."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from siamese.augment import CleanView
from siamese.data import Loader, Split, is_known
from siamese.errors import RunAborted, UserError
from siamese.files import digest_of_file, make_temp_dir
from siamese.probes.features import Features, extract, forward
from siamese.progress import over


class FeatureCache:
    """Features on disk, keyed by a digest of the network's tensors, the images and the view.

    Args:
        folder: holds a folder for each set of features; None keeps nothing.
        in_memory_mb: float32 features of at most this many MB (10^6 bytes) are held in memory. Larger ones are stored
            as float16 and stay in their file, so that memory does not grow with the number of images. Without a
            folder all features are held in memory.

    Attributes:
        found: how many sets of features were read instead of computed.
    """

    def __init__(self, folder: Path | None, in_memory_mb: float):
        self.folder, self.in_memory_mb = folder, in_memory_mb
        self.found = 0

    def features(
        self, backbone: nn.Module, split: Split, batches: Loader, view: CleanView, device: torch.device
    ) -> Features:
        """As `extract`.

        Raises:
            UserError: a stored file is damaged.
            RunAborted: the disk write failed.
        """
        if self.folder is None:
            return extract(backbone, over(batches, len(batches), "features", "batches"), view, device)
        large = len(split) * int(getattr(backbone, "feature_dim", 0)) * 4 / 1e6 > self.in_memory_mb
        described = {
            "network": digest_of_network(backbone),
            "part": digest_of_split(split),
            "view": [
                view.size,
                view.center,
                view.mean.tolist(),
                view.std.tolist(),
                view.interpolation,
                view.value_range,
            ],
            "crops": "files" if batches.cutter is not None else "store",
            "dtype": "float16" if large else "float32",
            "layout": 5,
        }
        name = hashlib.blake2b(json.dumps(described).encode(), digest_size=16).hexdigest()
        where = self.folder / name
        if where.is_dir():
            self.found += 1
        else:
            try:
                seen = over(batches, len(batches), "features", "batches")
                self._store(where, described, forward(backbone, seen, view, device), len(split))
            except OSError as error:
                raise RunAborted(
                    f"features cannot be stored in {self.folder} ({error}); make room, or set eval.cache=null"
                ) from error
        return self._load(where, described, len(split), device)

    def _store(
        self, where: Path, described: dict[str, Any], blocks: Iterable[tuple[Tensor, Tensor]], rows: int
    ) -> None:
        temporary = make_temp_dir(where)
        try:
            labels, seen, dim = [], 0, 0
            with (temporary / "x.bin").open("wb") as file:
                for features, y in blocks:
                    known = is_known(y)
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
            if (
                (y.dtype, y.ndim) not in ((torch.int64, 1), (torch.uint8, 2))
                or len(y) != rows
                or rows > most
                or dim < 0
            ):
                raise ValueError(f"it has {y.dtype} {tuple(y.shape)} labels")
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


def structure(network: nn.Module) -> str:
    """The modules with their plain attributes, such as the number of heads and the kind of pooling, which neither
    their names nor the tensors tell."""
    plain = (bool, int, float, str, tuple, type(None))
    attributes = [
        (name, sorted((k, repr(v)) for k, v in vars(module).items() if isinstance(v, plain) and k != "training"))
        for name, module in network.named_modules()
    ]
    return f"{network!r}{attributes}"


def digest_of_network(network: nn.Module) -> str:
    """A digest of the structure and of every tensor of the state."""
    digest = hashlib.blake2b(structure(network).encode(), digest_size=16)
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_of_split(split: Split) -> str:
    """A digest of images (of image files see `digest_of_files`) and labels."""
    digest = hashlib.blake2b(digest_size=16)
    split.images.update_digest(digest)
    if split.labels.ndim == 2:  # the bytes alone could be those of one label an image
        digest.update(f"{tuple(split.labels.shape)}".encode())
    digest.update(split.labels.contiguous().numpy().data)
    return digest.hexdigest()
