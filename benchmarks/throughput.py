"""Efficiency: images per second of real training over those of the bare model step, and against stock lightly.

    python benchmarks/throughput.py                    32 px, every method, about six minutes on two cores
    python benchmarks/throughput.py --size 224 --batch 16 --methods simclr

Real training is train.py's own Session (data, views, Lightning loop, logging; monitors off), its second
epoch. The bare step is the same modules, optimiser and batch on views that are ready: loss, backward,
optimiser, EMA. Stock lightly is its SimCLRTransform in two DataLoader workers, its head and its loss around
the same backbone, with the same optimiser. All in one process run, the contenders in turn, medians over
rounds. Random images. Prints a table and one JSON line.
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
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from siamese import build
from siamese.memory import channels_last, keep_freed_memory
from siamese.session import Session

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("simclr", "moco", "moco_v3", "byol", "simsiam", "supervised")


def config(method: str, size: int, batch: int, folder: str, images: int) -> DictConfig:
    scale = "small" if size < 64 else "large"
    overrides = [
        f"method={method}", "data=npz", f"data.path={folder}/images.npz", f"data.crop={size}", f"scale={scale}",
        "backbone=small", f"batch_size={batch}", "epochs=2", "monitor.every=0", "overwrite=true",
        f"run_dir={folder}/run",
        "eval.linear.epochs=1", "optimizer=adamw", "optimizer.warmup_epochs=1", "augment.compiled=true",
    ]  # fmt: skip
    if method == "moco":
        overrides.append(f"method.queue_size={batch * 16}")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides)


def real_rate(cfg: DictConfig) -> float:
    """Images per second of the second epoch through Session."""
    session = Session(cfg)
    session.start()
    session.fit()
    with (session.folder / "metrics.csv").open(newline="") as stream:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(stream) if row.get("images_per_second")]
    return rates[-1]


def bare_rate(cfg: DictConfig, seconds: float) -> float:
    """Images per second of the model step alone."""
    torch.manual_seed(0)
    data = build.data_set(cfg)
    views = build.views(cfg)
    method = channels_last(build.method(cfg, build.backbone(cfg), data, views=views)).train()
    optimizer, _ = build.make(cfg.optimizer).build(method.param_groups(), cfg.batch_size, 100, 10)  # type: ignore[operator]
    assert isinstance(data.pretrain.images, torch.Tensor)
    ready = views(data.pretrain.images[: cfg.batch_size])
    labels = torch.zeros(cfg.batch_size, dtype=torch.int64)

    def step(i: int) -> None:
        loss = method.loss(ready, labels) if cfg.method.name == "supervised" else method.loss(ready)  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(i, 1000)  # type: ignore[operator]

    for i in range(3):
        step(i)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step(count)
        count += 1
    return count * cfg.batch_size / (time.perf_counter() - start)


def lightly_rate(cfg: DictConfig, images: np.ndarray, seconds: float) -> float:
    """Images per second of lightly's documented SimCLR loop around the same backbone."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    backbone = build.backbone(cfg)
    network = torch.nn.Sequential(backbone, SimCLRProjectionHead(backbone.feature_dim, 512, 128))
    optimizer, criterion = torch.optim.AdamW(network.parameters(), lr=1e-3), NTXentLoss(0.5)
    loader = torch.utils.data.DataLoader(Photos(images, cfg.data.crop, 10**9), cfg.batch_size, num_workers=2)
    iterator = iter(loader)
    start, count = 0.0, 0
    while not start or time.perf_counter() - start < seconds:
        x1, x2 = next(iterator)
        loss = criterion(network(x1), network(x2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        count += 1
        if count == 5 and not start:  # the batches that were made ahead are used up
            start, count = time.perf_counter(), 0
    rate = count * cfg.batch_size / (time.perf_counter() - start)
    del iterator
    return rate


def main() -> None:
    warnings.filterwarnings("ignore")  # of libraries about each other
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="of the views, pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    keep_freed_memory()
    console = Console()
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        count = arguments.batch * 24
        images = smooth_images(count, arguments.size if arguments.size < 64 else 256)
        labels = np.arange(count) % 2
        np.savez(f"{folder}/images.npz", train_images=images, train_labels=labels)
        for method in arguments.methods:
            cfg = config(method, arguments.size, arguments.batch, folder, count)
            rates: dict[str, list[float]] = {"bare": [], "real": [], "lightly": []}
            for _ in range(arguments.rounds):
                rates["bare"].append(bare_rate(cfg, arguments.seconds))
                with open(os.devnull, "w") as nowhere:
                    stdout, sys.stdout = sys.stdout, nowhere
                    try:
                        rates["real"].append(real_rate(cfg))
                    finally:
                        sys.stdout = stdout
                if method == "simclr":
                    rates["lightly"].append(lightly_rate(cfg, images, arguments.seconds))
            out[method] = {name: round(statistics.median(r), 1) for name, r in rates.items() if r}
    table = Table(title=f"images per second, {arguments.size} px, batch {arguments.batch}", title_justify="left")
    for column in ("method", "bare step", "real training", "efficiency", "stock lightly", "ours / lightly"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, r in out.items():
        stock = (f"{r['lightly']:,.0f}", f"{r['real'] / r['lightly']:.2f}") if "lightly" in r else ("", "")
        table.add_row(method, f"{r['bare']:,.0f}", f"{r['real']:,.0f}", f"{r['real'] / r['bare']:.2f}", *stock)
    console.print(table)
    about = {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
    print(json.dumps({"size": arguments.size, "batch": arguments.batch, "images_per_second": out, **about}))


if __name__ == "__main__":
    main()
