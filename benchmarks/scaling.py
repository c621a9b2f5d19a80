"""One process and two, and few images and many.

    python benchmarks/scaling.py                      gloo on CPUs
    python benchmarks/scaling.py --accelerator gpu --processes 1,2,4,8

First: images per second of real training (train.py on digits, the later half of the epochs) for each number of
processes with the same global batch, and the bytes a step that the loopback interface carried (Linux; on one machine
that is all the processes send each other, where NCCL does not take another way). Processes share the machine's cores.
Second: time of a batch and of the start of an epoch for 10 thousand to 10 million images, an index of that length over
one image. Prints two tables and one JSON line.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from siamese.data import Loader, Split, TensorImages

ROOT = Path(__file__).resolve().parents[1]


def sent() -> int:
    """Bytes that the loopback interface has sent so far, 0 where that is not known."""
    try:
        (line,) = (x for x in Path("/proc/net/dev").read_text().splitlines() if x.strip().startswith("lo:"))
    except (OSError, ValueError):
        return 0
    return int(line.split(":")[1].split()[8])


def train(method: str, accelerator: str, processes: int, batch: int, epochs: int) -> dict[str, float]:
    """Images per second, and bytes a step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, str(ROOT / "train.py"), f"method={method}", f"run_dir={folder}/run", f"epochs={epochs}",
            "monitor.every=0", f"batch_size={batch}", f"trainer={'ddp' if processes > 1 else 'auto'}",
            f"trainer.accelerator={accelerator}", f"trainer.devices={processes}", "optimizer.warmup_epochs=0",
            *(["method.queue_size=1024"] if method.startswith("moco") and method != "moco_v3" else []),
        ]  # fmt: skip
        threads = max(1, (os.cpu_count() or 1) // processes)
        before = sent()
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
        )
        if done.returncode:
            sys.exit(done.stderr)
        carried = sent() - before
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
        with (Path(folder) / "run" / "metrics.csv").open() as stream:
            rates = [float(row["images_per_second"]) for row in csv.DictReader(stream) if row["images_per_second"]]
    later = rates[len(rates) // 2 :]
    return {"images_per_second": sum(later) / len(later), "bytes_per_step": carried / summary["steps"]}


def batches(images: int, batch: int = 256, steps: int = 200) -> dict[str, float]:
    """Seconds to the first batch of an epoch, and milliseconds of each of the next."""
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    part = Split(TensorImages(pixels.expand(images, -1, -1, -1)), torch.zeros(images).long())
    loader = Loader(part, batch, shuffle=True, resident=True)
    out = {}
    for epoch in range(2):  # the first warms up
        loader.sampler.set_epoch(epoch)
        start = time.perf_counter()
        iterator = iter(loader)
        next(iterator)
        out["epoch_start_s"] = time.perf_counter() - start
        start, done = time.perf_counter(), 0
        for _ in zip(iterator, range(steps), strict=False):
            done += 1
        out["batch_ms"] = 1e3 * (time.perf_counter() - start) / max(1, done)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--methods", default="simclr,moco,byol,simsiam")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=12)
    a = parser.parse_args()
    rows = []
    print(f"{'method':10} {'processes':>9} {'images/s':>9} {'of one':>7} {'kB a step':>10}")
    for method in a.methods.split(","):
        alone = None
        for processes in map(int, a.processes.split(",")):
            found = train(method, a.accelerator, processes, a.batch, a.epochs)
            alone = alone or found["images_per_second"]
            rows.append({"method": method, "processes": processes, **found})
            rate, kilobytes = found["images_per_second"], found["bytes_per_step"] / 1e3
            print(f"{method:10} {processes:9} {rate:9,.0f} {rate / alone:7.2f} {kilobytes:10,.0f}", flush=True)
    sizes = []
    print(f"\n{'images':>12} {'a batch, ms':>12} {'start of an epoch, s':>21}")
    for images in (10**4, 10**5, 10**6, 10**7):
        found = batches(images)
        sizes.append({"images": images, **found})
        print(f"{images:12,} {found['batch_ms']:12.3f} {found['epoch_start_s']:21.3f}", flush=True)
    print(json.dumps({"benchmark": "scaling", "processes": rows, "images": sizes, "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()
