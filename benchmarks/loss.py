"""Memory and time of NT-Xent's plain and chunked forms at large global batches.

    python benchmarks/loss.py            about two minutes on two cores, and 8 GB of memory

Forward and backward on random projections of 128 dimensions, each case in a process of its own, whose peak
memory is the process's less what it held before. Prints a table and one JSON line.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

from siamese import losses

CASES = [("nt_xent", 2048, 0), ("nt_xent", 8192, 0), ("nt_xent_chunked", 2048, 1024), ("nt_xent_chunked", 8192, 1024),
         ("nt_xent_chunked", 32768, 1024)]  # fmt: skip


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, batch: int, chunk: int) -> dict[str, float]:
    """One forward and backward pass: seconds, MB above what was there before, and the loss."""
    torch.manual_seed(0)
    z = torch.randn(2 * batch, 128)
    arguments = (chunk,) if chunk else ()
    loss = getattr(losses, name)
    loss(z[:64].clone().requires_grad_(), 0.1, *arguments).backward()  # what the first call alone costs
    z.requires_grad_()
    before, start = peak_mb(), time.perf_counter()
    value = loss(z, 0.1, *arguments)
    value.backward()
    return {"seconds": time.perf_counter() - start, "mb": peak_mb() - before, "loss": value.item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    case = parser.parse_args().case
    if case is not None:
        print(json.dumps(measure(*CASES[case])))
        return
    table = Table(title="NT-Xent, forward and backward, D = 128", title_justify="left")
    for column in ("form", "global batch", "anchors at a time", "seconds", "peak MB", "loss"):
        table.add_column(column, justify="left" if column == "form" else "right")
    rows = []
    for i, (name, batch, chunk) in enumerate(CASES):
        done = subprocess.run([sys.executable, __file__, "--case", str(i)], capture_output=True, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        rows.append({"form": name, "batch": batch, "chunk": chunk, **figures})
        table.add_row(name, f"{batch:,}", f"{chunk or 'all'}", f"{figures['seconds']:.1f}", f"{figures['mb']:,.0f}",
                      f"{figures['loss']:.6f}")  # fmt: skip
    Console().print(table)
    print(
        json.dumps(
            {"loss": rows, "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        )
    )


if __name__ == "__main__":
    main()
