"""How many trials run side by side, and what each may take: threads, loader workers, a GPU."""

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict, read_write

from siamese.errors import UserError
from siamese.processors import cores, gpus
from siamese.sweep.outcome import key

AT_A_TIME = "SIAMESE_TRIALS_AT_A_TIME"  # tells the processes of the trials
GPUS = "SIAMESE_GPUS"  # those of the sweep: submitit hides all of them from a job that asks for none
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # torch and the C++ views follow the first
N_JOBS = 2  # default of Optuna's sweeper
DAYS_30 = 30 * 24 * 60  # in minutes; submitit's own limit of one hour would end a local trial
PATIENCE = 60.0  # seconds to wait for the processes of an interrupted sweep that still save
_held: list[IO[str]] = []  # this process's slot


def launcher(config: Any) -> str:
    """basic, joblib, local or slurm (submitit's), by the launcher's class; another plugin's class name."""
    name = str(config.hydra.launcher._target_).rpartition(".")[2]
    known = {"BasicLauncher": "basic", "JoblibLauncher": "joblib", "LocalLauncher": "local", "SlurmLauncher": "slurm"}
    return known.get(name, name)


def searches(config: Any) -> bool:
    """Whether Optuna proposes the trials."""
    return str(config.hydra.sweeper._target_).endswith("OptunaSweeper")


def parsed_overrides(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them, globs over options included."""
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None
    return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))


def trials(config: DictConfig) -> int:
    """The number of trials, as far as the command line says."""
    if searches(config):
        return int(config.hydra.sweeper.n_trials)
    given = [*(f"{k}={v}" for k, v in (config.hydra.sweeper.get("params") or {}).items()), *config.hydra.overrides.task]
    parsed = {o.get_key_element(): o for o in parsed_overrides(given)}
    discrete = (o for o in parsed.values() if o.is_sweep_override() and o.is_discrete_sweep())
    return math.prod(sum(1 for _ in o.sweep_string_iterator()) for o in discrete)


def check(config: DictConfig) -> None:
    """Refuse settings of launcher and sweeper by which a sweep cannot work.

    Raises:
        UserError: names the key.
    """
    jobs = config.hydra.launcher.get("n_jobs")
    if launcher(config) == "joblib" and (not isinstance(jobs, int) or (jobs < 1 and jobs != -1)):
        raise UserError(f"hydra.launcher.n_jobs={jobs}", "is not a number of trials", "give 1 or more, or leave it out")
    if not searches(config):
        return
    sweeper = config.hydra.sweeper
    if not isinstance(sweeper.n_trials, int) or sweeper.n_trials < 1:
        raise UserError(f"hydra.sweeper.n_trials={sweeper.n_trials}", "is not a number of trials", "give 1 or more")
    if sweeper.get("storage") is not None:
        raise UserError(
            f"hydra.sweeper.storage={sweeper.storage}", "the folder of a sweep keeps all that it needs to go on",
            "leave it out",
        )  # fmt: skip


def at_a_time(config: DictConfig) -> int:
    """Trials side by side: what the launcher was told, or one a GPU, or without GPUs one a core."""
    kind, node = launcher(config), config.hydra.launcher
    if kind == "basic":
        return 1
    count = trials(config)
    if kind == "joblib" and node.n_jobs > 0:
        return min(count, int(node.n_jobs))
    if kind == "slurm":
        return min(count, int(node.array_parallelism))
    if kind not in ("joblib", "local"):
        return 1
    if kind == "local" and node.tasks_per_node > 1:  # a trial on several devices
        return 1
    on_gpus = config.trainer.accelerator in ("auto", "gpu", "cuda")
    return max(1, min(count, len(gpus()) if on_gpus and gpus() else cores()))


def deal(config: DictConfig, wanted: int | None) -> int:
    """Tell launcher and sweeper how many trials run side by side, and this machine's processes their share.

    Args:
        config: the sweep's, changed in place.
        wanted: the number of an earlier start, which a search keeps.

    Returns:
        The number.

    Raises:
        UserError: the trials ask for several devices, and the launcher starts one process each.
    """
    _several_devices(config)
    kind, count = launcher(config), at_a_time(config)
    told = {key(o) for o in config.hydra.overrides.hydra}
    with read_write(config.hydra), open_dict(config.hydra):
        if searches(config):
            sweeper = config.hydra.sweeper
            chosen = "hydra.sweeper.n_jobs" in told or sweeper.n_jobs != N_JOBS
            count = wanted or (int(sweeper.n_jobs) if chosen else count)
            _set(config, "hydra.sweeper.n_jobs", count, set() if wanted else told)
            if sweeper.max_failure_rate == 0:  # its default, by which a failed trial ends the search
                _set(config, "hydra.sweeper.max_failure_rate", 1.0, told)
            _set(config, "hydra.sweeper.direction", "maximize", told)
            if "seed" in sweeper.get("sampler", {}) and sweeper.sampler.seed is None:
                _set(config, "hydra.sweeper.sampler.seed", config.seed, told)
        elif kind == "local" and config.hydra.sweeper.get("max_batch_size") is None:
            config.hydra.sweeper.max_batch_size = count  # submitit starts all trials of a batch at once
        if kind == "joblib":
            config.hydra.launcher.n_jobs = count
        if kind == "local":
            _set(config, "hydra.launcher.timeout_min", DAYS_30, told)
    os.environ.pop(AT_A_TIME, None)
    os.environ.pop(GPUS, None)
    if kind in ("joblib", "local"):
        os.environ[GPUS] = ",".join(gpus())
    if kind in ("joblib", "local") and count > 1:
        os.environ[AT_A_TIME] = str(count)
        share = str(max(1, cores() // count))
        for name in THREADS:
            os.environ.setdefault(name, share)
    return count


def _several_devices(config: DictConfig) -> None:
    """A trial on several devices is one task a device, which submitit starts."""
    devices, kind, node = config.trainer.devices, launcher(config), config.hydra.launcher
    if not isinstance(devices, int) or devices * config.trainer.num_nodes < 2 or kind not in ("local", "slurm"):
        return
    told = {key(o) for o in config.hydra.overrides.hydra}
    with read_write(config.hydra), open_dict(config.hydra):
        _set(config, "hydra.launcher.tasks_per_node", devices, told)
        _set(config, "hydra.launcher.nodes", config.trainer.num_nodes, told)
        if config.trainer.accelerator in ("gpu", "cuda"):
            _set(config, "hydra.launcher.gpus_per_node", devices, told)
    if node.tasks_per_node != devices:
        raise UserError(
            f"hydra.launcher.tasks_per_node={node.tasks_per_node}", f"trainer.devices={devices} needs a task each",
            f"give {devices}, or leave it out",
        )  # fmt: skip


def _set(config: DictConfig, name: str, value: Any, told: set[str]) -> None:
    """Set a key of Hydra's, for this process and, by an override, for the trials; what was typed stays."""
    if name in told:
        return
    *path, last = name.split(".")
    node: Any = config
    for part in path:
        node = node[part]
    node[last] = value
    config.hydra.overrides.hydra.append(f"++{name}={value}")


def job(config: Any) -> str | None:
    """The job of submitit in which this trial runs, if it has several processes."""
    if launcher(config) not in ("local", "slurm") or config.hydra.launcher.tasks_per_node < 2:
        return None
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return os.environ.get("SUBMITIT_LOCAL_JOB_ID") or f"{os.environ.get('SLURM_JOB_ID')}, start {restarts}"


def side_by_side() -> int:
    """Trials that share this machine with the one that asks, itself included."""
    return int(os.environ.get(AT_A_TIME, "1"))


def take_gpu(folder: Path) -> None:
    """Give this process a GPU of its own, if trials run side by side on GPUs; a process keeps it for all its trials.
    A trial alone sees all of the sweep's.

    Args:
        folder: of the sweep; holds a lock file for each slot, which the system releases when the process ends.

    Raises:
        UserError: other processes hold all of them.
    """
    known = os.environ.get(GPUS)
    names, count = gpus() if known is None else [name for name in known.split(",") if name], side_by_side()
    if _held or not names:
        return
    if count < 2:
        if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        return
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:  # a process of a killed sweep may still hold a slot while it saves
        for slot in range(count):
            file = (folder / "trials" / f".slot{slot}").open("a", encoding="utf-8")
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _held.append(file)
                os.environ["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]
                return
            file.close()
        time.sleep(0.2)
    raise UserError("hydra/launcher", f"all {count} GPU slots are taken by other processes", "end these first")


def loader_workers(cfg: DictConfig, overrides: list[str]) -> None:
    """Let the loader workers of the trials side by side share the cores; a number that was typed stays."""
    if side_by_side() > 1 and not any(key(o) == "data.workers" for o in overrides):
        cfg.data.workers = min(cfg.data.workers, max(1, cores() // side_by_side()))
