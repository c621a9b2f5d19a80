"""Started by tests/test_distributed.py: each method for five steps in float64, by two gloo processes and by one process
on the joint batch. Saves what the test compares."""

import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from method_cases import settings, view_sizes
from paths import ROOT
from torch import nn

from siamese import distributed, factory
from siamese.batchnorm import SyncBatchNorm, convert_batchnorm
from siamese.data import Loader, Split
from siamese.data.crops import RandomCrops, ViewCrop
from siamese.data.files import ImageFiles, Kind
from siamese.methods import Batch
from siamese.options import options
from siamese.probes import metrics
from siamese.training.callbacks.online import OnlineEvaluation
from siamese.training.state import RunState

CASES = {f"simclr-{loss}": ("simclr", f"method/loss={loss}") for loss in options("method/loss")}
CASES |= {name: (name,) for name in options("method") if name != "simclr"}
CASES["moco-symmetric"] = ("moco", "method.symmetric=true", "method.queue_size=48")
CASES["swav-queue"] = ("swav", "method.queue_size=24", "method.queue_from_epoch=3")
CASES["lejepa-pooled"] = ("lejepa", "method.regularizer.pool_views=true", "method.centre=global")
BATCH, STEPS = 8, 5


class Loss(nn.Module):
    """What DDP wraps: it wants a forward."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, views, labels):
        return self.method.loss(views, labels) if self.method.uses_labels else self.method.loss(views)


def train(case: str, world: int, rank: int) -> dict:
    name, *overrides = CASES[case]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [f"method={name}", *settings(name), *overrides])
    if "bn_splits" in cfg.method and world == 1:
        cfg.method.bn_splits = 2
    if "queue_size" in cfg.method and case == name:
        cfg.method.queue_size = 24  # wraps within five steps
    torch.manual_seed(0)
    method = factory.method(
        cfg, factory.backbone(cfg), SimpleNamespace(labelled=True, multilabel=False, num_classes=3, name="none")
    ).double()
    module = Loss(method)
    if world > 1:
        if method.sync_batchnorm:
            convert_batchnorm(method, SyncBatchNorm)
        module = nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)
    method.train()
    optimizer = torch.optim.SGD(method.param_groups(), lr=0.1, momentum=0.9)
    data = torch.Generator().manual_seed(1)
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    out = {"losses": []}
    for step in range(STEPS):
        views = [torch.randn(BATCH, 3, size, size, generator=data, dtype=torch.float64) for size in view_sizes(name)]
        labels = torch.randint(0, 3, (BATCH,), generator=data)
        torch.manual_seed(100 + step)  # MoCo's shuffling
        method.step = step
        loss = module([v[share] for v in views], labels[share])
        optimizer.zero_grad()
        loss.backward()
        out["losses"].append(distributed.gather(loss.view(1)).mean().item())
        if step == 0:
            out["gradients"] = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
        method.on_before_optimizer_step(optimizer)
        optimizer.step()
        method.after_step(step, STEPS)
    z = distributed.gather(method.projection)
    out["figures"] = [metrics.relative_std(z), metrics.rankme(z)]
    out["parameters"] = {n: p.detach().clone() for n, p in method.named_parameters()}
    out["buffers"] = {n: b.clone() for n, b in method.named_buffers()}
    return out


def probe(world: int, rank: int) -> torch.Tensor:
    """The online probe's weights after three steps."""
    torch.manual_seed(0)
    online = OnlineEvaluation(SimpleNamespace(num_classes=3), RunState(Path("x")), 1, 0.1)
    online.head = nn.Sequential(nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3)).double()
    online.optimizer = torch.optim.Adam(online.head.parameters(), lr=0.1)
    data = torch.Generator().manual_seed(1)
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    for _ in range(3):
        online.captured = torch.randn(BATCH, 5, generator=data, dtype=torch.float64)[share]
        labels = torch.randint(-1, 3, (BATCH,), generator=data)[share]
        online.on_train_batch_end(None, None, None, Batch([], labels), 0)
    return online.head[1].weight.detach()


def crops(world: int, folder: str) -> list[tuple[list[torch.Tensor], torch.Tensor]]:
    """This process's views and labels of two epochs of image files, cut by worker processes."""
    files = sorted(Path(folder, "photos").iterdir())
    store = ImageFiles(files, 8, Kind(4, np.dtype(np.uint16), 10_000))
    cutter = RandomCrops(
        7, [ViewCrop(6, (0.2, 1), (0.75, 1.33), "bilinear", 20.0), ViewCrop(5, (0.1, 0.5), (1, 1), "bicubic")]
    )
    loader = Loader(Split(store, torch.arange(len(files))), 6 // world, True, False, workers=2, seed=3, cutter=cutter)
    out = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        out += [(images, labels) for images, labels, _ in loader]
    return out


def main(folder: str) -> None:
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    two = {case: train(case, 2, rank) for case in CASES} | {"probe": probe(2, rank), "crops": crops(2, folder)}
    dist.destroy_process_group()
    torch.save(two, f"{folder}/two-{rank}.pt")
    if rank == 0:
        torch.save(
            {case: train(case, 1, 0) for case in CASES} | {"probe": probe(1, 0), "crops": crops(1, folder)},
            f"{folder}/one.pt",
        )


if __name__ == "__main__":
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated")
    main(sys.argv[1])
