"""The race: SimCLR on CIFAR-10 for equal wall-clock seconds, ours against stock lightly's loop.

    python benchmarks/race.py --seconds 600 data=npz data.path=cifar10.npz

The same small network, recipe (conf/experiment/cifar10/simclr.yaml) and images of 16 pixels. Each contender is a
process of its own. The seconds count from its command to its last step, start-up and compilation included. It trains
for as many epochs as fit in them, by the time of a run of one epoch and of one of two. Lightly's loop is its
documentation's: its SimCLRTransform in --workers workers, its head and its loss, with the recipe's optimiser and
schedule. Both networks are judged by the same command, on the test split. stable-pretraining is left out: it is not
installed with this project.
Prints a table of the seeds and one JSON line. Let nothing else run.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from runs import ROOT, judged, run, shown

RECIPE = (
    "experiment=cifar10/simclr", "data.crop=16", "backbone=small", "backbone.widths=[16,32,64,128]", "batch_size=256",
    "monitor.every=0", "trainer=cpu",
)  # fmt: skip
CONTENDERS = ("siamese", "lightly")


def lightly_loop(overrides: list[str], epochs: int, seed: int, workers: int, out: Path) -> None:
    """Train as lightly's documentation does, and save the backbone."""
    import numpy as np
    import torch
    from hydra import compose, initialize_config_dir
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms.simclr_transform import SimCLRTransform
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    from siamese import factory
    from siamese.config import make

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [*overrides, f"seed={seed}", f"epochs={epochs}"])
    torch.manual_seed(seed)
    data = factory.data_set(cfg)
    cfg, _ = factory.resolve_images(cfg, data.pretrain)
    pixels = data.pretrain.images.read(torch.arange(len(data.pretrain))).images
    images = [Image.fromarray(np.ascontiguousarray(p.permute(1, 2, 0).numpy())) for p in pixels]
    mean, std = list(cfg.data.mean), list(cfg.data.std)
    transform = SimCLRTransform(  # the recipe's strengths; no blur at this size
        input_size=cfg.data.crop, cj_strength=0.5, gaussian_blur=0.0, normalize={"mean": mean, "std": std}
    )

    class Photos(Dataset[Any]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> Any:
            return transform(images[i])

    loader = DataLoader(Photos(), cfg.batch_size, shuffle=True, drop_last=True, num_workers=workers)
    backbone = factory.backbone(cfg)
    network = torch.nn.Sequential(backbone, SimCLRProjectionHead(backbone.feature_dim, 512, 128))
    groups = [{"params": list(network.parameters())}]
    optimizer, schedule = make(cfg.optimizer).build(groups, cfg.batch_size, len(loader), epochs)
    criterion = NTXentLoss(cfg.method.temperature)
    for _ in range(epochs):
        for x1, x2 in loader:
            loss = 2 * criterion(network(x1), network(x2))  # the recipe's rate is for twice lightly's loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    torch.save({f"backbone.{k}": v for k, v in backbone.state_dict().items()}, out)


def seconds(name: str, folder: Path, epochs: int, seed: int, a: argparse.Namespace, overrides: list[str]) -> float:
    """Train one contender; its seconds from the command to its last step. A run that is there is not repeated."""
    note = folder / "race.json"
    if note.is_file():
        return float(json.loads(note.read_text())["seconds"])
    folder.mkdir(parents=True, exist_ok=True)
    start = time.time()
    if name == "siamese":
        run("train.py", *RECIPE, *overrides, f"seed={seed}", f"epochs={epochs}", f"run_dir={folder / 'run'}",
            "overwrite=true", "report=false")  # fmt: skip
        took = (folder / "run" / "checkpoints" / "last.ckpt").stat().st_mtime - start
    else:
        command = [sys.executable, __file__, "--lightly", str(folder / "backbone.pt"), "--epochs", str(epochs),
                   "--seed", str(seed), "--workers", str(a.workers), *RECIPE, *overrides]  # fmt: skip
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "ssl")})
        took = time.time() - start
    note.write_text(json.dumps({"seconds": took, "epochs": epochs}))
    return took


def figures(name: str, folder: Path, overrides: list[str]) -> tuple[float, float]:
    """kNN and linear top-1 on the test split."""
    data = [o for o in overrides if o.startswith("data")]
    if name == "siamese":
        results = judged(folder / "run", "eval.knn.k=200", "eval.linear.epochs=10")
    else:
        file = folder / "eval" / "results.json"
        if not file.is_file():
            groups = [o for o in RECIPE if o.startswith(("backbone", "data"))]
            view = ["data.mean=[0.4914,0.4822,0.4465]", "data.std=[0.2023,0.1994,0.2010]"]
            run("eval_linear.py", f"ckpt={folder / 'backbone.pt'}", f"run_dir={folder / 'eval'}", "eval.knn.k=200",
                "eval.linear.epochs=10", *data, *groups, *view)  # fmt: skip
        results = json.loads(file.read_text())
    (one,) = results["results"].values()
    row = next(row for key, row in one["rows"].items() if key not in ("raw_pixels", "random_init"))
    return row["knn"]["top1"], row["linear"]["top1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="of lightly's loader")
    parser.add_argument("--folder", default="outputs/race")
    parser.add_argument("--lightly", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    a, overrides = parser.parse_known_args()
    if a.lightly:
        return lightly_loop(overrides, a.epochs, a.seed, a.workers, a.lightly)
    out: dict[str, Any] = {}
    print("| contender | epochs | seconds | kNN | linear |", "|---" * 5 + "|", sep="\n")
    for name in CONTENDERS:
        where = Path(a.folder) / name
        one, two = (seconds(name, where / f"{epochs}", epochs, 0, a, overrides) for epochs in (1, 2))
        epoch = max(two - one, 1e-3)
        epochs = max(1, int((a.seconds - (one - epoch)) / epoch))
        took = [seconds(name, where / f"seed{s}", epochs, s, a, overrides) for s in range(a.seeds)]
        found = [figures(name, where / f"seed{s}", overrides) for s in range(a.seeds)]
        knn, linear = ([f[i] for f in found] for i in (0, 1))
        out[name] = {"epochs": epochs, "seconds": took, "knn": knn, "linear": linear}
        print(f"| {name} | {epochs} | {max(took):.0f} | {shown(knn)} | {shown(linear)} |", flush=True)
    print(json.dumps({"benchmark": "race", "asked": a.seconds, **out, "overrides": overrides}))


if __name__ == "__main__":
    main()
