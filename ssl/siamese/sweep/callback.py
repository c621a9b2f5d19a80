"""Hydra's callback of a sweep: its folder and shares before the first trial, its table after the last one."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from siamese.config import optuna, quoted
from siamese.errors import RunAborted, UserError
from siamese.sweep import closing, share
from siamese.sweep.folder import SweepFolder, choose
from siamese.sweep.outcome import read_all

exit_code = 0  # of the process, once a sweep has ended: 1 if a trial failed
_current: tuple[SweepFolder, int] | None = None  # the sweep that this process carries out


class SweepCallback(Callback):
    """Registered in conf/train.yaml as `hydra.callbacks.sweep`."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Choose and lock the folder, deal out cores."""
        _or_end(lambda: _start(config))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell torch's process group what submitit knows of the tasks of a trial on several devices."""
        if share.launcher(config) in ("local", "slurm") and config.hydra.launcher.tasks_per_node > 1:
            from submitit.helpers import TorchDistributedEnvironment

            TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
            os.environ["NODE_RANK"] = os.environ.get("SLURM_NODEID", "0")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print and write the table."""
        if _current is not None:
            _or_end(lambda: _close(ended=True))


def _or_end(work: Callable[[], None]) -> None:
    """End the process at an exception, because Hydra turns those of a callback into warnings."""
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OmegaConfBaseException as error:
        print(f"error: {str(error).splitlines()[0]}; correct the setting", file=sys.stderr)
        sys.exit(2)
    except (RunAborted, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _start(config: DictConfig) -> None:
    global _current
    if config.get("mode") != "train":
        raise UserError(f"mode={config.get('mode')}", "a sweep trains", "leave out -m, or give several commands")
    share.check(config)
    if share.searches(config):
        optuna()  # before Hydra's sweeper imports it with its warnings
    folder = choose(config)
    try:
        count = share.deal(config, folder.at_a_time)
    except UserError:
        folder.undo()
        raise
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweep.dir = str(folder.path)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder.path))}")
    folder.write(count, finished=False)
    done = len([o for o in read_all(folder.path) if o.error is None])
    told = f", {count} at a time" if count > 1 else ""
    what = f"continues, {done} are done" if folder.continued else "starts"
    print(f"sweep: {folder.trials} trials{told} in {folder.path}; it {what}", flush=True)
    if folder.outdated is not None:
        print(f"{folder.outdated} is left as it is: conf/ or the installed version has changed since", flush=True)
    _current = folder, count


def _close(ended: bool) -> None:
    """Print and write the table of the outcomes so far; release the folder.

    Args:
        ended: all trials were tried.
    """
    global exit_code, _current
    assert _current is not None
    (folder, count), _current = _current, None
    outcomes = read_all(folder.path)
    failed = closing.show(outcomes, folder.path) if outcomes else 0
    if failed:
        exit_code = 1
    if ended:
        folder.write(count, finished=not failed)
    folder.lock.release()


def ended_by(error: Exception) -> str | None:
    """What to say if a launcher or a sweeper has raised an exception, after the table of the trials so far; None if
    this process carries out no sweep."""
    if _current is None or isinstance(error, UserError):
        return None
    path = _current[0].path
    all_failed = "No trials are completed" in str(error)
    _close(ended=all_failed)
    if all_failed:
        return "every trial failed"
    told = (str(error).strip().splitlines() or [""])[0]
    return f"the sweep has ended early ({type(error).__name__}: {told}); to go on, start it again; its folder is {path}"


def undo() -> None:
    """Remove what the start of a sweep has written, if a mistake in the settings ended it before its first trial."""
    global _current
    if _current is not None:
        folder, _current = _current[0], None
        folder.undo()
