"""The folder of a sweep: a new one, or that of the same command where it was interrupted."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from siamese.errors import UserError
from siamese.files import FolderLock, write_json
from siamese.options import is_group, roots
from siamese.paths import expand_path
from siamese.sweep.outcome import UNNAMED, key
from siamese.sweep.share import parsed_overrides, trials

FILE = "sweep.json"
DEFAULT = Path("outputs/sweeps")  # of hydra.sweep.dir in conf/train.yaml
WRITTEN = ("sweep.csv", "trials.csv", "sweep.html", "conf/experiment/best.yaml", "multirun.yaml",
           "optimization_results.yaml")  # fmt: skip
REPLACED = ".replaced"  # folder of what overwrite=true replaces, until the first trial begins
FREE = ("hydra.sweeper.n_trials", "hydra.sweeper.max_batch_size")  # a search may be prolonged
REMEDY = "add overwrite=true, or choose another folder"


@dataclass
class SweepFolder:
    """The folder of a sweep that this process carries out.

    Args:
        path: the folder.
        lock: held until the sweep ends.
        identity: what makes another start the same sweep.
        trials: their number.
        continued: whether it holds trials of an earlier start.
        at_a_time: trials that the earlier start had side by side; None for a new sweep. A search must keep it, because
            what it proposes depends on which trials have ended.
        outdated: the newest unfinished sweep of the same command, if conf/ or the version was another then.
    """

    path: Path
    lock: FolderLock
    identity: dict[str, Any]
    trials: int
    continued: bool
    at_a_time: int | None
    outdated: Path | None = None

    def write(self, at_a_time: int, finished: bool) -> None:
        """Record what the sweep is."""
        told = {**self.identity, "trials": self.trials, "at_a_time": at_a_time, "finished": finished}
        write_json(self.path / FILE, told)

    def undo(self) -> None:
        """Remove what the start of a sweep without any trial has written, put back what it was to replace, and release
        the folder."""
        aside = self.path / REPLACED
        if aside.is_dir():
            _clear(self.path)
            for file in [f for f in aside.rglob("*") if f.is_file()]:
                (self.path / file.relative_to(aside)).parent.mkdir(parents=True, exist_ok=True)
                file.replace(self.path / file.relative_to(aside))
            forget_replaced(self.path)
        elif not _holds_trials(self.path):
            _clear(self.path)
            (self.path / FILE).unlink(missing_ok=True)
            shutil.rmtree(self.path / "trials", ignore_errors=True)
        self.lock.release()


def identity(config: DictConfig) -> dict[str, Any]:
    """What two starts of one sweep have in common: all settings but those of place and launcher, and what conf/ makes
    of them."""
    hydra = [o for o in config.hydra.overrides.hydra if key(o).startswith("hydra/sweeper") or
             (key(o).startswith("hydra.sweeper.") and key(o) not in FREE)]  # fmt: skip
    shared = {k: v for k, v in OmegaConf.to_container(config).items() if k not in ("hydra", *UNNAMED)}  # type: ignore[union-attr]
    options = _swept_options(config.hydra.overrides.task)  # of which `config` has the default one alone
    content = [shared, options] if options else shared
    return {
        "overrides": [o for o in config.hydra.overrides.task if key(o) not in UNNAMED],
        "sweeper": hydra,
        "config": hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:16],
    }


def _swept_options(overrides: Sequence[str]) -> dict[str, str]:
    """Option -> content of its file, for the options that the trials choose among."""
    found: dict[str, str] = {}
    for parsed in parsed_overrides(overrides):
        group = parsed.get_key_element()
        if parsed.is_sweep_override() and parsed.is_discrete_sweep() and is_group(group):
            names = {f"{group}/{name}.yaml" for name in parsed.sweep_string_iterator()}
            files = [root / name for name in names for root in roots()]
            found |= {str(file): file.read_text(encoding="utf-8") for file in sorted(files) if file.is_file()}
    return {str(Path(*Path(file).parts[-3:])): text for file, text in found.items()}


def choose(config: DictConfig) -> SweepFolder:
    """The folder, created and locked: `run_dir`, `hydra.sweep.dir`, or outputs/sweeps/<date>_<time>; without either
    that of the newest interrupted sweep of the same command, if no other process is at work in it.

    Raises:
        UserError: it holds another sweep or other files, or another process is at work in it.
    """
    path, setting = _named(config)
    outdated = None
    if path is None:
        for file in sorted(DEFAULT.glob(f"*/{FILE}"), reverse=True):
            found = _read(file)
            if found is None or (found["finished"] and found["trials"] >= trials(config)):
                continue
            if not _same(found, config):
                if outdated is None and not found["finished"] and _same_command(found, identity(config)):
                    outdated = file.parent
                continue
            try:
                lock = FolderLock(file.parent, str(file.parent))
            except UserError:  # another process is at work in it
                continue
            return SweepFolder(file.parent, lock, identity(config), trials(config), True, found["at_a_time"])
        path = DEFAULT / datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")
    if path.exists() and not path.is_dir():
        raise UserError(setting, "is a file", "give a folder")
    _check(path, config, setting)
    if config.overwrite and path.exists():
        from siamese.schema import check_train  # imports torch

        settings = [str(k) for k in config if k != "hydra"]
        check_train(OmegaConf.masked_copy(config, settings))  # before anything is removed
    lock = FolderLock(path, setting)
    found = _read(path / FILE)
    if found is not None and (config.overwrite or not _same(found, config)):
        _set_aside(path)
        found = None
    known = None if found is None else found["at_a_time"]
    return SweepFolder(path, lock, identity(config), trials(config), found is not None, known, outdated)


def _named(config: DictConfig) -> tuple[Path | None, str]:
    """The folder that the settings name, if they do, and the setting."""
    typed = [o for o in config.hydra.overrides.task if key(o) == "run_dir"]
    several = typed and config.get("run_dir") is None
    if several or (config.get("run_dir") is not None and OmegaConf.is_interpolation(config, "run_dir")):
        setting = typed[-1] if typed else "run_dir"
        raise UserError(setting, "a sweep has one run_dir, which holds its trials", "give one folder")
    place = Path(config.hydra.sweep.dir)
    if config.get("run_dir") is None:
        return (None if place.parent == DEFAULT else expand_path(place, "hydra.sweep.dir")), f"hydra.sweep.dir={place}"
    if place.parent != DEFAULT:
        raise UserError(f"hydra.sweep.dir={place}", f"run_dir={config.run_dir} says the same", "give only one of them")
    return expand_path(config.run_dir, "run_dir"), f"run_dir={config.run_dir}"


def _check(path: Path, config: DictConfig, setting: str) -> None:
    """Refuse a folder that holds something else."""
    for name, allowed in (("overwrite", (True, False)), ("resume", (True, False, "auto"))):
        if not any(config[name] is value or config[name] == value == "auto" for value in allowed):
            raise UserError(f"{name}={config[name]}", "is not a possible value", f"give one of {allowed}".lower())
    if config.overwrite and config.resume:
        raise UserError(f"resume={config.resume} overwrite=true".lower(), "exclude each other", "give one of them")
    content = [f for f in path.iterdir() if f.name != ".lock"] if path.is_dir() else []
    found = _read(path / FILE)
    if not content or (found is not None and (config.overwrite or _same(found, config) or not _holds_trials(path))):
        return
    if found is None:
        what = "already holds a run" if (path / "config.yaml").exists() else "holds other files"
        raise UserError(setting, what, "choose another folder")
    if _same_command(found, identity(config)):
        raise UserError(setting, "holds this sweep, but conf/ or the installed version has changed since", REMEDY)
    before = " ".join([*found["sweeper"], *found["overrides"]]) or "defaults"
    raise UserError(setting, f"holds another sweep ({before})", REMEDY)


def _holds_trials(path: Path) -> bool:
    return any((path / "trials").glob("[0-9]*")) or any(path.glob("[0-9][0-9]*/config.yaml"))


def _same(found: dict[str, Any], config: DictConfig) -> bool:
    return all(found.get(name) == value for name, value in identity(config).items())


def _same_command(found: dict[str, Any], now: dict[str, Any]) -> bool:
    return all(found[name] == now[name] for name in ("overrides", "sweeper"))


def _read(file: Path) -> dict[str, Any] | None:
    """sweep.json; None if it is not there or not one of ours."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    good = isinstance(found, dict) and all(_texts(found.get(name)) for name in ("overrides", "sweeper"))
    good = good and all(isinstance(found.get(name), int) for name in ("at_a_time", "trials", "finished"))
    return found if good else None


def _texts(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value)


def _written(path: Path) -> list[Path]:
    """What a sweep has written beside its runs, which each trial overwrites itself, without sweep.json."""
    found = [*(path / name for name in WRITTEN), *(path / "trials").glob("[0-9]*.*")]
    return [file for file in found if file.is_file()]


def _clear(path: Path) -> None:
    for file in _written(path):
        file.unlink(missing_ok=True)


def _set_aside(path: Path) -> None:
    """Move what an earlier sweep wrote to where `undo` finds it: Hydra reads the settings of the trials later, and a
    mistake in them must cost nothing. sweep.json stays until it is written anew."""
    files = [*_written(path), *([path / FILE] if (path / FILE).is_file() else [])]
    for file in files:
        target = path / REPLACED / file.relative_to(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copy2 if file.name == FILE else os.replace)(file, target)


def forget_replaced(path: Path) -> None:
    """Remove what `overwrite=true` replaces; called when a trial begins."""
    shutil.rmtree(path / REPLACED, ignore_errors=True)
