"""Trials of a sweep side by side, against the same trials one after the other.

    python benchmarks/sweep.py [--trials 2] [--repeats 2] [OVERRIDE …]

Runs `python train.py -m seed=0,1,…` and the same with `hydra/launcher=joblib` by turns, each from the command to the
table. Prints the seconds, their ratio, and one JSON line. Let nothing else run.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

from runs import run


def seconds(trials: int, *overrides: str) -> float:
    """Seconds of a whole sweep."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run("train.py", "-m", f"seed=range(0,{trials})", f"run_dir={Path(folder) / 'sweep'}", *overrides)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    a, overrides = parser.parse_known_args()
    beside = ("hydra/launcher=joblib",)
    seconds(a.trials, *overrides, "epochs=1")  # warms the disk and compiles the views
    measured: dict[str, list[float]] = {"one after the other": [], "side by side": []}
    for _ in range(a.repeats):
        measured["one after the other"].append(seconds(a.trials, *overrides))
        measured["side by side"].append(seconds(a.trials, *overrides, *beside))
    for name, found in measured.items():
        print(f"{name:20} {statistics.median(found):6.1f} s  ({', '.join(f'{s:.1f}' for s in found)})")
    ratios = [b / a for a, b in zip(*measured.values(), strict=True)]
    print(f"{'ratio':20} {statistics.median(ratios):6.2f}")
    print(json.dumps({"trials": a.trials, "overrides": overrides, "seconds": measured, "ratios": ratios,
                      "machine": platform.processor() or platform.machine()}))  # fmt: skip


if __name__ == "__main__":
    main()
