"""Efficiency: images per second of real training over those of the bare model step, and against stock lightly.

    python benchmarks/throughput.py                    32 px, every method, about six minutes on two cores
    python benchmarks/throughput.py --size 224 --batch 16 --methods simclr
    python benchmarks/throughput.py --device cuda --backbone resnet18_small --batch 512
    python benchmarks/throughput.py --device cuda --backbone resnet50 --size 224 --batch 256 --files --workers 16

Real training is train.py's own run (data, views, Lightning loop, logging; monitors off), its second
epoch. The bare step is the same modules, optimiser and batch on views that are ready: loss, backward,
optimiser, EMA. Stock lightly is its SimCLRTransform in two DataLoader workers, its head and its loss around
the same backbone, with the same optimiser. On a GPU all of them in train.py's precision there, ours compiled. All in
one process run, the contenders in turn, medians over rounds. Smooth random images; with --files as JPEG files that are
decoded by workers. Prints a table and one JSON line.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from augment import Photos, smooth_images
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.table import Table

from siamese import factory
from siamese.config import make
from siamese.data.npz import channels_first
from siamese.environment import channels_last, keep_freed_memory
from siamese.options import options
from siamese.schema.check import arguments
from siamese.training import Run, build, check
from siamese.training.devices import resolve_auto

ROOT = Path(__file__).resolve().parents[1]


def config(a: argparse.Namespace, method: str, folder: str) -> DictConfig:
    scale = "small" if a.size < 64 else "large"
    data = ["data=npz", f"data.path={folder}/images.npz"]
    if a.files:
        data = ["data=folder", f"data.path={folder}/files", "data.resident=false", f"data.workers={a.workers}"]
    overrides = [
        f"method={method}", *data, f"data.crop={a.size}", f"augment_scale={scale}", f"backbone={a.backbone}",
        f"batch_size={a.batch}", "epochs=2", "monitor.every=0", "overwrite=true", f"run_dir={folder}/run",
        "probe.linear.epochs=1", "optimizer=adamw", "optimizer.warmup_epochs=1", "augment.compiled=true",
        *(["trainer=gpu", "compile=true"] if a.device == "cuda" else ["trainer=cpu"]),
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        target: Any = get_class(compose("train", [f"method={method}"]).method._target_)
        if target.needs_vit:
            overrides.append("backbone=small_vit")
        takes = arguments(target)
        if "teacher" in takes:  # untrained, which costs as much
            overrides += ["method/teacher=timm", "method.teacher.name=resnet18", "method.teacher.pretrained=false"]
        if "queue_size" in takes:
            overrides.append(f"method.queue_size={a.batch * 16}")
        cfg = compose("train", overrides)
    return resolve_auto(cfg)


def half(cfg: DictConfig, device: torch.device) -> torch.autocast:
    """train.py's precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled="bf16" in cfg.trainer.precision)


def finish(device: torch.device) -> float:
    """The time when all work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def real_rate(cfg: DictConfig) -> float:
    """Images per second of the second epoch of a run."""
    run = Run(build(check(cfg)))
    run.start()
    run.fit()
    run.close()
    with (run.folder / "metrics.csv").open(newline="") as stream:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(stream) if row.get("images_per_second")]
    return rates[-1]


def bare_rate(cfg: DictConfig, images: np.ndarray, seconds: float, device: torch.device) -> float:
    """Images per second of the model step alone."""
    torch.manual_seed(0)
    data = factory.data_set(cfg)
    cfg, _ = factory.resolve_images(cfg, data.pretrain)
    views = factory.views(cfg)
    method = channels_last(factory.method(cfg, factory.backbone(cfg), data, views=views)).train().to(device)
    if cfg.compile:
        method.compile_networks()  # type: ignore[operator]
    optimizer, _ = make(cfg.optimizer).build(method.param_groups(), cfg.batch_size, 100, 10)  # type: ignore[operator]
    ready = views(channels_first(images[: cfg.batch_size]).to(device))
    labels = torch.zeros(cfg.batch_size, dtype=torch.int64, device=device)

    def step(i: int) -> None:
        with half(cfg, device):
            loss = method.loss(*((ready, labels) if method.uses_labels else (ready,)))  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(i, 1000)  # type: ignore[operator]

    for i in range(3):
        step(i)
    start, count = finish(device), 0
    while time.perf_counter() - start < seconds:
        for _ in range(10 if device.type == "cuda" else 1):
            step(count)
            count += 1
        finish(device)
    return count * cfg.batch_size / (finish(device) - start)


def lightly_rate(cfg: DictConfig, images: np.ndarray, seconds: float, workers: int, device: torch.device) -> float:
    """Images per second of lightly's documented SimCLR loop around the same backbone."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    cfg, _ = factory.resolve_images(cfg, factory.data_set(cfg).pretrain)
    backbone = factory.backbone(cfg)
    network = torch.nn.Sequential(backbone, SimCLRProjectionHead(backbone.feature_dim, 512, 128)).to(device)
    optimizer, criterion = torch.optim.AdamW(network.parameters(), lr=1e-3), NTXentLoss(0.5)
    loader = torch.utils.data.DataLoader(Photos(images, cfg.data.crop, 10**9), cfg.batch_size, num_workers=workers)
    iterator = iter(loader)
    start, count = 0.0, 0
    while not start or time.perf_counter() - start < seconds:
        x1, x2 = next(iterator)
        with half(cfg, device):
            loss = criterion(network(x1.to(device)), network(x2.to(device)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        count += 1
        if count == 5 and not start:  # the batches that were made ahead are used up
            start, count = finish(device), 0
    rate = count * cfg.batch_size / (finish(device) - start)
    del iterator
    return rate


def main() -> None:
    warnings.filterwarnings("ignore")  # of libraries about each other
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="of the views, pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--methods", nargs="+", default=options("method"))
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--files", action="store_true", help="JPEG files, decoded by workers")
    parser.add_argument("--workers", type=int, default=2, help="that decode files, and lightly's")
    parser.add_argument("--batches", type=int, default=24, help="of an epoch")
    a = parser.parse_args()
    keep_freed_memory()
    device, console = torch.device(a.device), Console()
    out: dict[str, Any] = {}
    peak: dict[str, int] = {}  # of the GPU's memory in real training
    with tempfile.TemporaryDirectory() as folder:
        count = a.batch * a.batches
        images = smooth_images(count, a.size if a.size < 64 else 256)
        labels = np.arange(count) % 2
        if a.files:
            for label in (0, 1):
                (Path(folder) / "files" / str(label)).mkdir(parents=True)
            for i, image in enumerate(images):
                Image.fromarray(image).save(Path(folder) / "files" / str(labels[i]) / f"{i}.jpg", quality=90)
        else:
            np.savez(f"{folder}/images.npz", train_images=images, train_labels=labels)
        for method in a.methods:
            cfg = config(a, method, folder)
            rates: dict[str, list[float]] = {"bare": [], "real": [], "lightly": []}
            for _ in range(a.rounds):
                rates["bare"].append(bare_rate(cfg, images, a.seconds, device))
                with open(os.devnull, "w") as nowhere:
                    stdout, sys.stdout = sys.stdout, nowhere
                    try:
                        if device.type == "cuda":
                            torch.cuda.reset_peak_memory_stats()
                        rates["real"].append(real_rate(cfg))
                    finally:
                        sys.stdout = stdout
                if device.type == "cuda":
                    peak[method] = round(torch.cuda.max_memory_allocated() / 1e6)
                if method == "simclr":
                    rates["lightly"].append(lightly_rate(cfg, images, a.seconds, a.workers, device))
            out[method] = {name: round(statistics.median(r), 1) for name, r in rates.items() if r}
            if method in peak:
                out[method]["peak_mb"] = peak[method]
    table = Table(title=f"images per second, {a.size} px, batch {a.batch}", title_justify="left")
    columns = ("method", "bare step", "training", "efficiency", "lightly", "ours/lightly")
    for column in (*columns, "peak MB") if peak else columns:
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, r in out.items():
        bare, real, *theirs = (
            f"{r[k]:,.0f}" if r[k] >= 100 else f"{r[k]:.1f}" for k in ("bare", "real", "lightly") if k in r
        )
        stock = (*theirs, f"{r['real'] / r['lightly']:.2f}") if theirs else ("", "")
        memory = (f"{peak[method]:,}",) if peak else ()
        table.add_row(method, bare, real, f"{r['real'] / r['bare']:.2f}", *stock, *memory)
    console.print(table)
    if device.type == "cuda":
        console.print(", ".join(f"{m}: {50_000 / r['real']:.2f} s an epoch of 50,000 images" for m, r in out.items()))
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    about = {
        "device": name,
        "backbone": a.backbone,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    print(json.dumps({"size": a.size, "batch": a.batch, "images_per_second": out, **about}))


if __name__ == "__main__":
    main()
