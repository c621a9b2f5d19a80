"""What continuing from a pretrained backbone gains over starting anew, at equal epochs, on other classes.

    python benchmarks/continued.py cifar10.npz
    python benchmarks/continued.py cifar10.npz --epochs 20 --seeds 0,1 --method byol

SimCLR on the images of classes 0 to 4 (10,000 of them, without labels), then on those of classes 5 to 9: once from the
first backbone (`init_from=`), once with a tenth of its rate (`optimizer.backbone_lr_scale=0.1`), once anew. The small
network, 16 pixels. Judged on the validation split of classes 5 to 9. Prints one markdown table: means and sample
standard deviations over the seeds. Runs that are finished in --folder are not repeated.
"""

import argparse
from pathlib import Path

import numpy as np
from runs import shown, trained

SETTINGS = (
    "data=npz", "data.crop=16", "data.train_images=10000", "backbone=small", "backbone.widths=[16,32,64,128]",
    "batch_size=256", "optimizer=adamw", "optimizer.lr=2e-3", "optimizer.warmup_epochs=1", "monitor.every=0",
    "report=false",
)  # fmt: skip
KEYS = ("knn_top1", "linear_top1", "linear_top1_1_label", "linear_top1_10_labels")


def halves(file: str, folder: Path) -> tuple[Path, Path]:
    """The images of classes 0 to 4 and of classes 5 to 9, with labels from 0 on."""
    out = folder / "classes_0_to_4.npz", folder / "classes_5_to_9.npz"
    if not all(half.is_file() for half in out):
        folder.mkdir(parents=True, exist_ok=True)
        arrays = dict(np.load(file))
        for half, first in zip(out, (0, 5), strict=True):
            chosen: dict[str, np.ndarray] = {}
            for part in ("train", "test"):
                labels = arrays[f"{part}_labels"].flatten()
                inside = (labels >= first) & (labels < first + 5)
                chosen |= {f"{part}_images": arrays[f"{part}_images"][inside], f"{part}_labels": labels[inside] - first}
            np.savez(half, **chosen)  # type: ignore[arg-type]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="CIFAR-10 as .npz")
    parser.add_argument("--folder", default="outputs/continued")
    parser.add_argument("--epochs", default="10")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--method", default="simclr")
    a = parser.parse_args()
    folder, seeds = Path(a.folder), a.seeds.split(",")
    first, second = halves(a.file, folder)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        common = (*SETTINGS, f"method={a.method}", f"epochs={a.epochs}", f"seed={seed}")
        start = folder / f"first_{seed}"
        trained(start, *common, f"data.path={first}")
        weights = f"init_from={start}/checkpoints/last.ckpt"
        ways: dict[str, tuple[str, ...]] = {
            "anew": (),
            "continued": (weights,),
            "continued, a tenth of the rate": (weights, "optimizer.backbone_lr_scale=0.1"),
        }
        for i, (way, more) in enumerate(ways.items()):
            summary = trained(folder / f"way{i}_{seed}", *common, f"data.path={second}", *more)
            found.setdefault(way, []).append(summary)
            for name, row in summary["baselines"].items():
                if name != "init_from":
                    found.setdefault(name, []).append(row)
                elif i == 1:
                    found.setdefault("the first backbone", []).append(row)
    print("| features | kNN | linear | 1 label a class | 10 labels a class |", "|---|---|---|---|---|", sep="\n")
    for name, rows in found.items():
        print(f"| {name.replace('_', ' ')} | {' | '.join(shown([row[key] for row in rows]) for key in KEYS)} |")


if __name__ == "__main__":
    main()
