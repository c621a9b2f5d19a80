"""bfloat16 on a CPU: images per second of SimCLR's model step against float32, the two in turn.

    python benchmarks/cpu_precision.py                    about four minutes on two cores
    python benchmarks/cpu_precision.py --neighbours 1     beside a process that keeps a core busy
    ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 python benchmarks/cpu_precision.py      as a processor without AMX
    python benchmarks/cpu_precision.py --accuracy [OVERRIDES OF train.py …]     whole runs of three seeds

The step is that of benchmarks/throughput.py: loss, backward, optimiser, on views that are ready. Medians over rounds.
Prints what the processor computes in bfloat16, a table and one JSON line. Let nothing else run.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from augment import smooth_images
from runs import shown, trained
from throughput import bare_rate, config

CASES = (("small", 16, 256), ("resnet18_small", 32, 64), ("resnet50", 224, 8), ("vit_tiny", 224, 8))
PRECISIONS = ("32-true", "bf16-mixed")


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that compute all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def accuracy(folder: Path, seeds: int, overrides: list[str]) -> None:
    """Whole runs in both precisions: validation figures and images per second of the training."""
    out: dict[str, Any] = {}
    print("| precision | kNN | linear | images/s |", "|---" * 4 + "|", sep="\n")
    for precision in PRECISIONS:
        common = (f"trainer.precision={precision}", "report=false", "monitor.every=0", *overrides)
        runs = [trained(folder / f"{precision}_{seed}", f"seed={seed}", *common) for seed in range(seeds)]
        out[precision] = {key: [r[key] for r in runs] for key in ("knn_top1", "linear_top1", "images_per_second")}
        knn, linear, rates = out[precision].values()
        print(f"| {precision} | {shown(knn)} | {shown(linear)} | {statistics.median(rates):.0f} |", flush=True)
    print(json.dumps({"benchmark": "cpu_precision of whole runs", **out, "overrides": overrides}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=[c[0] for c in CASES], help="backbones")
    parser.add_argument("--neighbours", type=int, default=0, help="processes that compute beside it")
    parser.add_argument("--accuracy", action="store_true", help="whole runs; other words are settings of train.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("outputs/cpu_precision"), help="of the whole runs")
    a, overrides = parser.parse_known_args()
    if a.accuracy:
        return accuracy(a.folder, a.seeds, overrides)
    if overrides:
        parser.error(f"unknown: {' '.join(overrides)}")
    can = {"AVX512-BF16": torch.cpu._is_avx512_bf16_supported(), "AMX": torch.cpu._is_amx_tile_supported()}
    print(f"{', '.join(name for name, has in can.items() if has) or 'neither AVX512-BF16 nor AMX'}; "
          f"{torch.get_num_threads()} threads; torch {torch.__version__}; at most "
          f"{os.environ.get('ONEDNN_MAX_CPU_ISA', 'all')}; {a.neighbours} neighbours")  # fmt: skip
    print("| backbone | pixels | batch | float32 | bfloat16 | gain |", "|---" * 6 + "|", sep="\n")
    out: dict[str, Any] = {}
    for backbone, size, batch in CASES:
        if backbone not in a.cases:
            continue
        with tempfile.TemporaryDirectory() as folder:
            images = smooth_images(4 * batch, size)
            np.savez(f"{folder}/images.npz", train_images=images, train_labels=np.arange(len(images)) % 4)
            asked: Any = SimpleNamespace(size=size, batch=batch, backbone=backbone, files=False, device="cpu")
            cfg = config(asked, "simclr", folder)
            rates: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
            with busy(a.neighbours):
                for _ in range(a.rounds):
                    for precision, found in rates.items():
                        cfg.trainer.precision = precision
                        found.append(bare_rate(cfg, images, a.seconds, torch.device("cpu")))
        full, half = (statistics.median(found) for found in rates.values())
        print(f"| {backbone} | {size} | {batch} | {full:.1f} | {half:.1f} | {half / full:.2f} |", flush=True)
        out[backbone] = rates
    print(json.dumps({"benchmark": "cpu_precision", "processor": can, "neighbours": a.neighbours,
                      "isa": os.environ.get("ONEDNN_MAX_CPU_ISA"), "images_per_second": out}))  # fmt: skip


if __name__ == "__main__":
    main()
