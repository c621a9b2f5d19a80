"""What a run shows: its settings, the closing table, views.png."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from torch import Tensor

from siamese.augment import View, Views
from siamese.data import DataSet, Loader, listed
from siamese.data.labels import present
from siamese.data.packed import PackedImages
from siamese.environment import device_name
from siamese.intervals import proportion_interval
from siamese.probes import Features
from siamese.training.devices import precision_note
from siamese.training.probe import FEW, few_key

if TYPE_CHECKING:
    from siamese.training.build import Training

# Figures of the closing table and their columns.
CLOSING = {
    "knn_top1": "kNN top-1 %",
    "linear_top1": "linear top-1 %",
    "knn_map": "kNN mAP %",
    "linear_map": "linear mAP %",
    **{few_key(n): f"from {n} label{'s' if n > 1 else ''} a class %" for n in FEW},
}
FIGURES = (*CLOSING, "feature_rank")  # of the closing table, for every logger


def closing_table(rows: dict[str, dict[str, float]], title: str, images: int) -> Table:
    """Top-1 or macro mAP in percent, one row per kind of features, with half the width of the 95 % interval: of top-1
    on so many `images`, and from few labels over the choices of these."""
    table = Table(title=title, title_justify="left")
    table.add_column("features")
    keys = {key: told for row in rows.values() for key, told in CLOSING.items() if key in row}
    for told in keys.values():
        table.add_column(told, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(_with_interval(row, key, images) for key in keys))
    return table


def _with_interval(row: dict[str, float], key: str, images: int) -> str:
    """The figure of a column. mAP has no interval."""
    half = row.get(f"{key}_interval95", proportion_interval(row[key], images) if key.endswith("_top1") else None)
    return f"{100 * row[key]:.2f}" + ("" if half is None else f" ± {100 * half:.1f}")


def closing_title(data: DataSet, val: Features) -> str:
    """What the closing table is of."""
    if not data.multilabel:
        return f"{data.name}: top-1 on {len(val):,} validation images ± half its 95 % interval"
    judged = len(present(val.y))
    which = f"{judged}" if judged == data.num_classes else f"{judged} of {data.num_classes}"
    return f"{data.name}: mAP of {which} labels on {len(val):,} validation images"


def settings(training: "Training") -> dict[str, str]:
    """What a run prints at its start: name and text of each line."""
    t, cfg = training, training.plan.cfg
    trainable = sum(p.numel() for p in t.method.parameters() if p.requires_grad)
    what = "sets of labels" if t.data.multilabel else "labels"
    labels = "no labels" if not t.data.labelled else f"{len(t.data.val):,} {what} held out for validation"
    return {
        "method": f"{cfg.method.name}: {cfg.backbone.name}, {t.method.backbone.feature_dim} features, "
        f"{trainable / 1e6:.2f} M trainable parameters",
        "data": f"{t.data.name}: {t.loaders.describe(t.split)}; {labels}",
        **({"images": t.measured} if t.measured else {}),
        **({"note": "; ".join(t.data.notes)} if t.data.notes else {}),
        "views": t.views_note,
        "training": f"{cfg.epochs} epochs of {t.method.steps_per_epoch} steps, "
        f"global batch {cfg.batch_size}, peak learning rate {t.plan.optimizer.peak_lr(cfg.batch_size):.4g}",
        "device": f"{device_name(t.loaders.device)}, {precision_note(cfg)}, {t.compile_note}",
        "run": str(t.plan.folder),
    }


def remarks(training: "Training") -> list[str]:
    """Further lines at the start of a run."""
    t, cfg = training, training.plan.cfg
    point, micro_batches = t.plan.resume_from, cfg.trainer.accumulate_grad_batches
    lines = []
    left_out = sorted({name for view in t.views.views for name in view.left_out})  # type: ignore[union-attr, operator]
    if left_out:
        lines.append(f"views without {', '.join(left_out)}: these need 3 channels, the images have {cfg.data.channels}")
    if t.data.labelled and t.data.multilabel:
        lines.append(
            "several labels an image: judged by mean average precision; no online probe, which takes one label"
        )
    store = t.split.images
    if isinstance(store, PackedImages) or (store.decodes and not t.loaders.cuts_files(t.split)):
        side, views = store.sizes[0], cast(Sequence[View], t.views.views)
        kinds = dict.fromkeys((view.size, view.settings["crop_scale"]) for view in views)
        shares = [f"{enlarged(side, size, scale):.0%} of the crops are enlarged to {size}" for size, scale in kinds]
        lines.append(f"images are kept as {side} x {store.sizes[1]} pixels (data.size); {', '.join(shares)}")
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


def enlarged(size: int, crop: int, scale: Sequence[float]) -> float:
    """The share of random crops of a square image that have a smaller area than the view.

    Args:
        size, crop: sides of the image and of the view, pixels.
        scale: bounds of the crop's share of the area, drawn uniformly.
    """
    low, high = scale
    smaller = (crop / size) ** 2
    return float(smaller > low) if low == high else min(max((smaller - low) / (high - low), 0.0), 1.0)


def print_settings(rows: dict[str, str], console: Console) -> None:
    """One line per setting."""
    for name, text in rows.items():
        console.print(f"{name:>9}  {text}", soft_wrap=not console.is_terminal)


def views_picture(
    file: Path, views: Views, loader: Loader, show: Sequence[int] | None = None, count: int = 8, tile: int = 96
) -> None:
    """One column per image: the image, and below it its augmented views as the network sees them.

    Args:
        show: three channels as red, green and blue; None is the first ones.

    The state of the views' generator is restored, so that the picture changes nothing in the run.
    """
    index = loader.sampler.order()[:count]
    images, _, aspect_ratio = next(iter(loader))
    some = [x[:count] for x in listed(images)]
    aspect_ratio = None if aspect_ratio is None else aspect_ratio[:count]
    device = some[0].device
    state = views.generator.get_state()
    made = views.to(device)(some if isinstance(images, list) else some[0], aspect_ratio)
    views.generator.set_state(state)
    assert isinstance(views.views[0], View)
    whole = listed(loader.store.read(index[: len(some[0])]).images)[0] if isinstance(images, list) else some[0]
    rows = [views.views[0].levels(whole.to(device)).float() / 255]
    for view, x in zip(views.views, made, strict=True):
        assert isinstance(view, View)
        rows.append((x * view.std.view(-1, 1, 1) + view.mean.view(-1, 1, 1)).clamp(0, 1))
    rows = [shown_colours(row, show) for row in rows]
    labels = ["image", *(f"view {i + 1}" for i in range(len(made)))]
    picture = grid([r.cpu() for r in rows], labels, tile)
    picture.save(file)


def shown_colours(images: Tensor, show: Sequence[int] | None) -> Tensor:
    """(B, C, H, W) to (B, 3, H, W). Of two channels the second one is green and blue; one is grey."""
    channels = images.shape[1]
    return images[:, [min(i, channels - 1) for i in range(3)] if show is None else list(show)]


def grid(rows: list[Tensor], labels: list[str], tile: int) -> Image.Image:
    """A row of tiles for each tensor (B, 3, h, w) in [0, 1], its label at the left.

    Args:
        tile: side of a tile, pixels.
    """
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
