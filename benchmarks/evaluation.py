"""From a checkpoint to its kNN, linear and logistic figures: eval_linear.py against a script as people write it.

    python benchmarks/evaluation.py cifar10.npz [--epochs 10] [--whole] [--grid] [OVERRIDES OF train.py …]

Trains a SimCLR backbone for one epoch if --folder has none, then judges it on the test split, each time in a process of
its own, and prints the seconds of each process, the figures and one JSON line. The script renders the images with
torchvision in a `DataLoader` with --workers workers, takes the features once without gradients, and then uses lightly's
`knn_predict`, one `nn.Linear` trained by `torch.optim.SGD` on a `DataLoader` of the features, and scikit-learn's
`LogisticRegression` of one strength. It chooses nothing on a validation split. Ours trains 20 linear heads and solves 6
strengths, chooses both on the validation split, and trains the chosen ones again on all training labels. --grid lets
the script try the same settings, one after the other. --whole adds the command as it is, which judges raw pixels and
the untrained backbone, too. Let nothing else run.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from runs import ROOT, trained

TRAINING = ("experiment=cifar10/simclr", "data=npz", "backbone=small", "batch_size=256", "monitor.every=0",
            "trainer=cpu", "report=false")  # fmt: skip
LRS, DECAYS = [0.003, 0.01, 0.03, 0.1, 0.3], [0.0, 1e-4, 1e-3, 1e-2]  # of conf/eval
STRENGTHS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
K, TEMPERATURE = 200, 0.1


def checkpoint_alone(ckpt: Path, folder: Path, epochs: int) -> None:
    """What eval_linear.py does, without its rows for raw pixels and the untrained backbone."""
    from dataclasses import replace

    from hydra import compose, initialize_config_dir

    from siamese.imports import without_scipy_signal

    with without_scipy_signal():
        from siamese.evaluation import evaluator
        from siamese.evaluation.build import build, check

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        evaluation = build(check(compose("eval_linear", settings(ckpt, folder, epochs)), []))
        evaluator.run(replace(evaluation, rows=evaluation.rows[-1:]))


def settings(ckpt: Path, folder: Path, epochs: int) -> list[str]:
    """Of eval_linear.py."""
    return [
        f"ckpt={ckpt}", "eval.protocols=[knn,linear,logistic]", f"eval.knn.k={K}",
        f"eval.knn.temperature={TEMPERATURE}", f"eval.linear.epochs={epochs}", "eval.cache=null", f"run_dir={folder}",
        "overwrite=true",
    ]  # fmt: skip


def in_a_process(words: list[str]) -> tuple[float, str]:
    """Seconds of a process, and what it printed."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "ssl")}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
    took = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stdout[-1000:] + done.stderr[-2000:])
    return took, done.stdout


def figures(folder: Path) -> list[float]:
    """Top-1 % of the checkpoint."""
    (one,) = json.loads((folder / "results.json").read_text())["results"].values()
    row = next(row for key, row in one["rows"].items() if key not in ("raw_pixels", "random_init"))
    return [100 * row[name]["top1"] for name in ("knn", "linear", "logistic")]


def script(npz: Path, ckpt: Path, epochs: int, workers: int, grid: bool) -> dict[str, Any]:
    """What a person would write: top-1 and seconds of each part."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from lightly.utils.benchmarking import knn_predict
    from PIL import Image
    from sklearn.linear_model import LogisticRegression
    from torch import nn
    from torch.utils.data import DataLoader, Dataset, TensorDataset
    from torchvision import transforms

    import siamese

    torch.manual_seed(0)
    loaded = siamese.load(ckpt)
    view = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(loaded.config["augment"]["mean"], loaded.config["augment"]["std"])]
    )

    class Photos(Dataset[Any]):
        def __init__(self, split: str):
            with np.load(npz) as file:
                self.images, self.labels = file[f"{split}_images"], file[f"{split}_labels"]

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, i: int) -> Any:
            return view(Image.fromarray(self.images[i])), int(self.labels[i])

    took: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        took[name], clock = time.perf_counter() - clock, time.perf_counter()

    features, labels = [], []
    for split in ("train", "test"):
        xs, ys = [], []
        with torch.no_grad():
            for image, y in DataLoader(Photos(split), batch_size=256, num_workers=workers):
                xs.append(loaded.backbone(image))
                ys.append(y)
        features.append(torch.cat(xs))
        labels.append(torch.cat(ys))
    lap("features")

    bank, queries = (F.normalize(x, dim=1) for x in features)
    right = 0
    for x, y in zip(queries.split(256), labels[1].split(256), strict=True):
        right += int((knn_predict(x, bank.T, labels[0], 10, K, TEMPERATURE)[:, 0] == y).sum())
    top1 = {"knn": right / len(queries)}
    lap("knn")

    mean, std = features[0].mean(0), features[0].std(0).clamp(min=1e-6)
    train, test = ((x - mean) / std for x in features)
    found = []
    for lr, decay in [(lr, decay) for lr in LRS for decay in DECAYS] if grid else [(0.1, 0.0)]:
        head = nn.Linear(train.shape[1], 10)
        optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        loader = DataLoader(TensorDataset(train, labels[0]), batch_size=256, shuffle=True)
        for _ in range(epochs):
            for x, y in loader:
                loss = F.cross_entropy(head(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        found.append(float((head(test).argmax(1) == labels[1]).float().mean()))
    top1["linear"] = max(found)
    lap("linear")

    found = []
    for l2 in STRENGTHS if grid else [1e-4]:
        solver = LogisticRegression(C=1 / (l2 * len(train)), max_iter=1000)
        found.append(float(solver.fit(train.numpy(), labels[0].numpy()).score(test.numpy(), labels[1].numpy())))
    top1["logistic"] = max(found)
    lap("logistic")
    return {"top1": top1, "seconds": took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", type=Path)
    parser.add_argument("--epochs", type=int, default=10, help="of the linear heads")
    parser.add_argument("--workers", type=int, default=2, help="of the script's DataLoader")
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--alone", type=Path, metavar="CKPT", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=Path("outputs/evaluation"))
    parser.add_argument("--script", type=Path, metavar="CKPT", help=argparse.SUPPRESS)
    a, overrides = parser.parse_known_args()
    if a.script:
        return print(json.dumps(script(a.npz, a.script, a.epochs, a.workers, a.grid)))
    if a.alone:
        return checkpoint_alone(a.alone, a.folder / "alone", a.epochs)
    trained(a.folder / "run", *TRAINING, f"data.path={a.npz.resolve()}", "epochs=1", *overrides)
    ckpt = a.folder / "run" / "checkpoints" / "last.ckpt"
    common = [__file__, str(a.npz), "--epochs", str(a.epochs), "--workers", str(a.workers), "--folder", str(a.folder)]
    rows: dict[str, tuple[float, list[float]]] = {}
    took, _ = in_a_process([*common, "--alone", str(ckpt)])
    rows["siamese, the checkpoint alone"] = took, figures(a.folder / "alone")
    if a.whole:
        took, _ = in_a_process([str(ROOT / "eval_linear.py"), *settings(ckpt, a.folder / "whole", a.epochs)])
        rows["eval_linear.py, three networks"] = took, figures(a.folder / "whole")
    took, printed = in_a_process([*common, "--script", str(ckpt), *["--grid"] * a.grid])
    other = json.loads(printed.splitlines()[-1])
    rows["script"] = took, [100 * v for v in other["top1"].values()]
    print("| | seconds | kNN | linear | logistic |", "|---" * 5 + "|", sep="\n")
    for name, (took, found) in rows.items():
        print(f"| {name} | {took:.1f} | " + " | ".join(f"{v:.2f}" for v in found) + " |")
    print("the script's seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in other["seconds"].items()))
    print(json.dumps({"benchmark": "evaluation", "rows": rows, "script": other["seconds"], "epochs": a.epochs,
                      "grid": a.grid, "overrides": overrides}))  # fmt: skip


if __name__ == "__main__":
    main()
