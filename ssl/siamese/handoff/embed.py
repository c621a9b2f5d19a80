"""`siamese embed`: features of images in a file, streamed; an interrupted command goes on where it was."""

import contextlib
import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from siamese import factory
from siamese.data import Loader, LoaderConfig
from siamese.environment import command_line, keep_freed_memory, limit_threads, versions
from siamese.errors import RunAborted, UserError
from siamese.evaluation import settings
from siamese.evaluation.build import check_values
from siamese.evaluation.customary import customary
from siamese.files import NO_ROOM, FolderLock, reserve, write, write_json
from siamese.handoff import neighbours, network, tables
from siamese.handoff.rows import Rows, parts_of
from siamese.output import console
from siamese.paths import expand_path
from siamese.probes.features import forward
from siamese.progress import Progress
from siamese.schema import check_embed

# What may be written beside `out`, after its whole name.
BESIDE = ("about.json", "skipped.txt", "names.csv", "neighbours.png", "neighbours.html", "duplicates.csv")
SAVED_EVERY = 10.0  # seconds between two notes of the position


@dataclass(frozen=True)
class Job:
    """A checked embedding.

    Args:
        cfg: conf/embed.yaml.
        out: the file to write.
        trained: the network.
        rows: names and labels.
        loading: how batches are made.
        device: of the computation.
        console: prints.
    """

    cfg: DictConfig
    out: Path
    trained: network.Trained
    rows: Rows
    loading: LoaderConfig
    device: torch.device
    console: Console

    @property
    def work(self) -> Path:
        """Holds what is done so far; beside `out`."""
        return self.out.with_name(self.out.name + ".partial")

    def digest(self) -> str:
        """Equal if the same network sees the same images in the same batches."""
        found = hashlib.blake2b(network.digest(self.trained).encode(), digest_size=8)
        found.update(f"{self.cfg.batch_size} {self.device.type} {[p.name for p in self.rows.parts]}".encode())
        for part in self.rows.parts:
            found.update(f"{len(part.split)} {self.loading.cuts_files(part.split)}".encode())
            part.split.images.update_digest(found)
        return found.hexdigest()


def embed(cfg: DictConfig) -> Path:
    """Write the features of all images of a data set; see conf/embed.yaml. Returns the file.

    Raises:
        UserError: settings, checkpoint or images cannot work; nothing has been written.
        RunAborted: the disk is full, or no image can be read.
    """
    job = check(cfg)
    keep_freed_memory()
    limit_threads()
    with FolderLock(job.work, f"out={job.out}"):
        try:
            features, kept, skipped = _extract(job)
            _write(job, features, kept, skipped)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise RunAborted(f"{job.out} cannot be written ({error}); make room, then give the same command") from error
        except UserError:  # an image that may not be skipped
            shutil.rmtree(job.work, ignore_errors=True)
            raise
        shutil.rmtree(job.work)
    return job.out


def check(cfg: DictConfig) -> Job:
    """Check the config, read network and images.

    Raises:
        UserError: as `embed`.
    """
    check_embed(cfg)
    shown_on = console()
    if cfg.out is None:
        raise UserError("out=null", "no file was given", f"give out=FILE, ending in {', '.join(tables.FORMATS)}")
    out = expand_path(cfg.out, "out")
    tables.check_format(out)
    _check_place(out, cfg.overwrite)
    ckpt = None if OmegaConf.is_missing(cfg, "ckpt") else cfg.ckpt
    source = network.read(ckpt, cfg.foreign, cfg.trust_config, {k: v for k, v in cfg.data.items() if k != "on_error"})
    judged = source.judged
    if "on_error" in judged.data:
        judged.data.on_error = cfg.data.on_error or "skip"
    if "val_fraction" in judged.data:
        judged.data.val_fraction = None  # no label is held out
    data = factory.data_set(judged)
    if not source.ours and source.state is not None:
        judged = customary(judged, source.given, data.pretrain.images, shown_on)
    check_values(judged, data, range_is_theirs=not source.ours or source.given.has("data.value_range"))
    judged, measured = factory.resolve_images(judged, data.pretrain)
    if measured:
        shown_on.print(f"images: {measured}", soft_wrap=True)
    device = settings.resolve_device(cfg.device)
    trained = network.build(source, judged, device)
    if trained.told:
        shown_on.print(trained.told, soft_wrap=True)
    path = judged.data.get("path")
    root = expand_path(path, "data.path") if path is not None else None
    rows = Rows(parts_of(data), data.classes, root)
    return Job(cfg, out, trained, rows, factory.loader_config(judged, device, data), device, shown_on)


def _check_place(out: Path, overwrite: bool) -> None:
    """Refuse a place that holds something, or cannot be written to."""
    if out.is_dir():
        raise UserError(f"out={out}", "is a folder", "give a file")
    begun = out.with_name(out.name + ".partial").is_dir()  # an interrupted command may have put some into their places
    beside = [] if begun else [out.with_name(f"{out.name}.{kind}") for kind in BESIDE]
    there = next((file for file in (out, *beside) if os.path.lexists(file)), None)
    if there is not None and not overwrite:
        what = "is there already" if there == out else f"{there.name} is there already"
        raise UserError(f"out={out}", what, "add overwrite=true, or choose another file")
    if not out.parent.is_dir():
        raise UserError(f"out={out}", f"{out.parent} is not a folder", "make it first")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"out={out}", f"{out.parent} cannot be written to", "choose another folder")


def _extract(job: Job) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(features (N, D) and the rows that could be read (N,), both mapped from files; names of files that could not)."""
    shape = (len(job.rows), job.trained.backbone.feature_dim)
    state_file, digest = job.work / "state.json", job.digest()
    state = _earlier(state_file, digest, shape)
    new = state is None
    state = state or {"digest": digest, "done": [0] * len(job.rows.parts), "skipped": []}
    features = _mapped(job.work / "features.npy", np.float32, shape, new)
    kept = _mapped(job.work / "kept.npy", np.bool_, shape[:1], new)
    done = sum(min(n * job.cfg.batch_size, len(p.split)) for n, p in zip(state["done"], job.rows.parts, strict=True))
    if done:
        job.console.print(f"continued at {done:,} of {len(job.rows):,} images", soft_wrap=True)
    progress, noted = Progress(job.console, len(job.rows), done, "images"), time.monotonic()

    def note() -> None:
        for array in (features, kept):
            array.flush()
        write_json(state_file, state)

    try:
        with progress:
            for number, part in enumerate(job.rows.parts):
                loader = job.loading.loader(
                    part.split, job.cfg.batch_size, False, cutter=factory.central_crop(job.trained.view)
                )
                loader.load_state_dict({"batches": state["done"][number], "skipped": []})
                start = job.rows.starts[number]
                for x, index in forward(job.trained.backbone, loader, job.trained.view, job.device):
                    _put(features, kept, x, index, start, state["done"][number] * job.cfg.batch_size)
                    state["done"][number] += 1
                    state["skipped"] = sorted({*state["skipped"], *_names(loader)})
                    progress.advance(len(index))
                    if time.monotonic() - noted > SAVED_EVERY:
                        note()
                        noted = time.monotonic()
    finally:
        note()
    return features, kept, state["skipped"]


def _put(features: np.ndarray, kept: np.ndarray, x: torch.Tensor, index: torch.Tensor, start: int, first: int) -> None:
    """Rows of a batch to their places; -1 in `index` is an image that could not be read."""
    at = slice(start + first, start + first + len(index))
    features[at] = x.cpu().numpy()
    kept[at] = (index >= 0).cpu().numpy()


def _names(loader: Loader) -> set[str]:
    return {name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in loader.skipped}


def _mapped(file: Path, dtype: Any, shape: tuple[int, ...], new: bool) -> "np.memmap[Any, Any]":
    if not new:
        return np.lib.format.open_memmap(file, "r+")
    made: np.memmap[Any, Any] = np.lib.format.open_memmap(file, "w+", dtype, shape)
    with file.open("r+b") as stream:
        reserve(stream.fileno(), file.stat().st_size)
    return made


def _earlier(file: Path, digest: str, shape: tuple[int, ...]) -> dict[str, Any] | None:
    """The position of an interrupted command with the same network and images, or None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        whole = np.lib.format.open_memmap(file.parent / "features.npy", "r").shape == shape
        if state["digest"] == digest and whole and (file.parent / "kept.npy").is_file():
            return state
    return None


def _write(job: Job, features: np.ndarray, kept: np.ndarray, skipped: list[str]) -> None:
    """The table, and what lies beside it; then a line about each."""
    out, say = job.out, job.console.print
    if not kept.any():
        raise RunAborted(f"none of the {len(kept):,} images could be read; first: {skipped[0] if skipped else '?'}")
    source, data = job.trained.source, job.trained.cfg.data
    view = job.trained.view
    about = {
        **source.about(),
        "embedded": {"data": data.name, "path": None if data.get("path") is None else str(data.path),
                     "images": int(kept.sum()), "skipped": int((~kept).sum())},
        "view": {"size": view.size, "center": view.center, "interpolation": view.interpolation,
                 "mean": view.mean.flatten().tolist(), "std": view.std.flatten().tolist()},
        "versions": versions(), "command": command_line(),
    }  # fmt: skip
    made = job.work / "made"
    shutil.rmtree(made, ignore_errors=True)  # of an earlier command
    made.mkdir()
    unfinished = made / out.name  # everything is written whole before anything is put into its place
    tables.write_table(unfinished, out.suffix, features, kept, job.rows.each(), about)
    if out.suffix == ".npy":
        tables.names_csv(made / f"{out.name}.names.csv", kept, job.rows.each())
    write_json(made / f"{out.name}.about.json", about)
    dim = features.shape[1]
    say(
        f"features: {out}, {int(kept.sum()):,} images x {dim} ({', '.join(p.name for p in job.rows.parts)})",
        soft_wrap=True,
    )
    if skipped:
        listed = f"{out.name}.skipped.txt"
        write(made / listed, "\n".join(skipped) + "\n")
        say(f"skipped: {len(skipped):,} unreadable images, listed in {out.with_name(listed)}", soft_wrap=True)
    if job.cfg.neighbours:
        for line in neighbours.show(job.cfg, unfinished, out.parent, job.trained, job.rows, features, kept):
            say(line, soft_wrap=True)
    for kind in BESIDE:
        file = out.with_name(f"{out.name}.{kind}")
        if (made / file.name).is_file():
            os.replace(made / file.name, file)
        else:
            file.unlink(missing_ok=True)  # of the file that this one replaces
    os.replace(unfinished, out)  # last: until then the same command goes on
