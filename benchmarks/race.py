"""The race: SimCLR on CIFAR-10 for equal wall-clock seconds: ours, stock lightly's loop and stable-pretraining.

    python benchmarks/race.py --seconds 600 data=npz data.path=cifar10.npz

The same small network, recipe (conf/experiment/cifar10/simclr.yaml) and images of 16 pixels. Each contender is a
process of its own. The seconds count from its command to its last step, start-up and compilation included. It trains
for as many epochs as fit in them, by the time of a run of one epoch and of one of two. The peers are used as they
document it: lightly's SimCLRTransform, head and loss in a loop; stable-pretraining's transforms, `Module`, `forward`,
loss and `Manager`, without its probes; both with --workers workers, and with the recipe's optimiser and schedule. All
networks are judged by the same command, on the test split. stable-pretraining is left out where it is not installed
(`pip install stable-pretraining`; it is no requirement of this project).
A contender that is in --folder is not trained again. Prints a table of the seeds and one JSON line. Let nothing else
run.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from runs import ROOT, judged, run, shown

RECIPE = (
    "experiment=cifar10/simclr", "data.crop=16", "backbone=small", "backbone.widths=[16,32,64,128]", "batch_size=256",
    "monitor.every=0", "trainer=cpu",
)  # fmt: skip


def recipe(overrides: list[str], epochs: int, seed: int) -> tuple[Any, list[Any]]:
    """The config, and the training images as Pillow's."""
    import numpy as np
    import torch
    from hydra import compose, initialize_config_dir
    from PIL import Image

    from siamese import factory

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [*overrides, f"seed={seed}", f"epochs={epochs}"])
    torch.manual_seed(seed)
    data = factory.data_set(cfg)
    cfg, _ = factory.resolve_images(cfg, data.pretrain)
    pixels = data.pretrain.images.read(torch.arange(len(data.pretrain))).images
    return cfg, [Image.fromarray(np.ascontiguousarray(p.permute(1, 2, 0).numpy())) for p in pixels]


def lightly_loop(overrides: list[str], epochs: int, seed: int, workers: int) -> Any:
    """The backbone, trained as lightly's documentation does."""
    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms.simclr_transform import SimCLRTransform
    from torch.utils.data import DataLoader, Dataset

    from siamese import factory
    from siamese.config import make

    cfg, images = recipe(overrides, epochs, seed)
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
    return backbone


def stable_pretraining(overrides: list[str], epochs: int, seed: int, workers: int) -> Any:
    """The backbone, trained as stable-pretraining's CIFAR-10 benchmark does, without its probes and its logger."""
    import lightning
    import stable_pretraining as spt
    from stable_pretraining import forward
    from stable_pretraining.data import transforms
    from torch.utils.data import DataLoader

    from siamese import factory
    from siamese.config import make

    cfg, images = recipe(overrides, epochs, seed)
    view = transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop((cfg.data.crop, cfg.data.crop)),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.ToImage(mean=list(cfg.data.mean), std=list(cfg.data.std)),
    )
    photos = spt.data.FromTorchDataset(
        [(image, 0) for image in images],
        names=["image", "label"],
        transform=transforms.MultiViewTransform([view, view]),
    )
    loader = DataLoader(photos, cfg.batch_size, shuffle=True, drop_last=True, num_workers=workers)
    backbone = factory.backbone(cfg)
    projector = spt.backbone.MLP(backbone.feature_dim, [512, 128], norm_layer="batch_norm")
    groups = [{"params": [*backbone.parameters(), *projector.parameters()]}]
    optimizer, schedule = make(cfg.optimizer).build(groups, cfg.batch_size, len(loader), epochs)
    criterion = spt.losses.NTXEntLoss(cfg.method.temperature)
    module = spt.Module(
        backbone=backbone, projector=projector, forward=forward.simclr,
        simclr_loss=lambda z1, z2: 2 * criterion(z1, z2),  # as above
        optim={"optimizer": partial(lambda _: optimizer), "scheduler": partial(lambda _: schedule), "interval": "step"},
    )  # fmt: skip
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, num_sanity_val_steps=0
    )
    spt.Manager(trainer=trainer, module=module, data=spt.data.DataModule(train=loader), seed=seed)()
    return backbone


PEERS = {"lightly": lightly_loop, "stable_pretraining": stable_pretraining}


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
        command = [sys.executable, __file__, "--peer", name, str(folder / "backbone.pt"), "--epochs", str(epochs),
                   "--seed", str(seed), "--workers", str(a.workers), *RECIPE, *overrides]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "ssl"), "SPT_CACHE_DIR": str(folder.resolve() / "cache")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
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
    parser.add_argument("--workers", type=int, default=2, help="of a peer's loader")
    parser.add_argument("--folder", type=Path, default=Path("outputs/race"))
    parser.add_argument("--peer", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    a, overrides = parser.parse_known_args()
    if a.peer:
        name, file = a.peer
        import torch

        backbone = PEERS[name](overrides, a.epochs, a.seed, a.workers)
        return torch.save({f"backbone.{k}": v for k, v in backbone.state_dict().items()}, file)
    out: dict[str, Any] = {}
    print("| contender | epochs | seconds | kNN | linear |", "|---" * 5 + "|", sep="\n")
    for name in ("siamese", *PEERS):
        if name != "siamese" and importlib.util.find_spec(name) is None:
            print(f"| {name} is left out: it is not installed |", flush=True)
            continue
        where = a.folder / name
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
