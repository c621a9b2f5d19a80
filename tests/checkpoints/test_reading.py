"""Checkpoint files of our own."""

import argparse
import re
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from siamese import factory
from siamese.checkpoints import reading
from siamese.checkpoints.formats import load_backbone
from siamese.config import to_dict
from siamese.errors import UserError


def test_settings_beside_the_tensors_are_plain_values_or_refused(config, tmp_path):
    """argparse's namespace is plain values; for another class the message names it, and a command that works."""
    source = factory.backbone(config("backbone=resnet18"))
    file = tmp_path / "f.pth"
    content = {"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}
    torch.save({**content, "args": argparse.Namespace(arch="resnet18", lr=0.05)}, file)
    assert reading.read(file)["args"].arch == "resnet18"
    torch.save({**content, "hyper_parameters": OmegaConf.create({"lr": 1})}, file)
    with pytest.raises(UserError, match=r"holds a omegaconf.dictconfig.DictConfig, and loading .*: python -c") as error:
        reading.read(file)
    (command,) = re.findall(r'python -c "(.*)"$', str(error.value))
    subprocess.run([sys.executable, "-c", command], check=True, cwd=tmp_path)
    kind = load_backbone(factory.backbone(config("backbone=resnet18")), str(tmp_path / "tensors.pt"), "ckpt")
    assert "DataParallel" in kind


@pytest.mark.parametrize("meta", [1, {}, {"config": 3}, {"config": None}, []])
def test_damaged_metadata_is_not_ours(evaluation, tmp_path, monkeypatch, meta):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": {"backbone.x": torch.ones(1)}, reading.KEY: meta}
    assert not reading.is_ours(content)
    torch.save(content, "a.ckpt")
    with pytest.raises(UserError, match="^ckpt=a.ckpt: was not written by train.py"):
        evaluation("a.ckpt", "eval=knn")
    with pytest.raises(UserError, match="^ckpt=a.ckpt: was not written by train.py"):
        reading.load("a.ckpt")


@pytest.mark.parametrize("content", [{}, [], None, torch.ones(1)])
def test_other_content_is_not_ours(content):
    assert reading.is_ours(content) is False


def test_text_in_place_of_a_tensor_is_missing(config, evaluation, tmp_path):
    cfg = config("backbone.widths=[4,8]")
    state = {f"backbone.{k}": v for k, v in factory.backbone(cfg).state_dict().items()}
    state[next(iter(state))] = "text"
    torch.save({"state_dict": state, reading.KEY: {"config": to_dict(cfg), "num_classes": 10}}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="1 missing: "):
        evaluation(tmp_path / "a.ckpt", "eval=knn")
