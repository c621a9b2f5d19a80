"""What our batched views cost in accuracy: the same training with torchvision's own transforms, image by image.

    python benchmarks/transforms.py [OVERRIDES OF train.py …]
    python benchmarks/transforms.py --seeds 0,1 experiment=cifar10/simclr epochs=25 data=npz data.path=cifar10.npz

For every seed train.py's run is made twice with everything equal but the views: ours, then torchvision.transforms.v2
on each image in --workers processes. Prints top-1 on the validation split, images per second, and one JSON line.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision
import torchvision.transforms.v2 as T
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from siamese.augment import View, Views
from siamese.training import Run, build, check

ROOT = Path(__file__).resolve().parents[1]


def transform(view: View) -> T.Compose:
    """`view` as torchvision has it, in 8 bits until the normalisation.

    In float its hue makes NaN of a bicubic crop's overshoots."""
    s: dict[str, Any] = view.settings
    jitter = T.RandomApply([T.ColorJitter(*s["jitter"])], s["jitter_p"])
    blur = T.GaussianBlur(s["blur_kernel"], s["blur_sigma"])
    steps: list[nn.Module] = []
    if s["rotate_degrees"]:
        steps.append(T.RandomRotation(s["rotate_degrees"], T.InterpolationMode.BILINEAR))
    interpolation = T.InterpolationMode(s["interpolation"])
    steps += [
        T.RandomResizedCrop(view.size, s["crop_scale"], s["crop_ratio"], interpolation, antialias=True),
        T.RandomHorizontalFlip(s["flip_p"]),
        jitter,
        T.RandomGrayscale(s["gray_p"]),
        T.RandomApply([blur], s["blur_p"]),
        T.RandomSolarize(128, s["solarize_p"]),
        T.ToDtype(torch.float32, scale=True),
        T.Normalize(view.mean.tolist(), view.std.tolist()),
    ]
    if s["gray_first"]:
        at = steps.index(jitter)
        steps[at], steps[at + 1] = steps[at + 1], steps[at]
    return T.Compose(steps)


_transforms: list[T.Compose] = []  # of a worker


def _start(transforms: list[T.Compose]) -> None:
    torch.set_num_threads(1)
    _transforms.extend(transforms)


def _views(job: tuple[Tensor, int]) -> list[Any]:
    images, seed = job
    torch.manual_seed(seed)
    return [torch.stack([t(image) for image in images]).numpy() for t in _transforms]


class TorchvisionViews(Views):
    """In the place of `Views`: parts of a batch in worker processes, each with a seed out of the run's generator."""

    def __init__(self, ours: Views, workers: int):
        nn.Module.__init__(self)
        self.views, self.seed, self.generator, self.workers = ours.views, ours.seed, torch.Generator(), workers
        apart = multiprocessing.get_context("spawn")  # a fork would inherit CUDA and torch's threads
        self.pool = ProcessPoolExecutor(workers, apart, _start, ([transform(view) for view in self.views],))  # type: ignore[arg-type]
        self.start(rank=0)

    def forward(self, images: Tensor | list[Tensor], aspect_ratio: Tensor | None = None) -> list[Tensor]:
        assert isinstance(images, Tensor)  # no crops from files
        parts = images.cpu().chunk(self.workers)
        seeds = torch.randint(2**31, (len(parts),), generator=self.generator).tolist()
        made = list(self.pool.map(_views, zip(parts, seeds, strict=True)))
        return [torch.cat([torch.from_numpy(p) for p in view]).to(images.device) for view in zip(*made, strict=True)]


def main() -> None:
    warnings.filterwarnings("ignore")  # of libraries about each other
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", default="outputs/transforms")
    a, overrides = parser.parse_known_args()
    rows: list[dict[str, Any]] = []
    for seed in a.seeds.split(","):
        for kind in ("ours", "torchvision"):
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                own = [f"seed={seed}", f"run_dir={a.folder}/{kind}_{seed}", "overwrite=true", "monitor.every=0"]
                cfg = compose("train", [*overrides, *own])
            training = build(check(cfg))
            if kind == "torchvision":
                views = TorchvisionViews(training.views, a.workers)
                training.method.views = views
                training = replace(training, views=views)
            run = Run(training)
            run.start()
            run.fit()
            run.finish()
            run.close()
            summary = json.loads((run.folder / "summary.json").read_text())
            keys = ("seed", "knn_top1", "linear_top1", "images_per_second", "train_seconds")
            rows.append({"views": kind, **{k: summary[k] for k in keys}})
    print(f"\n{'views':12} {'seed':>4} {'kNN':>6} {'linear':>7} {'images/s':>9}")
    for r in rows:
        figures = f"{100 * r['knn_top1']:6.2f} {100 * r['linear_top1']:7.2f} {r['images_per_second']:9,.0f}"
        print(f"{r['views']:12} {r['seed']:>4} {figures}")
    for key, name in (("knn_top1", "kNN"), ("linear_top1", "linear")):
        ours, theirs = ([100 * r[key] for r in rows if r["views"] == kind] for kind in ("ours", "torchvision"))
        spread = ""
        if len(ours) > 1:
            spread = f", standard deviation over seeds {statistics.stdev(ours):.2f} and {statistics.stdev(theirs):.2f}"
        print(f"{name}: ours minus torchvision {statistics.mean(ours) - statistics.mean(theirs):+.2f} points{spread}")
    about = {"device": summary["device"], "cores": os.cpu_count(), "python": platform.python_version()}
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    print(json.dumps({"benchmark": "transforms", "overrides": overrides, "rows": rows, **about, **versions}))


if __name__ == "__main__":
    main()
