"""The run folder: choose it, check that it holds no other run, lock it, write the config into it."""

import json
import os
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from siamese.config import in_sweep
from siamese.distributed import is_rank_zero
from siamese.errors import UserError
from siamese.files import FolderLock, write
from siamese.paths import expand_path

# The files that a run writes. A folder that has one of these holds a run, and overwriting removes only these. The
# folders of wandb's own runs stay.
WRITTEN = (
    *("config.yaml", "summary.json", "results.json", "metrics.csv", "views.png", "report.html", "report.json"),
    *("config.tmp", "summary.tmp", "results.tmp", "metrics.tmp", "report.tmp"),
    *("checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/last.tmp", "checkpoints/previous.tmp"),
    *("tensorboard/events.out.tfevents.*", "tensorboard/hparams.yaml"),
)


def _written(folder: Path) -> list[Path]:
    return [f for pattern in WRITTEN for f in (folder.glob(pattern) if "*" in pattern else [folder / pattern])
            if os.path.lexists(f)]  # fmt: skip


def _unusual(path: Path) -> bool:
    """True for a link, for a file where a run has a folder (or the reverse), and for a lock file with content."""
    if not os.path.lexists(path):
        return False
    if path.is_symlink() or path.is_dir() != (path.name in ("checkpoints", "tensorboard")):
        return True
    return path.name == ".lock" and path.stat().st_size > 0


def resolve_run_dir(cfg: DictConfig, default: str) -> Path:
    """The run folder: `run_dir`, or `default`/<date>_<time>. Trials of a sweep are numbered: train.py's lie in the
    sweep's folder, eval_linear.py's are `run_dir`/<number> or `default`/<date>_<time>_<number>.

    Processes that Lightning starts for further devices read the first process's choice from an environment variable.
    """
    inherited = os.environ.get("SIAMESE_RUN_DIR")
    if inherited and not is_rank_zero():
        return Path(inherited)
    trial = f"{HydraConfig.get().job.num:02d}" if in_sweep() else ""
    if trial and "sweep" in HydraConfig.get().callbacks:  # `siamese.sweep` has chosen a folder
        folder = Path(HydraConfig.get().sweep.dir) / trial
    elif cfg.run_dir is not None:
        folder = expand_path(cfg.run_dir, "run_dir") / trial
    else:
        # Microseconds, because the jobs of an array start within one second.
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f") + (f"_{trial}" if trial else "")
        folder = Path(default) / stamp
    os.environ["SIAMESE_RUN_DIR"] = str(folder)
    return folder


def check(folder: Path, resume: bool | str | None, overwrite: bool) -> bool:
    """Refuse a folder that holds a run, unless the run is resumed or overwritten. Writes nothing.

    Args:
        resume: None for a command that cannot resume.

    Returns:
        Whether there is a run to resume; with ``resume="auto"`` that is whether a checkpoint exists.

    Raises:
        UserError: the folder holds a run or foreign files, or cannot be written to.
    """
    if resume and overwrite:
        raise UserError(f"resume={resume} overwrite=true".lower(), "exclude each other", "give one of them")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run_dir={folder}", "is a file", "give a folder")
    written = _written(folder)
    holds_run = bool(written) or (folder / "checkpoints").exists()
    saved = any((folder / "checkpoints" / name).is_file() for name in ("last.ckpt", "previous.ckpt"))
    if resume is True and not saved:
        raise UserError(
            "resume=true", f"there is no {folder}/checkpoints/last.ckpt", "give the run_dir of a run that saved one"
        )
    if holds_run and not resume and not overwrite and is_rank_zero():  # the other ranks start when it exists
        how = "resume=true or overwrite=true" if saved and resume is not None else "overwrite=true"
        raise UserError(f"run_dir={folder}", "already holds a run", f"add {how}, or choose another folder")
    if resume and not saved and not overwrite and is_rank_zero() and _has_figures(folder):
        problem = "holds a run that has finished, without its checkpoint"
        raise UserError(
            f"run_dir={folder}", problem, "add overwrite=true in place of resume=, or choose another folder"
        )
    odd = [f for f in (*written, folder / ".lock", folder / "checkpoints", folder / "tensorboard") if _unusual(f)]
    if odd and (overwrite or not (resume and saved)):
        raise UserError(f"run_dir={folder}", f"{odd[0].name} in it was not written by a run", "choose another folder")
    parent = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    if not os.access(parent, os.W_OK):
        raise UserError(f"run_dir={folder}", f"{parent} cannot be written to", "choose another folder")
    return bool(resume) and saved


class RunDirLock(FolderLock):
    """A lock on a run folder.

    Args:
        folder: created if missing.
        resume, overwrite: as in `check`, which runs again once the lock is held.

    Raises:
        UserError: another process holds the lock, or has written a run since the first check.
    """

    def __init__(self, folder: Path, resume: bool | str | None, overwrite: bool):
        super().__init__(folder, f"run_dir={folder}")
        try:
            check(folder, resume, overwrite)
        except UserError:
            self.release()
            raise


def _has_figures(folder: Path) -> bool:
    """Whether a run has finished in the folder, or an evaluation."""
    try:
        return bool(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return (folder / "results.json").exists()


def finished(folder: Path, epochs: int, step: int) -> bool:
    """Whether the run in `folder` has finished at least `epochs` epochs, or stopped early, and its closing table.

    Args:
        step: of its checkpoint; a summary of another step is that of an earlier sitting.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        long_enough = summary["epochs"] >= epochs or summary.get("stopped_early")
        return bool(summary["finished"] and long_enough and summary["steps"] == step)
    except (OSError, ValueError, KeyError):
        return False


def start(folder: Path, cfg: DictConfig, overwrite: bool) -> None:
    """Create the folder and write config.yaml. With `overwrite` the files of an earlier run (`WRITTEN`) are removed."""
    if not is_rank_zero():
        return
    if overwrite:
        for file in _written(folder):
            file.unlink()
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    write(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
