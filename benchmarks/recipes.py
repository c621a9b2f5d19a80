"""All methods on CIFAR-10 by the optimisers and losses of their recipes: at equal epochs, and at equal seconds.

    python benchmarks/recipes.py data=npz data.path=cifar10.npz
    python benchmarks/recipes.py --seconds 60 data=npz data.path=cifar10.npz
    python benchmarks/recipes.py --only simclr,solo_learn/dino --epochs 20 data=npz data.path=cifar10.npz

A recipe is a file of conf/experiment/cifar10; of a method that has none there, the one of solo_learn/. Each is trained
with the small network on 10,000 images of 16 pixels, for --epochs, or for as many epochs as take --seconds, by the time
of a run of one epoch; then let nothing else run. Judged on the test split. The distilled student's teacher is SimCLR's
run of --epochs, whose time is not counted. Prints one markdown table. Runs that are finished in --folder are not
repeated, one that was interrupted continues.
"""

import argparse
from pathlib import Path
from typing import Any

from runs import ROOT, judged, trained

RECIPES = ROOT / "conf" / "experiment" / "cifar10"
COMMON = (
    "data.crop=16", "data.train_images=10000", "backbone=small", "backbone.widths=[16,32,64,128]", "batch_size=256",
    "monitor.every=0",
)  # fmt: skip
VIT = (  # in place of the convolutional network, with a decoder as small
    "data.crop=16", "data.train_images=10000", "backbone=small_vit", "backbone.patch_size=2", "backbone.heads=3",
    "method.decoder_width=96", "method.decoder_depth=2", "method.decoder_heads=3", "batch_size=256", "monitor.every=0",
)  # fmt: skip


def names() -> list[str]:
    """The recipes, one a method; SimCLR's first, which the distilled student's needs."""
    first = [file.stem for file in RECIPES.glob("*.yaml")]
    others = [file.stem for file in RECIPES.glob("solo_learn/*.yaml") if not file.stem.startswith("_")]
    found = [*first, *(f"solo_learn/{name}" for name in others if name not in first)]
    return sorted(found, key=lambda name: (name != "simclr", name.rpartition("/")[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="outputs/recipes")
    parser.add_argument("--only", help="recipes, by commas")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seconds", type=float, help="in place of --epochs")
    a, overrides = parser.parse_known_args()
    print("| recipe | epochs | seconds | kNN | linear | untrained | raw pixels |", "|---" * 7 + "|", sep="\n")
    for name in a.only.split(",") if a.only else names():
        method = name.rpartition("/")[2]
        given = [f"experiment=cifar10/{name}", *(VIT if method == "mae" else COMMON), *overrides]
        if method == "distill":
            given.append(f"method.teacher.file={a.folder}/simclr/epochs/checkpoints/last.ckpt")
        where, epochs = Path(a.folder) / method, a.epochs
        if a.seconds:
            # The rate changes no time, and some recipes need their warm-up.
            once = trained(where / "once", *given, "epochs=1", "optimizer.lr=1e-6")["train_seconds"]
            epochs = max(1, round(a.seconds / once))
        run = where / ("seconds" if a.seconds else "epochs")
        try:
            summary = trained(run, *given, f"epochs={epochs}")
        except SystemExit as error:
            if "is not finite" not in str(error):
                raise
            print(f"| {name} | {epochs} | not finite |{' |' * 4}", flush=True)
            continue
        rows = figures(judged(run, "eval.knn.k=200", "eval.linear.epochs=10"))
        cells = [name, summary["epochs"], round(summary["train_seconds"]), *rows[summary["method"]]]
        cells += [" / ".join(rows[row]) for row in ("random_init", "raw_pixels")]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def figures(results: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """kNN and linear top-1 in per cent of each row of an evaluation."""
    (one,) = results["results"].values()
    return {
        name: (f"{100 * row['knn']['top1']:.2f}", f"{100 * row['linear']['top1']:.2f}")
        for name, row in one["rows"].items()
    }


if __name__ == "__main__":
    main()
