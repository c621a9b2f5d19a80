"""One trial: skip it if it is done, continue it if it was interrupted, record its outcome."""

import contextlib
import ctypes
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from siamese.errors import RunAborted, UserError
from siamese.files import in_use
from siamese.paths import expand_path
from siamese.sweep import share
from siamese.sweep.folder import forget_replaced
from siamese.sweep.outcome import Outcome, begin, begun, file_of, named, read, record, value_of

PR_SET_PDEATHSIG = 1  # prctl.h of Linux
Train = Callable[[DictConfig], tuple[float, Path, Mapping[str, Any]]]


class TrialFailed(Exception):
    """Tells a search that a trial has no figure; the reason is in the trial's outcome."""


def carry_out(cfg: DictConfig, train: Train) -> float:
    """Run the trial that Hydra describes.

    Args:
        train: one run; returns the figure, the run folder and the summary, which is empty on other ranks than 0.

    Returns:
        The figure; NaN if the trial failed.

    Raises:
        TrialFailed: it failed, and a search must know.
    """
    config, hydra = HydraConfig.instance().cfg, HydraConfig.get()
    number, folder = int(hydra.job.num), Path(hydra.sweep.dir)
    overrides, job = list(hydra.overrides.task), share.job(config)
    name = f"trial {number:02d}: {' '.join(named(overrides)) or 'defaults'}"
    kind = share.launcher(config)
    beside = kind == "joblib" and share.side_by_side() > 1  # a single one runs in the sweep's own process
    if beside:
        _end_with_parent()
    run_dir = folder / f"{number:02d}"
    forget_replaced(folder)
    if job is None or _is_first():
        _wait_for(run_dir, name, math.inf if kind in ("local", "slurm") else share.PATIENCE)
        done = _done(folder, number, overrides, cfg.overwrite)
        how = "done" if done is not None else _how(cfg, run_dir, begun(folder, number).get("overrides"), overrides)
        begin(folder, number, overrides, job, how)
        if done is not None:
            print(f"{name}: is done", flush=True)
            return done.value
    else:
        how = _as_first(folder, number, job)
        if how in ("done", "finished"):
            return float("nan")  # the first process's counts
    with _own_output(name, folder, number):
        try:
            _prepare(cfg, folder, overrides, how)
            found = _finished(cfg, run_dir) if how == "finished" else None
            value, run_dir, summary = train(cfg) if found is None else (value_of(found), run_dir, found)
            if summary:
                record(folder, number, overrides, run_dir, summary)
            return value
        except Exception as error:
            if _is_first():
                record(folder, number, overrides, None, None, error)
                print(f"{name}: failed: {error}", flush=True)
            if share.searches(config):
                raise TrialFailed(f"{name}: {error}") from None
            return float("nan")
        except SystemExit as stop:
            if beside:  # joblib would let this process wait for the next trial, also if the sweep was killed
                sys.stdout.flush()
                if stop.code == 128 + signal.SIGINT:  # the sweep's process has got it, too, and ends this one
                    time.sleep(5)
                os._exit(stop.code if isinstance(stop.code, int) else 1)
            raise


def _done(folder: Path, number: int, overrides: list[str], overwrite: bool) -> Outcome | None:
    """The outcome of this trial in an earlier start of the sweep, unless it failed then."""
    file = file_of(folder, number)
    if overwrite or not file.is_file():
        return None
    found = read(file)
    return found if list(found.overrides) == named(overrides) and found.error is None else None


def _prepare(cfg: DictConfig, folder: Path, overrides: list[str], how: str) -> None:
    """Give the trial its share of the machine, and the settings by which it starts as `_how` says."""
    if cfg.run_dir is not None and expand_path(cfg.run_dir, "run_dir") != folder:
        raise UserError(f"run_dir={cfg.run_dir}", "a sweep has one folder for its trials", "give one run_dir")
    share.take_gpu(folder)
    share.loader_workers(cfg, overrides)
    if how == "resume":
        cfg.resume = "auto"
    elif how == "anew":
        cfg.resume, cfg.overwrite = False, True


def _how(cfg: DictConfig, run_dir: Path, before: Any, overrides: list[str]) -> str:
    """How the trial starts: ``new`` (as it was asked), ``resume`` from a checkpoint, ``anew`` because what its folder
    holds is of no use, or not at all, because its run has ``finished`` and only its outcome was not recorded.

    Args:
        before: the trial whose run the folder holds.
    """
    own = before == named(overrides)
    if cfg.overwrite or (cfg.resume and own) or not run_dir.is_dir():
        return "new"
    if own and _finished(cfg, run_dir) is not None:
        return "finished"
    saved = any((run_dir / "checkpoints" / name).is_file() for name in ("last.ckpt", "previous.ckpt"))
    return "resume" if own and saved else "anew"


def _finished(cfg: DictConfig, run_dir: Path) -> Mapping[str, Any] | None:
    """The summary of a run that has finished."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
        if found["finished"] and (found["epochs"] >= cfg.epochs or found["stopped_early"]):
            return found
    return None


def _as_first(folder: Path, number: int, job: str) -> str:
    """How the first process of this trial starts it. From then on this process ends if the first one fails, which
    would leave it waiting."""
    until = time.monotonic() + share.PATIENCE
    while (note := begun(folder, number)).get("job") != job:
        if time.monotonic() > until:
            raise RunAborted(f"trial {number}: its first process has not started")
        time.sleep(0.1)
    began = file_of(folder, number).with_suffix(".begun").stat().st_mtime_ns

    def watch() -> None:
        file = file_of(folder, number)
        while True:
            time.sleep(1)
            with contextlib.suppress(OSError, UserError):
                if file.stat().st_mtime_ns >= began and read(file).error is not None:
                    os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return str(note["how"])


def _wait_for(run_dir: Path, name: str, patience: float) -> None:
    """Wait until no other process holds the run folder. Of a killed sweep joblib's processes save and end; submitit's
    jobs go on to their end. After `patience` seconds the run itself says that it is in use."""
    until, told = time.monotonic() + patience, False
    while in_use(run_dir) and time.monotonic() < until:
        if not told:
            print(f"{name}: waits for the process that is at work in {run_dir}", flush=True)
            told = True
        time.sleep(0.2)


@contextlib.contextmanager
def _own_output(name: str, folder: Path, number: int) -> Iterator[None]:
    """Write what a trial prints into `trials/NNNN.log` where several of joblib's run at once; print its name here."""
    if share.launcher(HydraConfig.instance().cfg) != "joblib" or share.side_by_side() < 2:
        print(name, flush=True)
        yield
        return
    file = file_of(folder, number).with_suffix(".log")
    file.parent.mkdir(parents=True, exist_ok=True)
    print(f"{name} (output: {file})", flush=True)
    kept = [os.dup(fd) for fd in (1, 2)]
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        for fd in (1, 2):
            os.dup2(target, fd)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for fd, old in zip((1, 2), kept, strict=True):
            os.dup2(old, fd)
            os.close(old)
        os.close(target)


def _end_with_parent() -> None:
    """Let SIGTERM, at which a run saves, reach this process when the sweep is killed; on Linux."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _is_first() -> bool:
    """Whether this process is the first one of its trial."""
    from siamese.distributed import is_rank_zero

    return is_rank_zero()
