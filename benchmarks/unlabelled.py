"""How well each figure without labels ranks checkpoints by their later linear accuracy (Spearman).

    python benchmarks/unlabelled.py [OVERRIDES OF train.py …]
    python benchmarks/unlabelled.py data=npz data.path=cifar10.npz data.crop=16 backbone=small batch_size=256
    python benchmarks/unlabelled.py --noise
    python benchmarks/unlabelled.py --spectrum

Trains every method of --methods for every number of epochs of --epochs, with one seed, judges each checkpoint on the
test split (eval=linear) and without labels (eval=unlabelled), and prints a table, the rank correlations and one JSON
line. Runs that are there already (--folder) are not repeated. --noise trains nothing: it prints what RankMe and
alpha-ReQ read of isotropic noise, N samples of D dimensions. Few samples alone make a spectrum fall. --spectrum times
the singular values of features by a Gram matrix, as the figures take them, and by an SVD.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from runs import run
from scipy.stats import spearmanr

from siamese.probes import metrics

FIGURES = (
    "feature_rank",
    "feature_std",
    "alpha_req",
    "uniformity",
    "alignment",
    "lidar",
    "projection_rank",
    "projection_lidar",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="simclr,moco,byol,simsiam")
    parser.add_argument("--epochs", default="1,3,9,27")
    parser.add_argument("--folder", default="outputs/unlabelled")
    parser.add_argument("--samples", default="10000", help="images for rank, std, alpha and uniformity")
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--spectrum", action="store_true")
    a, overrides = parser.parse_known_args()
    if a.noise:
        return noise()
    if a.spectrum:
        return spectrum()
    rows = []
    for method in a.methods.split(","):
        for epochs in a.epochs.split(","):
            where = Path(a.folder) / f"{method}_{epochs}"
            if not (where / "e" / "results.json").is_file():
                run("train.py", f"method={method}", f"epochs={epochs}", f"run_dir={where}", "monitor.every=0",
                    "optimizer.warmup_epochs=0", "overwrite=true", *overrides)  # fmt: skip
                ckpt = f"ckpt={where}/checkpoints/last.ckpt"
                run("eval_linear.py", ckpt, f"run_dir={where / 'e'}", "eval.cache=null",
                    "eval.protocols=[linear,unlabelled]", f"eval.unlabelled.samples={a.samples}")  # fmt: skip
            results = json.loads((where / "e" / "results.json").read_text())
            (one,) = results["results"].values()
            figures = one["rows"][method]
            rows.append({"method": method, "epochs": int(epochs), "linear": figures["linear"]["top1"],
                         **{f: figures["unlabelled"][f] for f in FIGURES}})  # fmt: skip
            print(
                "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items()), flush=True
            )
    print(f"\nSpearman's rank correlation with linear top-1 over {len(rows)} checkpoints (within each method, mean)")
    correlation = {}
    for figure in FIGURES:
        over_all = rank([(r[figure], r["linear"]) for r in rows])
        within = [rank([(r[figure], r["linear"]) for r in rows if r["method"] == m]) for m in a.methods.split(",")]
        correlation[figure] = over_all
        print(f"{figure:16} {over_all:6.2f}   ({sum(within) / len(within):.2f})")
    print(json.dumps({"benchmark": "unlabelled", "spearman": correlation, "rows": rows, "overrides": overrides}))


def spectrum() -> None:
    for n, d in ((2048, 128), (2048, 512), (2048, 2048), (512, 2048), (25600, 512)):
        z = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).double()
        seconds = []
        for way in (metrics.spectrum, torch.linalg.svdvals):
            way(z)
            start = time.perf_counter()
            way(z)
            seconds.append(time.perf_counter() - start)
        print(f"N {n:6}  D {d:5}  Gram {seconds[0]:7.3f} s  SVD {seconds[1]:7.3f} s  {seconds[1] / seconds[0]:5.1f}x")


def noise() -> None:
    rows = []
    for n in (256, 2048, 25600):
        for d in (64, 512, 2048):
            z = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
            rows.append({"samples": n, "dimensions": d, "alpha_req": metrics.alpha_req(z), "rankme": metrics.rankme(z)})
            print(
                f"N {n:6}  D {d:5}  alpha-ReQ {rows[-1]['alpha_req']:.2f}  RankMe {rows[-1]['rankme']:.1f}", flush=True
            )
    print(json.dumps({"benchmark": "unlabelled, noise", "rows": rows}))


def rank(pairs: list[tuple[float, float]]) -> float:
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


if __name__ == "__main__":
    main()
