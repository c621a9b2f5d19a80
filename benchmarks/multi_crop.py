"""What an image costs with six more, smaller views beside two large ones.

    python benchmarks/multi_crop.py          about three minutes on two cores

Milliseconds an image on the CPU: rendering the views (C++ and torch), and one forward and backward pass of a backbone
over them, once a size. The SimCLR list; 2 x 32 against 2 x 32 + 6 x 16 pixels with the small backbone, 2 x 224 against
2 x 224 + 6 x 96 pixels with ResNet-18. The contenders in turn, medians over rounds. Prints a table and one JSON line.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from augment import smooth_images
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from siamese import factory
from siamese.augment import Views, described
from siamese.environment import keep_freed_memory
from siamese.methods.base import by_size

ROOT = Path(__file__).resolve().parents[1]
# Size of the views: size of the images, batch, list, backbone.
CASES = {32: (32, 128, "small/simclr", "small"), 224: (256, 16, "large/simclr", "resnet18")}
SMALLER = {32: 16, 224: 96}


def made(size: int, many: bool, compiled: bool) -> tuple[Views, nn.Module]:
    """The views and the backbone."""
    views = f"[{{count:2}},{{count:6,size:{SMALLER[size]},crop_scale:[0.05,0.14]}}]" if many else "[{count:2}]"
    _, _, recipe, backbone = CASES[size]
    overrides = [
        f"augment={recipe}", f"data.crop={size}", f"augment.views={views}", f"augment.compiled={compiled}",
        "augment.mean=[0.0,0.0,0.0]", "augment.std=[1.0,1.0,1.0]",
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [*overrides, f"backbone={backbone}"])
    made = factory.views(cfg)
    made.prepare(0, torch.device("cpu"))
    return made, factory.backbone(cfg)


def seconds(work: Callable[[], Any], least: float) -> float:
    """Seconds of one call, over calls of at least so many seconds."""
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < least:
        work()
        calls += 1
    return (time.perf_counter() - start) / calls


def passes(network: nn.Module, views: list[Tensor]) -> None:
    """Forward and backward over all views, once a size."""
    sum(x.square().mean() for x in by_size(network, views)).backward()  # type: ignore[union-attr]
    network.zero_grad()


def main() -> None:
    warnings.filterwarnings("ignore")  # of libraries about each other
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    keep_freed_memory()
    table = Table(title="milliseconds an image", title_justify="left")
    for column in ("views", "rendered in C++", "ratio", "rendered by torch", "ratio", "forward and backward", "ratio"):
        table.add_column(column, justify="right")
    out: dict[str, list[float]] = {}
    for size, (image, batch, _, _) in CASES.items():
        x = torch.from_numpy(smooth_images(batch, image)).permute(0, 3, 1, 2).contiguous()
        times: dict[bool, list[list[float]]] = {False: [], True: []}
        for _ in range(a.rounds):
            for many in times:
                (cpp, network), (plain, _) = made(size, many, True), made(size, many, False)
                work = (partial(cpp, x), partial(plain, x), partial(passes, network, cpp(x)))
                times[many].append([1000 * seconds(one, a.seconds) / batch for one in work])
        median = {
            many: [statistics.median(column) for column in zip(*rows, strict=True)] for many, rows in times.items()
        }
        for many, row in median.items():
            name = described(made(size, many, False)[0].sizes)
            cells = [(f"{value:.3g}", f"{value / two:.2f}") for value, two in zip(row, median[False], strict=True)]
            table.add_row(name, *(cell for pair in cells for cell in pair))
            out[name] = [round(value, 4) for value in row]
    Console(width=120).print(table)
    print(json.dumps({"torch_threads": torch.get_num_threads(), "ms_an_image": out}))


if __name__ == "__main__":
    main()
