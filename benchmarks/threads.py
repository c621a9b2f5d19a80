"""Two runs at once on one machine, started by hand, against one alone: images a second, with the default settings.

    python benchmarks/threads.py                        about two minutes on two cores
    GOMP_SPINCOUNT=300000 python benchmarks/threads.py  threads that wait as GNU's OpenMP does by default

The digits have one thread, whose steps are too small for two; the larger images have all cores. The cost is the time of
two at once over the sum of each alone. Prints a table and one JSON line. Let nothing else run.
"""

import argparse
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from augment import smooth_images
from runs import trained

SHORT = ("monitor.every=0", "report=false", "probe.linear.epochs=1", "trainer=cpu")
RUNS = {
    "digits": ("method=simsiam", "epochs=8"),
    "16 pixels": ("method=simclr", "epochs=2", "data.crop=16", "backbone=small", "backbone.widths=[16,32,64,128]",
                  "batch_size=256"),
    "32 pixels ResNet-18": ("method=simclr", "epochs=2", "data.crop=32", "backbone=resnet18_small", "batch_size=64",
                             "data.train_images=768"),
}  # fmt: skip


def rate(name: str, folder: Path, data: Path) -> float:
    """Images a second of a run's second epoch and later ones."""
    images = () if name == "digits" else ("data=npz", f"data.path={data}")
    found: float = trained(folder, *SHORT, *RUNS[name], *images)["images_per_second"]
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    out: dict[str, Any] = {}
    print("| run | alone | two at once | cost |", "|---" * 4 + "|", sep="\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder, data = Path(scratch), Path(scratch) / "images.npz"
        images = smooth_images(5120, 32)
        np.savez(data, train_images=images, train_labels=np.arange(len(images)) % 10)
        for name in RUNS:
            alone = rate(name, folder / name / "alone", data)
            with ThreadPoolExecutor(2) as pool:
                both = list(pool.map(lambda i, n=name: rate(n, folder / n / str(i), data), range(2)))  # type: ignore[misc]
            cost = alone / sum(both)
            print(f"| {name} | {alone:.0f} | {both[0]:.0f}, {both[1]:.0f} | {cost:.2f} |", flush=True)
            out[name] = {"alone": alone, "both": both, "cost": cost}
    print(json.dumps({"benchmark": "threads", **out}))


if __name__ == "__main__":
    main()
