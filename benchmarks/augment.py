"""Views per second: ours against lightly's SimCLRTransform in two worker processes.

    python benchmarks/augment.py            about three minutes on two cores

Both make the SimCLR list of the same random images on the CPU: at 32 pixels (strength 0.5, no blur) and
256 -> 224 pixels (strength 1, blur). One process run, the contenders in turn, three rounds, medians.
Prints a table and one JSON line.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision
from hydra import compose, initialize_config_dir
from PIL import Image
from rich.console import Console
from rich.table import Table

from siamese import factory
from siamese.augment import Views, native
from siamese.environment import keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
CASES = {32: (32, 512, "small/simclr"), 224: (256, 64, "large/simclr")}  # view: image, batch, list


class Photos(torch.utils.data.Dataset[Any]):
    """PIL images through lightly's transform, as in its examples."""

    def __init__(self, images: np.ndarray, size: int, length: int):
        from lightly.transforms.simclr_transform import SimCLRTransform

        small: dict[str, Any] = {"cj_strength": 0.5, "gaussian_blur": 0.0} if size == 32 else {}
        self.images, self.length = images, length
        self.transform = SimCLRTransform(input_size=size, **small)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(self.images[index % len(self.images)]))


def smooth_images(count: int, size: int) -> np.ndarray:
    """Images with the smoothness of photographs: noise of 1/8 of the size, enlarged."""
    noise = torch.rand(count, 3, max(4, size // 8), max(4, size // 8), generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.interpolate(noise, size=size, mode="bicubic").clamp(0, 1) * 255
    return x.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def lightly_rate(images: np.ndarray, size: int, seconds: float) -> float:
    """Views per second of a DataLoader with two workers, timed after it has filled its queue."""
    batch = CASES[size][1]
    loader = torch.utils.data.DataLoader(Photos(images, size, 10**9), batch, num_workers=2)
    iterator = iter(loader)
    for _ in range(6):  # more than the 2 x 2 batches that are made ahead
        next(iterator)
    start, views = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(iterator)
        views += 2 * batch
    rate = views / (time.perf_counter() - start)
    del iterator
    return rate


def our_views(size: int, compiled: bool) -> Views:
    """With torch's operations or compiled; `prepare` makes the latter take effect."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        colours = ("augment.mean=[0.0,0.0,0.0]", "augment.std=[1.0,1.0,1.0]")
        chosen = (f"augment={CASES[size][2]}", f"data.crop={size}", f"augment.compiled={compiled}")
        cfg = compose("train", [*chosen, *colours])
    return factory.views(cfg)


def our_rate(views: Views, batch: torch.Tensor, seconds: float) -> float:
    """Views per second of batches of uint8 images."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        made = views(batch)
        count += sum(len(v) for v in made)
    return count / (time.perf_counter() - start)


def main() -> None:
    warnings.filterwarnings("ignore")  # of libraries about each other
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    keep_freed_memory()
    out: dict[str, Any] = {}
    table = Table(title="views per second, SimCLR list", title_justify="left")
    for column in ("view", "lightly, 2 workers", "ours, torch", "ratio", "ours, compiled", "ratio", "compile s"):
        table.add_column(column, justify="right")
    for size, (image_size, batch, _) in CASES.items():
        images = smooth_images(batch, image_size)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        plain, compiled = our_views(size, False), our_views(size, True)
        with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, {"XDG_CACHE_HOME": empty}):
            native.library.cache_clear()
            start = time.perf_counter()
            compiled.prepare(0, x.device)
            compile_seconds = time.perf_counter() - start
        rates: dict[str, list[float]] = {"lightly": [], "ours": [], "compiled": []}
        for _ in range(arguments.rounds):
            rates["lightly"].append(lightly_rate(images, size, arguments.seconds))
            rates["ours"].append(our_rate(plain, x, arguments.seconds))
            rates["compiled"].append(our_rate(compiled, x, arguments.seconds))
        median = {name: statistics.median(values) for name, values in rates.items()}
        out[str(size)] = {**{k: round(v, 1) for k, v in median.items()}, "compile_seconds": round(compile_seconds, 1)}
        ratios = [median[name] / median["lightly"] for name in ("ours", "compiled")]
        cells = [median["lightly"], median["ours"], ratios[0], median["compiled"], ratios[1], compile_seconds]
        formats = (",.0f", ",.0f", ".1f", ",.0f", ".1f", ".0f")
        table.add_row(f"{size} px", *(format(c, f) for c, f in zip(cells, formats, strict=True)))
    Console().print(table)
    about = {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
    print(json.dumps({"views_per_second": out, **about, "torchvision": torchvision.__version__}))


if __name__ == "__main__":
    main()
