"""What a run shows at its end: the table with its baselines, and views.png."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from torch import Tensor

from siamese.augment import View, Views
from siamese.data import Loader
from siamese.evaluation import Features, LinearGrid, LinearResult
from siamese.monitor.probes import Probe


def figures(features: dict[str, Features], probe: Probe, grid: LinearGrid) -> dict[str, float]:
    """kNN and linear top-1 on the validation part. The linear head is chosen on every tenth sample of the
    fitting part, so the validation part chooses nothing."""
    fit = features["fit"]
    tenth = torch.arange(len(fit), device=fit.x.device) % 10 == 0
    chosen: LinearResult = grid.choose(
        fit.subset((~tenth).nonzero().squeeze(1)), fit.subset(tenth.nonzero().squeeze(1)), probe.num_classes
    )
    linear = grid.score(fit, features["val"], probe.num_classes, chosen)
    return {"knn_top1": probe.knn(features), "linear_top1": linear.top1}


def closing_table(rows: dict[str, dict[str, float]], title: str) -> Table:
    """Top-1 in percent, a row a kind of features."""
    table = Table(title=title, title_justify="left")
    table.add_column("features")
    table.add_column("kNN top-1 %", justify="right")
    table.add_column("linear top-1 %", justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{100 * row[key]:.2f}" for key in ("knn_top1", "linear_top1")))
    return table


def printed_config(rows: dict[str, Any], console: Console) -> None:
    """What was picked, a line each."""
    for name, text in rows.items():
        console.print(f"{name:>9}  {text}", highlight=False, markup=False)


def views_picture(file: Path, views: Views, loader: Loader, count: int = 8, tile: int = 96) -> None:
    """A column an image: the image, and under it its augmented views as the network sees them.

    The views' generator is left as it was, so the picture changes nothing in the run.
    """
    images, _, aspect = next(iter(loader))
    images, aspect = images[:count], None if aspect is None else aspect[:count]
    state = views.generator.get_state()
    device = images.device
    made = views.to(device)(images, aspect)
    views.generator.set_state(state)
    rows = [images.float() / 255]
    for view, x in zip(views.views, made, strict=True):
        assert isinstance(view, View)
        rows.append((x * view.std.view(-1, 1, 1) + view.mean.view(-1, 1, 1)).clamp(0, 1))
    labels = ["image", *(f"view {i + 1}" for i in range(len(made)))]
    picture = _grid([r.cpu() for r in rows], labels, tile)
    picture.save(file)


def _grid(rows: list[Tensor], labels: list[str], tile: int) -> Image.Image:
    margin, gap = 60, 2
    width, height = margin + len(rows[0]) * (tile + gap), len(rows) * (tile + gap) + gap
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        top = gap + i * (tile + gap)
        draw.text((6, top + tile // 2 - 6), label, fill="black")
        for j, image in enumerate(row):
            array = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            mode = Image.Resampling.NEAREST if max(image.shape[-2:]) < tile else Image.Resampling.BILINEAR
            picture.paste(Image.fromarray(array).resize((tile, tile), mode), (margin + j * (tile + gap), top))
    return picture
