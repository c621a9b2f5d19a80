"""The run folder: where it is, that it holds no other run, and what is written into it."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import siamese
from siamese.distributed import is_first
from siamese.errors import Stopped, UserError
from siamese.paths import expand_path

# What a run writes, by name: a folder that has one of these holds a run already, and they are all that overwriting
# removes. The folders of wandb's own runs stay.
WRITTEN = (
    *("config.yaml", "summary.json", "results.json", "metrics.csv", "views.png"),
    *("config.tmp", "summary.tmp", "results.tmp", "metrics.tmp"),
    *("checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/last.tmp", "checkpoints/previous.tmp"),
    *("tensorboard/events.out.tfevents.*", "tensorboard/hparams.yaml"),
)


def _written(folder: Path) -> list[Path]:
    return [f for pattern in WRITTEN for f in (folder.glob(pattern) if "*" in pattern else [folder / pattern])
            if os.path.lexists(f)]  # fmt: skip


def _unusual(path: Path) -> bool:
    """Is it a link, or a file where a run has a folder, or the reverse, or a lock with content?"""
    if not os.path.lexists(path):
        return False
    if path.is_symlink() or path.is_dir() != (path.name in ("checkpoints", "tensorboard")):
        return True
    return path.name == ".lock" and path.stat().st_size > 0


def in_sweep() -> bool:
    """Is this a trial of `-m`?"""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def choose(cfg: DictConfig, default: str) -> Path:
    """The run folder: `run_dir`, or `default` with date and time. A trial of a sweep has one of its own:
    its number below `run_dir`, or behind the time.

    The processes that Lightning starts for further devices take the first one's by an environment
    variable, since they start later.
    """
    inherited = os.environ.get("SIAMESE_RUN_DIR")
    if inherited and not is_first():
        return Path(inherited)
    trial = f"{HydraConfig.get().job.num:02d}" if in_sweep() else ""
    if cfg.run_dir is not None:
        folder = expand_path(cfg.run_dir, "run_dir") / trial
    else:
        # With microseconds: the jobs of an array start within a second.
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f") + (f"_{trial}" if trial else "")
        folder = Path(default) / stamp
    os.environ["SIAMESE_RUN_DIR"] = str(folder)
    return folder


def check(folder: Path, resume: bool | str | None, overwrite: bool) -> bool:
    """Refuse a folder that holds a run, unless it is to be continued or replaced. Writes nothing.

    Args:
        resume: None is for a command that cannot resume.

    Returns:
        Is there a run to continue? With ``resume="auto"`` that is so where a checkpoint exists.
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
    if holds_run and not resume and not overwrite and is_first():  # the others come when it is made
        how = "resume=true or overwrite=true" if saved and resume is not None else "overwrite=true"
        raise UserError(f"run_dir={folder}", "already holds a run", f"add {how}, or choose another folder")
    odd = [f for f in (*written, folder / ".lock", folder / "checkpoints", folder / "tensorboard") if _unusual(f)]
    if odd and (overwrite or not holds_run):
        raise UserError(f"run_dir={folder}", f"{odd[0].name} in it is not a run's own", "choose another folder")
    parent = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    if not os.access(parent, os.W_OK):
        raise UserError(f"run_dir={folder}", f"{parent} cannot be written to", "choose another folder")
    return bool(resume) and saved


class Hold:
    """A run folder is one process's while it runs.

    A record lock on `.lock` in it, which ends with the process, however that ends, and is not inherited by those
    that it starts. A file system that has no locks gives none.

    Args:
        folder: made where it is missing.
        resume, overwrite: as in `check`, which is asked again once the folder is ours.

    Raises:
        UserError: another process has it, or has left a run in it since it was checked.
    """

    def __init__(self, folder: Path, resume: bool | str | None, overwrite: bool):
        self.made = not folder.exists()
        self.file = folder / ".lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise UserError(f"run_dir={folder}", f"cannot be written to ({error})", "choose another folder") from error
        if not self._locked():
            os.close(self.descriptor)
            raise UserError(
                f"run_dir={folder}", "another process is at work in it", "wait for it, or choose another folder"
            )
        try:
            check(folder, resume, overwrite)
        except UserError:
            self.release()
            raise

    def _locked(self) -> bool:
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
        # Whoever had it may have taken the file away since it was opened: a third process would then lock a new one.
        return self.file.exists() and os.path.samestat(os.fstat(self.descriptor), self.file.stat())

    def release(self) -> None:
        """Give the folder free; one that was made for nothing goes."""
        if self.descriptor < 0:
            return
        self.file.unlink(missing_ok=True)
        os.close(self.descriptor)
        self.descriptor = -1
        if self.made:
            with contextlib.suppress(OSError):  # not empty
                self.file.parent.rmdir()

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *about: object) -> None:
        self.release()


def finished(folder: Path, epochs: int) -> bool:
    """Has the run in it reached the closing table of so many epochs?"""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return bool(summary["finished"] and summary["epochs"] >= epochs)
    except (OSError, ValueError, KeyError):
        return False


def start(folder: Path, cfg: DictConfig, overwrite: bool) -> None:
    """Make the folder and write config.yaml into it. Of an overwritten run only our own files go."""
    if not is_first():
        return
    if overwrite:
        for file in _written(folder):
            file.unlink()
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    write(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write whole or not at all."""
    write(file, json.dumps(values, indent=2) + "\n")


def write(file: Path, text: str) -> None:
    """Write whole or not at all.

    Raises:
        Stopped: the disk refuses; what was there before is kept.
    """
    temporary = file.with_suffix(".tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        os.replace(temporary, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise Stopped(f"{file} cannot be written ({error}); make room, then continue with resume=true") from error


def unfinished(where: Path) -> Path:
    """A new folder beside `where`, to be renamed to it once it is whole. Those that processes of this machine left
    when they were killed are removed."""
    where.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".unfinished-{platform.node()}-"
    for left in where.parent.glob(f"{prefix}*-*"):
        try:
            os.kill(int(left.name.split("-")[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (PermissionError, ValueError, OverflowError):  # somebody else's, and alive; or not named by us
            pass
    return Path(tempfile.mkdtemp(dir=where.parent, prefix=f"{prefix}{os.getpid()}-"))


def digest_of_file(file: Path) -> str:
    """sha256 of its content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of what a figure depends on."""
    import torchvision

    return {
        "siamese": siamese.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pytorch_lightning": version("pytorch-lightning"),
    }


def device_name(device: torch.device) -> str:
    """For reports: the GPU's name, or the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def peak_memory_mb(device: torch.device) -> float:
    """The most that tensors took on the GPU, or the process on the host, in 10^6 bytes."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self.start
