"""Streamed JPEG photographs: decoders, resizers, and images a second of SimCLR's two views, against stock lightly.

    python benchmarks/streaming.py          about two minutes on two cores

The photographs are crops of scikit-learn's two samples, 500 x 375 pixels, JPEG of quality 90, in a temporary folder.
First each part alone, in one thread. Then whole paths on the same --cores cores, each with --workers processes:
  squeezed   each file decoded to 256 x 256 in the workers; crops and all else in C++ in the main process
  crops      two crops of the full photograph cut in the workers; the colours in C++ in the main process
  lightly    its SimCLRTransform on a LightlyDataset in the workers; the main process only receives the batches
The contenders take turns, medians over rounds. Prints tables and one JSON line.
"""

import argparse
import importlib
import io
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from hydra import compose, initialize_config_dir
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

from siamese import factory
from siamese.augment import View, Views
from siamese.augment.params import CROP_COLUMNS, crop_boxes
from siamese.data.crops import RandomCrops, Region, ViewCrop, cut
from siamese.data.files import ImageFiles, Kind
from siamese.data.loading import StoreDataset
from siamese.environment import keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT, SIZE = 500, 375, 224
FOREVER = 10**7  # samples
KIND = Kind(3, np.dtype(np.uint8), 10**9)


def write_photographs(folder: Path, count: int) -> list[Path]:
    """Crops of the two samples between 60 % and 100 % of their sides, resized."""
    rng, samples = np.random.default_rng(0), load_sample_images().images
    for i in range(count):
        image = Image.fromarray(samples[i % 2])
        share = rng.uniform(0.6, 1)
        width, height = share * image.height * WIDTH / HEIGHT, share * image.height
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        image = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, (left, top, left + width, top + height))
        image.save(folder / f"{i:04}.jpg", quality=90)
    return sorted(folder.iterdir())


def pixels_of(file: Any) -> np.ndarray:
    """A file to (H, W, 3) uint8, with Pillow."""
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


def decoders() -> dict[str, Callable[[bytes], Any]]:
    """The decoders that are installed, bytes to pixels."""
    found: dict[str, Callable[[bytes], Any]] = {
        "Pillow": lambda data: pixels_of(io.BytesIO(data)),
        "torchvision": lambda data: torchvision.io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)),
    }
    for name, function in (("simplejpeg", "decode_jpeg"), ("imagecodecs", "jpeg8_decode")):
        try:
            found[name] = getattr(importlib.import_module(name), function)
        except ImportError:
            print(f"{name} is not installed: left out")
    return found


def resizers(view: View, mode: str) -> dict[str, Callable[[np.ndarray, tuple[int, int, int, int]], Any]]:
    """Crop-and-resize of (H, W, 3) uint8 and a box (top, left, height, width), by name."""
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

    def pillow(pixels: np.ndarray, box: tuple[int, int, int, int]) -> Any:
        top, left, height, width = box
        part = Image.fromarray(pixels[top : top + height, left : left + width])
        return np.array(part.resize((SIZE, SIZE), filters[mode]))

    def transforms(pixels: np.ndarray, box: tuple[int, int, int, int]) -> Any:
        x = torch.from_numpy(pixels).permute(2, 0, 1)
        return resized_crop(x, *box, [SIZE, SIZE], InterpolationMode(mode), antialias=True).contiguous()

    def compiled(pixels: np.ndarray, box: tuple[int, int, int, int]) -> Any:
        x = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
        params = view.draw(1, pixels.shape[0], pixels.shape[1], generator=torch.Generator())
        params.box = torch.tensor([box])
        return view.render(x, params)

    interpolation: Any = mode

    def ours(pixels: np.ndarray, box: tuple[int, int, int, int]) -> Any:
        top, left, height, width = box
        return cut(pixels, Region(top, left, height, width, SIZE, interpolation))

    return {"cut (torch)": ours, "torchvision v2": transforms, "Pillow": pillow, "views.cpp": compiled}


def microseconds(contenders: Mapping[str, Callable[[Any], Any]], inputs: list[Any], rounds: int) -> dict[str, float]:
    """Median time on a core of a call; the contenders take turns at each input."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for value in inputs:
            for name, call in contenders.items():
                start = time.thread_time()
                call(value)
                taken[name].append(time.thread_time() - start)
    return {name: 1e6 * statistics.median(values) for name, values in taken.items()}


def our_views(*overrides: str) -> Views:
    """SimCLR's views for photographs, compiled."""
    settings = ["augment=large/simclr", f"data.crop={SIZE}", "augment.compiled=true",
                "augment.mean=[0.0,0.0,0.0]", "augment.std=[1.0,1.0,1.0]", *overrides]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        views = factory.views(compose("train", settings))
    views.prepare(0, torch.device("cpu"))
    return views


def unchanged(batch: Any) -> Any:
    return batch


def loader(data: Dataset[Any], a: argparse.Namespace, **more: Any) -> DataLoader[Any]:
    sampler = RandomSampler(data, replacement=True, num_samples=FOREVER)  # type: ignore[arg-type]
    return DataLoader(data, a.batch, sampler=sampler, num_workers=a.workers, **more)


def squeezed(files: list[Path], views: Views, a: argparse.Namespace) -> Iterator[list[Tensor]]:
    """The path of resident and packed sets: files squeezed to 256 x 256, crops of that."""
    for _, batch in loader(StoreDataset(ImageFiles(files, 256, KIND)), a, collate_fn=unchanged):
        yield views(batch.images, batch.aspect_ratios)


def crops(files: list[Path], views: Views, a: argparse.Namespace) -> Iterator[list[Tensor]]:
    """Crops of the full photograph; the other operations on them."""
    cutter = factory.random_crops(list(views.views), seed=0)  # type: ignore[arg-type]
    for _, batch in loader(StoreDataset(ImageFiles(files, 256, KIND), cutter), a, collate_fn=unchanged):
        yield views(batch.images)


def lightly(files: list[Path], views: Views, a: argparse.Namespace) -> Iterator[list[Tensor]]:
    """Stock lightly."""
    from lightly.data import LightlyDataset
    from lightly.transforms.simclr_transform import SimCLRTransform

    data = LightlyDataset(str(files[0].parent), transform=SimCLRTransform(input_size=SIZE))
    for pair, *_ in loader(data, a):
        yield pair


def core_seconds() -> float:
    """Time on cores of this process and its workers so far."""
    ticks = 0
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def rate(batches: Iterator[list[Tensor]], a: argparse.Namespace) -> tuple[float, float]:
    """Images per second, and core milliseconds of an image, which other work on the machine changes less. Timed after
    the workers have filled their queues; each gives out as many of the timed batches as the others."""
    for _ in range(2 * a.workers + 2):
        first, second = next(batches)
        assert first.shape == second.shape == (a.batch, 3, SIZE, SIZE)
    start, cores, images = time.perf_counter(), core_seconds(), 0
    while time.perf_counter() - start < a.seconds or images % (a.workers * a.batch):
        next(batches)
        images += a.batch
    taken, cores = time.perf_counter() - start, core_seconds() - cores
    batches.close()  # type: ignore[attr-defined]
    return images / taken, 1000 * cores / images


def parts(files: list[Path], a: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Microseconds of each part in one thread."""
    torch.set_num_threads(1)
    few = files[:32]
    out = {"decode": microseconds(decoders(), [file.read_bytes() for file in few], 8)}
    nothing = ["augment.jitter_p=0", "augment.gray_p=0", "augment.blur_p=0", "augment.flip_p=0"]
    for mode in ("bilinear", "bicubic"):
        view: Any = our_views(*nothing, f"augment.interpolation={mode}").views[0]
        cutter = RandomCrops(0, (ViewCrop(SIZE, (0.08, 1), (3 / 4, 4 / 3), "bicubic"),))
        boxes = [cutter.regions(HEIGHT, WIDTH, 0, index)[0] for index in range(len(few))]
        inputs = [(pixels_of(f), (r.top, r.left, r.height, r.width)) for f, r in zip(few, boxes, strict=True)]
        calls = {name: (lambda value, call=call: call(*value)) for name, call in resizers(view, mode).items()}
        out[f"crop and resize, {mode}"] = microseconds(calls, inputs, 8)
    two = RandomCrops(0, (ViewCrop(SIZE, (0.08, 1), (3 / 4, 4 / 3), "bicubic"),) * 2)
    uniform = torch.rand(2, CROP_COLUMNS)
    boxes_of: dict[str, Callable[[Any], Any]] = {
        "RandomCrops.regions": lambda index: two.regions(HEIGHT, WIDTH, 0, index),
        "crop_boxes": lambda index: crop_boxes(uniform, HEIGHT, WIDTH, (0.08, 1), (3 / 4, 4 / 3)),
    }
    out["boxes of two views"] = microseconds(boxes_of, list(range(200)), 1)
    return out


def main() -> None:
    warnings.filterwarnings("ignore")  # of libraries about each other
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cores", type=int, default=2, help="that all contenders run on")
    parser.add_argument("--workers", type=int, default=2, help="processes of each contender's DataLoader")
    parser.add_argument("--threads", type=int, default=1, help="of the main process; more spin on the workers' cores")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    available = sorted(os.sched_getaffinity(0))
    if a.cores > len(available):
        parser.error(f"--cores={a.cores}: this process may use {len(available)}")
    os.sched_setaffinity(0, available[: a.cores])
    keep_freed_memory()
    contenders = {"squeezed": squeezed, "crops": crops, "lightly": lightly}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    cores: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        files = write_photographs(Path(folder), a.files)
        taken = parts(files, a)
        torch.set_num_threads(a.threads)
        views = our_views()
        for _ in range(a.rounds):
            for name, contender in contenders.items():
                images, milliseconds = rate(contender(files, views, a), a)
                rates[name].append(images)
                cores[name].append(milliseconds)
    console = Console()
    median = {name: statistics.median(values) for name, values in rates.items()}
    path = 1000 * statistics.median(cores["crops"])  # core microseconds of an image
    table = Table(title="microseconds in one thread", title_justify="left")
    for column in ("part", "by", "time", "ratio", "of `crops`"):
        table.add_column(column, justify="left" if column in ("part", "by") else "right")
    for part, times in taken.items():
        for name, value in times.items():
            share = f"{value * (2 if part.startswith('crop') else 1) / path:.0%}"
            table.add_row(part, name, f"{value:,.0f}", f"{value / next(iter(times.values())):.2f}", share)
    console.print(table)
    table = Table(title="images per second, two views of 224 pixels", title_justify="left")
    for column in ("path", "images/s", "of lightly's", "rounds", "core ms an image", "lightly's / this"):
        table.add_column(column, justify="left" if column == "path" else "right")
    for name, values in rates.items():
        ratios = [mine / theirs for mine, theirs in zip(values, rates["lightly"], strict=True)]
        told = f"{min(ratios):.2f} to {max(ratios):.2f}"
        mine, theirs = statistics.median(cores[name]), statistics.median(cores["lightly"])
        cells = f"{median[name]:,.0f}", f"{statistics.median(ratios):.2f}", told, f"{mine:.1f}", f"{theirs / mine:.2f}"
        table.add_row(name, *cells)
    console.print(table)
    about = {**vars(a), "python": platform.python_version(), "torch": torch.__version__}
    print(
        json.dumps(
            {"benchmark": "streaming", "microseconds": taken, "images_per_second": rates, "core_ms": cores, **about}
        )
    )


if __name__ == "__main__":
    main()
