"""``mode=check`` and ``mode=preview`` of train.py: what the images are, before anything is trained."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from siamese import factory, training
from siamese.config import to_dict
from siamese.data import DataSet, ImageStore
from siamese.data.duplicates import named_pairs, repeated, shared
from siamese.data.encoded import encoded
from siamese.data.packed import PackedImages
from siamese.data.survey import Survey, longest_ratio, survey
from siamese.environment import device_name
from siamese.errors import UserError
from siamese.output import console, print_table
from siamese.training import report
from siamese.training.build import Plan, Training
from siamese.training.devices import make_trainer

DECODED = 20_000  # images of a split that are decoded, a seeded choice
STEPS, WARM_UP = 10, 2  # optimiser steps that are timed, after some that are not


def check(cfg: DictConfig) -> None:
    """Print tables about the images, the settings that were measured, and the time that the run would take.

    Nothing is trained beyond `STEPS` steps, and nothing is written.

    Raises:
        UserError: the images or the settings cannot work; what is known until then has been printed.
    """
    plan, shown_on = training.check(cfg), console()
    threads = max(1, plan.cfg.data.workers)
    items, notes = encoded(to_dict(plan.cfg.data))
    for note in notes:
        shown_on.print(note, soft_wrap=True)
    for part, one in items.items():
        print_survey(shown_on, part, survey(one, plan.cfg.data.max_pixels, threads, DECODED))
    data = factory.data_set(plan.cfg)
    for line in duplicates(data):
        shown_on.print(line, soft_wrap=True)
    store = data.pretrain.images
    if isinstance(store, PackedImages) and not store.file.where.is_dir():  # packing would write
        shown_on.print(f"{packed_size(store)}; not packed yet: the first run packs them, after which mode=check also "
                       "measures statistics and time", soft_wrap=True)  # fmt: skip
        return
    built = training.build(plan)
    report.print_settings(report.settings(built), shown_on)
    for line in [*report.remarks(built), packed_size(built.split.images), duration(plan, built)]:
        shown_on.print(line, soft_wrap=True)


def print_survey(shown_on: Console, part: str, found: Survey) -> None:
    """A table of formats, and lines about sizes, unreadable and constant images."""
    of = f"{found.read:,} of {found.images:,} images" if found.read < found.images else f"{found.images:,} images"
    table = Table(title=f"{part}: {of}", title_justify="left")
    for column in ("format", "mode", "channels", "type", "images"):
        table.add_column(column, justify="right" if column in ("channels", "images") else "left")
    for kind, count in found.kinds.most_common():
        table.add_row(*map(str, kind), f"{count:,}")
    print_table(shown_on, table)
    lines = []
    if found.sizes:
        ratio = longest_ratio(found.sizes)
        lines.append(
            f"sizes (height x width): {found.size_range()}; longest sides are up to {ratio:.3g} times the short ones"
        )
    for reason, names in sorted(found.unreadable.items()):
        lines.append(f"unreadable: {len(names):,}, {reason}: {_some(names)}")
    if found.constant:
        lines.append(f"constant: {len(found.constant):,}: {_some(found.constant)}")
    lines.append(f"decoding: {found.read / found.seconds:,.0f} images/s on {found.threads} threads")
    for line in lines:
        shown_on.print(line, soft_wrap=True)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def duplicates(data: DataSet) -> list[str]:
    """Lines about equal images within the training split, and between it and the others."""
    train = data.pretrain.images
    groups = repeated(train)
    same = [(group[1], group[0]) for group in groups]
    found = [("training images equal another one", sum(map(len, groups)) - len(groups), same, train)]
    for part, other in (("validation", data.val if data.published_val else None), ("test", data.test)):
        if other is not None:
            pairs = shared(train, other.images)
            found.append((f"{part} images are training images", len(pairs), pairs, other.images))
    lines = []
    for what, count, pairs, store in found:
        names = _some(named_pairs(train, pairs[:4], store))
        lines.append(f"duplicates: {count:,} {what}{': ' if names else ''}{names}")
    return lines


def packed_size(store: ImageStore) -> str:
    """What a packed file of the training split takes."""
    side = f"{store.sizes[0]} x {store.sizes[1]} pixels"
    return f"packed or resident: {store.nbytes / 1e9:,.3g} GB for {len(store):,} images of {side}"


class _Timer(pl.Callback):
    """Seconds of `wanted` optimiser steps after `warm_up` ones."""

    def __init__(self, warm_up: int, wanted: int) -> None:
        self.warm_up, self.wanted = warm_up, wanted
        self.seconds, self.steps, self.start = 0.0, 0, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        done = trainer.global_step
        if done < self.warm_up or (done == self.warm_up and self.start) or self.steps == self.wanted:
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        if not self.start:
            self.start = time.perf_counter()
        else:
            self.steps, self.seconds = done - self.warm_up, time.perf_counter() - self.start


def duration(plan: Plan, built: Training) -> str:
    """The time that the training would take, measured by a few steps. Nothing is written."""
    cfg, steps = plan.cfg, built.method.steps_per_epoch
    if built.trainer.world_size > 1:
        return f"time: not measured on {built.trainer.world_size} devices; give trainer.devices=1"
    if steps < WARM_UP + 1:
        return f"time: not measured, an epoch has {steps} steps"
    # Worker processes read ahead, two batches each, and deliver them in bursts: neither may pass for speed.
    ahead = 2 * cfg.data.workers if built.loader.loader is not None else 0
    timer, short = _Timer(WARM_UP + ahead, max(STEPS, ahead)), cfg.copy()
    if steps < timer.warm_up + 1:
        return f"time: not measured, an epoch has {steps} steps, {timer.warm_up} of them read ahead"
    short.epochs = 1
    trainer = make_trainer(short, min(timer.warm_up + timer.wanted, steps), built.method.sync_batchnorm, [])
    trainer.callbacks.append(timer)  # type: ignore[attr-defined]
    trainer.fit(built.method, train_dataloaders=built.loader)
    each = timer.seconds / timer.steps
    hours = each * steps * cfg.epochs / 3600
    span = f"{hours:.3g} hours" if hours >= 1 else f"{60 * hours:.3g} minutes"
    return (
        f"time: {each:.3g} s a step, {cfg.batch_size / each:,.0f} images/s on {device_name(built.loaders.device)}; "
        f"{cfg.epochs} epochs of {steps} steps would take {span}, without evaluation ({timer.steps} steps measured)"
    )


def preview(cfg: DictConfig) -> None:
    """Write views.png of the first images and their views into the run folder, and nothing else.

    Raises:
        UserError: the images or the settings cannot work.
    """
    if cfg.resume:
        raise UserError(f"mode=preview resume={str(cfg.resume).lower()}", "exclude each other", "leave resume out")
    built = training.build(training.check(cfg))
    for line in report.remarks(built):
        built.console.print(line, soft_wrap=True)
    folder = built.plan.folder
    folder.mkdir(parents=True, exist_ok=True)
    report.views_picture(folder / "views.png", built.views, built.loader, built.plan.cfg.data.show)
    built.console.print(f"views: {folder / 'views.png'}", soft_wrap=True)
