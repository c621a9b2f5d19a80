import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # three workers share two cores (pyproject.toml)
os.environ["WANDB_MODE"] = "offline"

import itertools
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import processes
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from PIL import Image

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: kernels run on the CPU, slowly

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # train.py and eval_linear.py
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def config():
    """Composes conf/train.yaml with overrides."""

    def make(*overrides: str, name: str = "train") -> DictConfig:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose(name, overrides=list(overrides))

    return make


@pytest.fixture
def built():
    """Checks the arguments of a class as train.py does, and makes it."""
    from siamese.schema.check import check_node, locate

    def make(key: str, target: str, **arguments):
        stand_in = {"_target_": "torch.optim.SGD", "_partial_": True}  # of what Hydra would have made
        check_node(key, {"_target_": target, **{k: stand_in if callable(v) else v for k, v in arguments.items()}})
        return locate(key, target)(**arguments)

    return make


@pytest.fixture
def command(tmp_path):
    """Runs a script of the repository in an empty folder, as a user does."""

    def run(script: str, *arguments: str, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        return processes.run(
            [ROOT / script, *arguments],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


TINY = ("epochs=1", "backbone.widths=[4,8]", "monitor.every=1", "probe.linear.epochs=2", "trainer=cpu")


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Overrides that make a run of seconds."""
    return TINY


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    """A run that a test leaves open keeps no handlers."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture
def soon_terminated() -> Iterator[Callable[[], None]]:
    """Sends this process a SIGTERM 0.3 seconds later, unless the test has ended by then."""
    timers = []

    def begin() -> None:
        where = (threading.main_thread().ident, signal.SIGTERM)
        timers.append(threading.Timer(0.3, signal.pthread_kill, where))
        timers[-1].start()

    yield begin
    for timer in timers:
        timer.cancel()


class StartedRun:
    """A run without the command line; attributes are those of `Run`, `Training`, `Plan`, and its callbacks by name."""

    CALLBACKS: ClassVar = {
        "checkpoints": "SaveCheckpoints", "online": "OnlineEvaluation", "nonfinite": "NonFiniteGradients",
        "progress": "ProgressBar",
    }  # fmt: skip

    def __init__(self, cfg: DictConfig):
        from siamese.training import Run, build, check

        self.run = Run(build(check(cfg)))

    def __getattr__(self, name: str):
        if name in self.CALLBACKS:
            found = self.run.training.trainer.callbacks
            return next(c for c in found if type(c).__name__ == self.CALLBACKS[name])
        for holder in (self.run, self.run.training, self.run.training.plan):
            if hasattr(holder, name):
                return getattr(holder, name)
        raise AttributeError(name)


@pytest.fixture
def session(config, tiny, tmp_path):
    """Builds and starts a run without the command line."""

    def make(*overrides, folder="run"):
        other = any(o.startswith("backbone=") and o != "backbone=small" for o in overrides)  # has no widths
        settings = [o for o in tiny if not (other and o.startswith("backbone.widths"))]
        made = StartedRun(config(*settings, f"run_dir={tmp_path / folder}", *overrides))
        made.start()
        return made

    return make


class BuiltEvaluation:
    """An evaluation without the command line; attributes are those of `Evaluation` and its `Plan`."""

    def __init__(self, cfg: DictConfig, overrides: Sequence[str] = ()):
        from siamese.evaluation.build import build, check

        self.built = build(check(cfg, overrides))

    def run(self) -> dict:
        from siamese.evaluation import evaluator

        return evaluator.run(self.built)

    def __getattr__(self, name: str):
        return getattr(self.built if hasattr(self.built, name) else self.built.plan, name)


@pytest.fixture
def evaluation(config, tmp_path):
    """Builds an evaluation as inside of hydra.main, where other configs can be composed."""

    def make(file, *overrides, folder="e"):
        cache = [f"eval.cache={tmp_path / 'cache'}"]
        cfg = config(f"ckpt={file}", f"run_dir={tmp_path / folder}", *cache, *overrides, name="eval_linear")
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return BuiltEvaluation(cfg)

    return make


@pytest.fixture
def ticking(monkeypatch):
    """A clock of the progress that moves so many seconds at each look."""

    def start(seconds: float) -> None:
        from siamese import progress

        now = itertools.count(0, seconds)
        monkeypatch.setattr(progress, "clock", lambda: float(next(now)))

    return start


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIAMESE_RUN_DIR", raising=False)
    return tmp_path


@pytest.fixture
def photos(tmp_path):
    """A folder of 40 small images without labels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder
