"""What matters in LeJEPA: form of the loss, rate, weight decay, slices, lambda, views and projector, one at a time.

    python benchmarks/lejepa.py [OVERRIDES OF train.py …]
    python benchmarks/lejepa.py data=npz data.path=cifar10.npz
    python benchmarks/lejepa.py --only rate,lambda --all --seeds 0,1 data=npz data.path=cifar10.npz

Trains the small network on 10,000 images of 16 pixels around one base setting (`BASE`), with one factor changed at a
time (`FACTORS`), and judges each run by kNN and linear on the VALIDATION split. Prints one markdown table. Runs that
are finished in --folder are not repeated, one that was interrupted continues: call it again after an interruption.
Another base, in overrides, needs another --folder. A run of two views took 100 s of one core's time, and the grid has
the work of 15, with --all that of 27.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from runs import shown, trained

BASE = {
    "method": "lejepa", "data.crop": "16", "data.train_images": "10000", "backbone": "small",
    "backbone.widths": "[16,32,64,128]", "batch_size": "256", "epochs": "10", "optimizer": "adamw",
    "optimizer.lr": "2e-3", "optimizer.weight_decay": "1e-2", "optimizer.warmup_epochs": "1",
    "augment.views": "[{count:2}]", "monitor.every": "0",
}  # fmt: skip
POOLED = {"method.centre": "global", "method.regularizer.t_max": "3", "method.regularizer.pool_views": "true"}
# Factor -> value -> what it changes. With two views, both global, the centres of all forms are the same.
FACTORS: dict[str, dict[str, dict[str, str]]] = {
    "base": {"the paper's form, rate 2e-3, decay 1e-2, 256 slices, lambda 0.05, 2 views, 512-512-64": {}},
    "form": {
        "lightly: [-3, 3]": {"method.centre": "global", "method.regularizer.t_max": "3"},
        "stable-pretraining: lambda 0.02, [-3, 3], views pooled": {**POOLED, "method.weight": str(0.02 / 1.02)},
        "VISReg, lambda 0.6": {"method": "visreg"},
    },
    "rate": {rate: {"optimizer.lr": rate} for rate in ("5e-4", "1e-2")},
    "lambda": {weight: {"method.weight": weight} for weight in ("0.01", "0.2")},
    "slices": {"64": {"method.regularizer.slices": "64"}},
    "views": {"4, centre of all": {"augment.views": "[{count:4}]"}},
    "projector": {"512-512-256": {"method.output_dim": "256"}},
    "together": {"4 views, lambda 0.01": {"augment.views": "[{count:4}]", "method.weight": "0.01"}},
    "for comparison": {"SimCLR, 2 views": {"method": "simclr"}},
}
FURTHER: dict[str, dict[str, dict[str, str]]] = {  # with --all
    "form": {
        "the statistic without N": {"method.regularizer.times_samples": "false"},
        "VISReg, lambda 0.9": {"method": "visreg", "method.weight": "0.9"},
    },
    "rate": {"5e-3": {"optimizer.lr": "5e-3"}},
    "lambda": {"0.5": {"method.weight": "0.5"}},
    "slices": {"1024": {"method.regularizer.slices": "1024"}},
    "weight decay": {decay: {"optimizer.weight_decay": decay} for decay in ("1e-5", "1e-1")},
    "views": {"4, centre of two": {"augment.views": "[{count:4}]", "method.centre": "global"}},
    "projector": {
        "512-512-16": {"method.output_dim": "16"},
        "2048-2048-64": {"method.hidden_dim": "2048"},
    },
}


def train(folder: Path, settings: dict[str, str], overrides: list[str]) -> dict[str, Any]:
    """The figures of a run, which is trained if it is not there."""
    summary = trained(folder, *(f"{key}={value}" for key, value in settings.items()), *overrides)
    figures = {key: summary[key] for key in ("knn_top1", "linear_top1", "train_seconds")}
    return figures | {name: (row["knn_top1"], row["linear_top1"]) for name, row in summary["baselines"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="outputs/lejepa")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", help="factors, by commas")
    parser.add_argument("--all", action="store_true", help="the further values, too")
    a, overrides = parser.parse_known_args()
    grid = {name: FACTORS.get(name, {}) | (FURTHER.get(name, {}) if a.all else {}) for name in {**FACTORS, **FURTHER}}
    seeds = a.seeds.split(",")
    lines: list[str] = []
    for factor in a.only.split(",") if a.only else grid:
        for i, (value, changed) in enumerate(grid[factor].items()):
            where = Path(a.folder) / f"{factor.replace(' ', '_')}_{i}"
            runs = [train(where / seed, {**BASE, **changed, "seed": seed}, overrides) for seed in seeds]
            if not lines:
                for name in ("raw_pixels", "random_init"):
                    knn, linear = ([run[name][j] for run in runs] for j in (0, 1))
                    lines.append(f"| {name.replace('_', ' ')} | | {shown(knn)} | {shown(linear)} | |")
            knn, linear, seconds = ([run[key] for run in runs] for key in ("knn_top1", "linear_top1", "train_seconds"))
            lines.append(f"| {factor} | {value} | {shown(knn)} | {shown(linear)} | {statistics.mean(seconds):.0f} |")
            print(lines[-1], file=sys.stderr, flush=True)
    print("| factor | value | kNN | linear | seconds |", "|---|---|---|---|---|", *lines, sep="\n")


if __name__ == "__main__":
    main()
