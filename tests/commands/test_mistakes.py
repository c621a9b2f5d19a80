"""A user's mistake at train.py: exit code 2, one line that names key and value, and nothing written."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from PIL import Image

from siamese.errors import UserError
from siamese.training import build, check

MISTAKES = [
    ("data=npz data.path=nowhere.npz", "data.path=nowhere.npz", "does not exist"),
    ("data=folder data.path=nowhere", "data.path=nowhere", "does not exist"),
    ("data=folder", "data.path=null", "needs a path"),
    ("data=cifar10", "data=cifar10", "data.download=true"),
    ("batch_size=5000", "batch_size=5000", "1438"),
    ("method=moco batch_size=100", "method.queue_size=4096", "batch_size=100"),
    ("optimizer.warmup_epochs=36", "optimizer.warmup_epochs=36", "epochs=36"),
    ("method=simclr method.temperature=0", "method.temperature=0", "[0.001, 1000]"),
    ("method=byol method.momentum=1.5", "method.momentum=1.5", "[0, 1]"),
    ("trainer=gpu", "trainer.accelerator=gpu", "no CUDA device"),
    ("epochs=0", "epochs=0", "at least 1"),
    ("batch_size=two", "batch_size=two", "whole number"),
    ("resume=true run_dir=fresh", "resume=true", "last.ckpt"),
    ("resume=true overwrite=true run_dir=fresh", "resume=true overwrite=true", "exclude"),
    ("augment.flip_p=2", "augment.flip_p=2", "[0, 1]"),
    ("backbone=timm backbone.name=resnet19", "backbone.name=resnet19", "did you mean"),
    ("backbone=resnet18 backbone.name=resnet19", "backbone.name=resnet19", "one of"),
    ("backbone=timm backbone.name=vit_tiny_patch16_224", "backbone.name=vit_tiny_patch16_224", "views of 8 pixels"),
    ("probe.linear.lrs=[]", "probe.linear.lrs=[]", "a list of numbers"),
    ("data.val_fraction=0", "data.val_fraction=0", "(0, 1)"),
    ("optimizer.lr=-1", "optimizer.lr=-1", "above 0"),
    ("data.resident=maybe", "data.resident=maybe", "auto"),
    ("init_from=5", "init_from=5", "is not a file"),
    ("compile=maybe", "compile=maybe", "auto, true or false"),
    ("trainer.precision=33", "trainer.precision=33", "bf16-mixed"),
    ("trainer.precision=16-mixed", "trainer.precision=16-mixed", "bf16-mixed"),
    ("on_nonfinite=ignore", "on_nonfinite=ignore", "stop or skip"),
    ("on_collapse=cry", "on_collapse=cry", "warn or stop"),
    ("resume=perhaps run_dir=fresh", "resume=perhaps", "auto"),
    ("method=moco method.bn_splits=3", "method.bn_splits=3", "64 images"),
    ("method=simclr method/loss=nt_xent_chunked method.loss.chunk=0", "method.loss.chunk=0", "at least 1"),
    ("augment.compiled=perhaps", "augment.compiled=perhaps", "auto"),
    ("optimizer.lr=abc", "optimizer.lr=abc", "a number above 0"),
    ("optimizer.weight_decay=null", "optimizer.weight_decay=null", "at least 0"),
    ("method=byol method.momentum=abc", "method.momentum=abc", "[0, 1]"),
    ("method=simclr method.temperature=abc", "method.temperature=abc", "[0.001, 1000]"),
    ("method=moco method.queue_size=-64", "method.queue_size=-64", "at least 1"),
    ("seed=99999999999", "seed=99999999999", "4294967295"),
    ("monitor.online_lr=-1", "monitor.online_lr=-1", "above 0"),
    ("data.resident_mb=abc", "data.resident_mb=abc", "at least 0"),
    ("probe.knn.temperature=0", "probe.knn.temperature=0", "above 0"),
    ("method=supervised data=folder data.path=PHOTOS", "method=supervised", "no labels"),
    ("method=supcon data=folder data.path=PHOTOS", "method=supcon", "no labels"),
    ("method=simclr augment.views=[{},{size:4}]", "augment.views=1 x 8 + 1 x 4", "takes views of one size"),
    ("method=byol augment.views=[{count:3}]", "augment.views=3 x 8", "takes 2 views of one size"),
    ("method=dino augment.views=[{}]", "augment.views=1 x 8", "takes 2 views or more"),
    ("method=swav augment.views=[{},{size:4}]", "augment.views=1 x 8 + 1 x 4", "the first 2 of one size"),
    ("method=lejepa augment.views=[{count:65}]", "augment.views.0.count=65", "[1, 64]"),
    ("method=nnclr batch_size=100", "method.queue_size=1024", "batch_size=100"),
    ("method=swav method.queue_size=100", "method.queue_size=100", "batch_size=64"),
    ("method=distill", "method.teacher.file=null", "give a checkpoint"),
    ("method=distill method.teacher.file=nowhere.ckpt", "method.teacher.file=nowhere.ckpt", "is not a file"),
    ("method=distill method/teacher=timm method.teacher.name=resnet19", "method.teacher.name=resnet19", "did you mean"),
    (
        "method=dino backbone=small_vit data.crop=32 augment.views=[{count:2},{size:18}]",
        "augment.views: 18 pixels",
        "backbone=small_vit cannot take them",
    ),
    ("method=swav method.prototypes=1", "method.prototypes=1", "2"),
    (
        "method=simclr backbone=vit_tiny backbone.patch_size=1 data.crop=200",
        "backbone.patch_size=1",
        "give one of 2, 4, 5",
    ),
    ("method=mae", "backbone=small", "method=mae needs a Vision Transformer; give backbone=vit_tiny, vit_small,"),
    ("method=mae backbone=small_vit method.mask_ratio=0.99", "method.mask_ratio=0.99", "masks 16 of 16 patches"),
    ("method=mae backbone=small_vit method.decoder_heads=5", "method.decoder_width=96", "multiple of method.decoder_h"),
    ("method=mae backbone=small_vit augment.size=16", "augment.views=1 x 16", "the backbone is built for 8"),
    ("method=mae backbone=small_vit augment.views=[{},{}]", "augment.views=2 x 8", "takes 1 view of one size"),
    ("method=simsiam backbone=small_vit backbone.patch_size=3", "backbone.patch_size=3", "the 8 pixels of the views"),
    ("method=simsiam backbone=small_vit backbone.heads=5", "backbone.width=96", "a multiple of backbone.heads=5"),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="trainer=gpu is no mistake here")
def test_missing_gpu_is_reported(config, here):
    with pytest.raises(UserError, match="no CUDA device"):
        build(check(config("trainer=gpu")))


@pytest.mark.parametrize(("arguments", "names", "says"), MISTAKES)
def test_mistake_is_one_line_and_writes_nothing(config, here, arguments, names, says):
    if "trainer=gpu" in arguments and torch.cuda.is_available():
        return
    if "PHOTOS" in arguments:
        (here / "photos").mkdir()
        Image.new("RGB", (8, 8)).save(here / "photos" / "a.png")
        arguments = arguments.replace("PHOTOS", "photos")
    before = sorted(here.rglob("*"))
    with pytest.raises(UserError) as error:
        build(check(config(*arguments.split())))
    message = str(error.value)
    assert message.startswith(names)
    assert says in message
    assert "\n" not in message
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "names", "says"),
    [
        ("method=simsaim", "method=simsaim", "simsiam"),
        ("data=cifar11", "data=cifar11", "cifar10"),
        ("experiment=imagenet/none", "experiment=imagenet/none", "imagenet/simclr"),
        ("optimzer.lr=1", "optimzer.lr=1", "optimizer.lr"),
        ("method.temprature=1 method=simclr", "method.temprature=1", "method.temperature"),
        ("epoch=3", "epoch=3", "epochs"),
        ("eval=all", "eval=all", "use probe="),
    ],
)
def test_misspelt_key_or_option_at_the_command_line(command, tmp_path, arguments, names, says):
    done = command("train.py", *arguments.split())
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {names}: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", ["data=npz data.path=nowhere.npz", "batch_size=5000"])
def test_mistake_at_the_command_line(command, tmp_path, arguments):
    done = command("train.py", *arguments.split())
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given",
    [
        "overwrite=no", "run_dir= overwrite=true", "deterministic=off", "data=null", "~method", "backbone=null",
        "method=null", "backbone.widths=8", "optimizer=3", "data.size=0 data=folder",
    ],
)  # fmt: skip
def test_impossible_value_at_the_command_line_overwrites_nothing(command, tmp_path, given):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_text("mine")
    done = command("train.py", *given.split(" "))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {given.split(' ')[0].lstrip('~')}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "checkpoints" / "last.ckpt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["checkpoints"]


def test_missing_conf_folder_is_reported(tmp_path):
    shutil.copy(ROOT / "train.py", tmp_path)
    shutil.copytree(ROOT / "ssl", tmp_path / "ssl")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "ssl")}
    done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    missing = f"{tmp_path}/conf/train.yaml is missing"
    assert (
        done.stderr == f"error: {missing}; install the package again, or keep the checkout's folder conf where it was\n"
    )
