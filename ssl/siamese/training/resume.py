"""Resuming a run: the checkpoint to continue from, and the checks that it continues exactly."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from siamese import run_dir
from siamese.checkpoints import reading
from siamese.checkpoints.reading import KEY
from siamese.config import to_dict
from siamese.errors import UserError
from siamese.methods import Method
from siamese.recipe import as_measured, changed_recipe
from siamese.schema.saved import check_plain, upgraded

Stamps = list[tuple[str, int, int, int]]


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a run continues from.

    Args:
        file: `last.ckpt` or `previous.ckpt`.
        state: its content.
        setting: how the run was asked to resume, for messages.
        files: the checkpoints of the folder before it was read, as `stamps` gives them.
    """

    file: Path
    state: dict[str, Any]
    setting: str
    files: Stamps

    @property
    def meta(self) -> dict[str, Any]:
        """What `SaveCheckpoints` adds to Lightning's state."""
        return self.state[KEY]  # type: ignore[no-any-return]

    @property
    def skipped(self) -> set[str]:
        """Files of the training that could not be read."""
        loader = self.state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
        return set(loader.get("skipped", ()))


def find_resume_point(cfg: DictConfig, folder: Path) -> ResumePoint:
    """The checkpoint of a run folder, once it is known to fit the config.

    Raises:
        UserError: no checkpoint can be read, the recipe has changed, or the run has finished.
    """
    files = stamps(folder)
    file, state = reading.newest(folder / "checkpoints")
    setting = f"resume={str(cfg.resume).lower()} run_dir={cfg.run_dir}"
    before = state[KEY]["config"]
    check_plain(before, setting)
    try:
        loop = state["loops"]["fit_loop"]
        in_mid_epoch = loop["state_dict"]["combined_loader"][0]["batches"] > 0  # see `Loader.state_dict`
        done = loop["epoch_progress"]["current"]["processed"]
        if not isinstance(done, int) or not 0 <= done < 2**53:
            raise TypeError(f"{done} epochs")
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(setting, f"{file} does not hold a training state ({error!r})", "start another run") from error
    step: Any = state.get("global_step")
    changed = changed_recipe(before, to_dict(as_measured(cfg, before)), in_mid_epoch)
    if changed:
        raise UserError(
            setting,
            f"the run was started with another recipe: {', '.join(changed)}",
            f"give the settings that {folder}/config.yaml holds, or start another run with init_from=",
        )
    if done > cfg.epochs:
        raise UserError(f"epochs={cfg.epochs}", f"{folder} has trained {done} epochs already", f"give {done} or more")
    # A run that was killed before its closing table resumes with that table.
    same_callbacks = upgraded(before).get("callbacks") == to_dict(cfg.callbacks)
    if (done == cfg.epochs or same_callbacks) and run_dir.finished(folder, cfg.epochs, step):
        raise UserError(
            setting,
            f"the run has finished its {done} epochs",
            f"give more {'epochs=' if done == cfg.epochs else 'patience'}, or read {folder}/summary.json",
        )
    return ResumePoint(file, state, setting, files)


def stamps(folder: Path) -> Stamps:
    """Name, number on the disk, time and size of each checkpoint of a run folder."""
    found = [(folder / "checkpoints" / name) for name in ("last.ckpt", "previous.ckpt")]
    about = [(file.name, file.stat()) for file in found if file.is_file()]
    return [(name, s.st_ino, s.st_mtime_ns, s.st_size) for name, s in about]


def check_untouched(folder: Path, point: ResumePoint | None) -> None:
    """Refuse to go on where another process has saved since the resume point was read, or since there was none.

    Raises:
        UserError: it has.
    """
    if stamps(folder) != ([] if point is None else point.files):
        raise UserError(f"run_dir={folder}", "another process has continued this run meanwhile", "start again")


def check_images(point: ResumePoint, images: int, labels: str) -> None:
    """Refuse to continue on another number of training images, or with other labels (`DataSet.labels_digest`)."""
    before = point.meta.get("images", images)
    if before != images:
        raise UserError(
            point.setting, f"the run was started on {before} images, {images} are there now", "check data.path"
        )
    if point.meta.get("labels", labels) != labels:
        raise UserError(
            point.setting, "classes, labels or the validation split have changed since the run was started",
            "check data.path and data.labels",
        )  # fmt: skip


def check_crops(point: ResumePoint, crops: str) -> None:
    """Refuse to continue with crops of other pixels.

    Args:
        crops: ``files`` if they are cut out of files at their own resolution, ``store`` if out of what a store keeps.
    """
    before = point.meta.get("crops", "store")  # runs before 2026-11-24 cut all crops out of squares
    if before != crops:
        of = {"files": "the files themselves (streamed)", "store": "squares of data.size (resident or packed)"}
        raise UserError(
            point.setting, f"the run cut its crops out of {of.get(before, before)}, now it would out of {of[crops]}",
            "set data.resident= and data.packed= as they were",
        )  # fmt: skip


def check_resumable(state: dict[str, Any], method: Method, setting: str) -> None:
    """Refuse a training state that is incomplete.

    Args:
        state: the content of a checkpoint of ours.
        method: the method that is to continue, before Lightning wraps it.
        setting: for the message.

    Raises:
        UserError: names `setting` and the parts that are missing or damaged.
    """
    own, found, meta = method.state_dict(), state["state_dict"], state[KEY]
    tensors = sorted(str(k) for k in {*own, *found} if k not in own or k not in found or not _alike(own[k], found[k]))
    step, random = state.get("global_step"), meta.get("random")
    parts = {
        f"{len(tensors)} tensors ({', '.join(tensors[:3])})": not tensors,
        "global_step": isinstance(step, int) and 0 <= step < 2**53,
        "optimizer_states": _single(state.get("optimizer_states"), "param_groups", "state"),
        "lr_schedulers": _single(state.get("lr_schedulers"), "last_epoch"),
        "callbacks": isinstance(state.get("callbacks"), dict) and bool(state["callbacks"]),
        "pytorch-lightning_version": bool(re.match(r"\d+\.\d+", str(state.get("pytorch-lightning_version")))),
        "random states": _complete_random_states(random),
        "images": isinstance(meta.get("images", 0), int),
    }
    bad = [name for name, good in parts.items() if not good]
    if bad:
        raise UserError(setting, f"its checkpoint is damaged: {', '.join(bad)}", "start another run, or use init_from=")


def _alike(own: Any, found: Any) -> bool:
    if isinstance(own, Tensor):
        return isinstance(found, Tensor) and own.shape == found.shape and own.dtype == found.dtype
    return isinstance(found, dict)  # the generator of the views


def _single(states: Any, *keys: str) -> bool:
    return isinstance(states, list) and len(states) == 1 and isinstance(states[0], dict) and set(keys) <= set(states[0])


def _complete_random_states(states: Any) -> bool:
    """Whether there is a state of every generator, with a row for each process."""
    rows = states.values() if isinstance(states, dict) else ()
    whole = all(isinstance(x, Tensor) and x.dtype == torch.uint8 and x.ndim == 2 and x.shape[1] >= 16 for x in rows)
    return whole and isinstance(states, dict) and {"torch", "views"} <= set(states)
