import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores (pyproject.toml)
os.environ["WANDB_MODE"] = "offline"

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

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
        return subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


TINY = ("epochs=1", "backbone.widths=[4,8]", "monitor.every=1", "eval.linear.epochs=2", "trainer=cpu")


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Overrides that make a run of seconds."""
    return TINY


@pytest.fixture
def session(config, tiny, tmp_path):
    """Builds and starts a run without the command line."""
    from siamese.session import Session

    def make(*overrides, folder="run"):
        made = Session(config(*tiny, f"run_dir={tmp_path / folder}", *overrides))
        made.start()
        return made

    return make


@pytest.fixture
def photos(tmp_path):
    """A folder of 40 small images without labels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder
