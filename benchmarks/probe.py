"""The grid of linear heads against the same heads one after the other, and against scikit-learn.

    python benchmarks/probe.py [--samples 50000] [--dim 512] [--epochs 10]
    python benchmarks/probe.py --on-disk --samples 1280000 --dim 2048      memory of a grid and kNN on 5 GB of features

Features are made up: ten classes, ReLU of a random mixture with as much noise as gives about 85 %. Prints a table and
one JSON line. Loops: `DataLoader` is the usual one (TensorDataset, shuffle, batch by batch collated), `sliced` indexes
the tensor instead; both train nn.Linear by torch.optim.SGD with a cosine schedule. They run for `--heads-timed` of the
heads and are multiplied.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from siamese.environment import keep_freed_memory
from siamese.probes import Features, LinearGrid, knn_accuracy
from siamese.probes.linear import Standardised, head_scores
from siamese.probes.logistic import LogisticGrid

LRS, DECAYS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 1.0], [0.0, 1e-5, 1e-4, 1e-3, 1e-2]


def made_up(samples: int, dim: int, classes: int = 10) -> tuple[Features, Features]:
    """Training and test features."""
    generator = torch.Generator().manual_seed(0)
    means, mix = torch.randn(classes, 64, generator=generator), torch.randn(64, dim, generator=generator) / 8
    parts = []
    for n in (samples, samples // 5):
        y = torch.randint(0, classes, (n,), generator=generator)
        x = means[y] + 3.2 * torch.randn(n, 64, generator=generator)
        parts.append(Features((x @ mix).relu_(), y))
    return parts[0], parts[1]


def loop(x: torch.Tensor, y: torch.Tensor, setting: tuple[float, float], epochs: int, batches: str) -> nn.Linear:
    """One head as people train it."""
    head = nn.Linear(x.shape[1], 10)
    optimizer = torch.optim.SGD(head.parameters(), lr=setting[0], momentum=0.9, weight_decay=setting[1])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(x) // 256))
    loader = DataLoader(TensorDataset(x, y), batch_size=256, shuffle=True)
    for _ in range(epochs):
        pairs = loader if batches == "DataLoader" else ((x[i], y[i]) for i in torch.randperm(len(x)).split(256))
        for a, b in pairs:
            loss = F.cross_entropy(head(a), b)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head


def on_disk(samples: int, dim: int) -> None:
    """One epoch of eight heads, and kNN of 1,000 queries, on float16 features in a file: time, and the most memory that
    is the process's own."""
    with tempfile.TemporaryDirectory() as folder:
        x = np.lib.format.open_memmap(f"{folder}/x.npy", "w+", np.float16, (samples, dim))
        y, rng = torch.arange(samples) % 10, np.random.default_rng(0)
        means = rng.standard_normal((10, dim), dtype=np.float32)
        for first in range(0, samples, 10_000):
            part = slice(first, first + 10_000)
            noise = 8 * rng.standard_normal((len(y[part]), dim), dtype=np.float32)
            x[part] = means[y[part].numpy()] + noise
        x.flush()
        del x
        features = Features(torch.from_numpy(np.load(f"{folder}/x.npy", mmap_mode="c")), y)
        before, most, done = own_mb(), [0.0], threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                most[0] = max(most[0], own_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        moments, grid = features.moments(), LinearGrid(LRS, [0.0], 1, 256, seed=0)
        weight = grid.train(Standardised(features, moments), 10, grid.settings())
        top1 = head_scores(weight, Standardised(features, moments).blocks())[0].max().item()
        middle = time.perf_counter()
        queries = features.subset(torch.arange(1000))
        knn = knn_accuracy(features, queries, 10, 20, 0.1)
        end = time.perf_counter()
        done.set()
        watcher.join()
    figures = {"grid_seconds": middle - start, "knn_seconds": end - middle, "own_mb": most[0] - before, "linear": top1,
               "knn": knn, "features_mb": samples * dim * 2 / 1e6}  # fmt: skip
    for name, value in figures.items():
        print(f"{name:14} {value:10.2f}")
    print(json.dumps({"benchmark": "probe on disk", "samples": samples, "dim": dim, **figures}))


def own_mb() -> float:
    """Memory that belongs to this process alone, mapped files left out (Linux)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--heads-timed", type=int, default=4)
    parser.add_argument("--on-disk", action="store_true")
    a = parser.parse_args()
    if a.on_disk:
        on_disk(a.samples, a.dim)
        return
    keep_freed_memory()
    fit, test = made_up(a.samples, a.dim)
    moments = fit.moments()
    train, held_out = Standardised(fit, moments), Standardised(test, moments)
    x, y = train.features.x[:, :-1].contiguous(), fit.y
    on = held_out.features.x[:, :-1]
    seconds: dict[str, float] = {}
    top1: dict[str, float] = {}

    grid = LinearGrid(LRS, DECAYS, a.epochs, 256, seed=0)
    settings = grid.settings()
    grid.train(Standardised(fit.subset(torch.arange(1000)), moments), 10, settings)  # the first call of everything
    start = time.perf_counter()
    weight = grid.train(train, 10, settings)
    seconds["grid"] = time.perf_counter() - start
    right, _ = head_scores(weight, held_out.blocks())
    best = int(right.argmax())
    top1["grid"] = right[best].item()
    start = time.perf_counter()
    grid.train(train, 10, settings[best : best + 1])
    seconds["one head of the grid"] = time.perf_counter() - start

    # The best head is among those timed, so that its accuracy is compared.
    timed = [settings[best], *[s for s in settings if s != settings[best]][: a.heads_timed - 1]]
    for batches in ("sliced", "DataLoader"):
        start = time.perf_counter()
        heads = [loop(x, y, setting, a.epochs, batches) for setting in timed]
        seconds[f"loops, {batches}"] = (time.perf_counter() - start) * len(settings) / len(timed)
        top1[f"loops, {batches}"] = (heads[0](on).argmax(1) == test.y).float().mean().item()

    l2 = 1e-3
    start = time.perf_counter()
    solution = LogisticGrid([l2], 1000, 1e-5).solve(train, 10, l2)
    seconds["L-BFGS, one strength"] = time.perf_counter() - start
    top1["L-BFGS, one strength"] = head_scores(solution.weight.unsqueeze(0), held_out.blocks())[0].item()
    start = time.perf_counter()
    reference = LogisticRegression(C=1 / (l2 * len(y)), max_iter=1000, tol=1e-5).fit(x.numpy(), y.numpy())
    seconds["scikit-learn, one strength"] = time.perf_counter() - start
    top1["scikit-learn, one strength"] = float(reference.score(on.numpy(), test.y.numpy()))

    print(f"{a.samples:,} x {a.dim} features, {len(settings)} heads, {a.epochs} epochs of batches of 256")
    print(f"{'':28} {'seconds':>9} {'of the grid':>12} {'top-1 %':>8}")
    for name, s in seconds.items():
        shown = f"{100 * top1[name]:8.2f}" if name in top1 else f"{'-':>8}"
        print(f"{name:28} {s:9.2f} {s / seconds['grid']:12.2f} {shown}")
    print(f"L-BFGS converged: {solution.converged}, {solution.iterations} iterations")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        json.dumps(
            {
                "benchmark": "probe", "samples": a.samples, "dim": a.dim, "heads": len(settings), "epochs": a.epochs,
                "seconds": seconds, "top1": top1, "peak_mb": peak, "torch": torch.__version__,
                "threads": torch.get_num_threads(), "cpus": os.cpu_count(), "machine": platform.machine(),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
