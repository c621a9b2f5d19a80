"""What a run shows: its settings, the closing table, views.png."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from torch import Tensor

from siamese.augment import View, Views
from siamese.data import Loader
from siamese.environment import device_name

if TYPE_CHECKING:
    from siamese.training.build import Training


def closing_table(rows: dict[str, dict[str, float]], title: str) -> Table:
    """Top-1 in percent, one row per kind of features."""
    table = Table(title=title, title_justify="left")
    table.add_column("features")
    table.add_column("kNN top-1 %", justify="right")
    table.add_column("linear top-1 %", justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{100 * row[key]:.2f}" for key in ("knn_top1", "linear_top1")))
    return table


def settings(training: "Training") -> dict[str, str]:
    """What a run prints at its start: name and text of each line."""
    t, cfg = training, training.plan.cfg
    trainable = sum(p.numel() for p in t.method.parameters() if p.requires_grad)
    labels = "no labels" if not t.data.labelled else f"{len(t.data.val):,} labels held out for validation"
    return {
        "method": f"{cfg.method.name}: {cfg.backbone.name}, {t.method.backbone.feature_dim} features, "
        f"{trainable / 1e6:.2f} M trainable parameters",
        "data": f"{t.data.name}: {t.loaders.describe(t.split)}; {labels}",
        **({"note": "; ".join(t.data.notes)} if t.data.notes else {}),
        "views": t.views_note,
        "training": f"{cfg.epochs} epochs of {t.method.steps_per_epoch} steps, "
        f"global batch {cfg.batch_size}, peak learning rate {t.plan.optimizer.peak_lr(cfg.batch_size):.4g}",
        "device": f"{device_name(t.loaders.device)}, precision {cfg.trainer.precision}, "
        f"networks {'' if cfg.compile else 'not '}compiled",
        "run": str(t.plan.folder),
    }


def remarks(training: "Training") -> list[str]:
    """Further lines at the start of a run."""
    t, cfg = training, training.plan.cfg
    point, micro_batches = t.plan.resume_from, cfg.trainer.accumulate_grad_batches
    lines = []
    if micro_batches > 1:
        lines.append(
            f"{micro_batches} accumulated micro-batches: BatchNorm and negatives of a batch see one micro-batch each; "
            "schedule, EMA and queue move once per optimiser step"
        )
    if cfg.init_from is not None and point is None:
        lines.append(f"backbone from {cfg.init_from} ({t.started_from})")
    if point is not None:
        lines.append(f"continued from {point.file}, step {point.state['global_step']}")
    return lines


def print_settings(rows: dict[str, str], console: Console) -> None:
    """One line per setting."""
    for name, text in rows.items():
        console.print(f"{name:>9}  {text}")


def views_picture(file: Path, views: Views, loader: Loader, count: int = 8, tile: int = 96) -> None:
    """One column per image: the image, and below it its augmented views as the network sees them.

    The state of the views' generator is restored, so that the picture changes nothing in the run.
    """
    images, _, aspect_ratio = next(iter(loader))
    images, aspect_ratio = images[:count], None if aspect_ratio is None else aspect_ratio[:count]
    state = views.generator.get_state()
    device = images.device
    made = views.to(device)(images, aspect_ratio)
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
