"""A mistake of the user's: exit code 2, one line that names key and value, and nothing written."""

import fcntl
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from siamese import build, cli, run
from siamese.errors import UserError
from siamese.session import Session

SLOW_TO_FIND = [
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
    ("eval.linear.lrs=[]", "eval.linear.lrs=[]", "a list of numbers"),
    ("data.val_fraction=0", "data.val_fraction=0", "(0, 1)"),
    ("optimizer.lr=-1", "optimizer.lr=-1", "above 0"),
    ("data.resident=maybe", "data.resident=maybe", "auto"),
    ("init_from=5", "init_from=5", "is not a file"),
    ("compile=maybe", "compile=maybe", "auto, true or false"),
    ("eval=all", "eval=", "one of eval_linear.py"),
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
    ("eval.knn.temperature=0", "eval.knn.temperature=0", "above 0"),
    ("method=supervised data=folder data.path=PHOTOS", "method=supervised", "no labels"),
    (
        "method=moco_v3 backbone=timm backbone.name=vit_tiny_patch16_224 data.crop=32",
        "method=moco_v3: has the paper's",
        "backbone.name=vit_tiny_patch16_224 is a vision transformer; choose a ResNet, as in backbone=resnet50",
    ),
    (
        "method=moco_v3 backbone=timm backbone.name=swin_tiny_patch4_window7_224 data.crop=32",
        "method=moco_v3",
        "is a vis",
    ),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIAMESE_RUN_DIR", raising=False)
    return tmp_path


@pytest.mark.skipif(torch.cuda.is_available(), reason="trainer=gpu is no mistake here")
def test_the_machine_has_no_gpu(config, here):
    with pytest.raises(UserError, match="no CUDA device"):
        Session(config("trainer=gpu"))


@pytest.mark.parametrize(("arguments", "names", "says"), SLOW_TO_FIND)
def test_one_line_before_anything_is_written(config, here, arguments, names, says):
    if "trainer=gpu" in arguments and torch.cuda.is_available():
        return
    if "PHOTOS" in arguments:
        from PIL import Image

        (here / "photos").mkdir()
        Image.new("RGB", (8, 8)).save(here / "photos" / "a.png")
        arguments = arguments.replace("PHOTOS", "photos")
    before = sorted(here.rglob("*"))
    with pytest.raises(UserError) as error:
        Session(config(*arguments.split()))
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
        ("experiment=imagenet/none", "experiment/imagenet=none", "simclr"),
        ("optimzer.lr=1", "optimzer.lr=1", "optimizer.lr"),
        ("method.temprature=1 method=simclr", "method.temprature=1", "method.temperature"),
        ("epoch=3", "epoch=3", "epochs"),
    ],
)
def test_misspelt_keys_and_options_at_the_command_line(command, tmp_path, arguments, names, says):
    done = command("train.py", *arguments.split())
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {names}: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", ["data=npz data.path=nowhere.npz", "batch_size=5000"])
def test_mistakes_at_the_command_line(command, tmp_path, arguments):
    done = command("train.py", *arguments.split())
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_a_run(config, here):
    folder = here / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("old")
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match=r"run_dir=run: already holds a run; add overwrite=true, or choose"):
        Session(config("run_dir=run"))
    (folder / "checkpoints" / "last.ckpt").touch()
    for mine in ("checkpoints/epoch100_mine.ckpt", "wandb/notes", "tensorboard/mine", "views.png.bak"):
        (folder / mine).parent.mkdir(exist_ok=True)
        (folder / mine).write_text("kept")
    (folder / "tensorboard" / "events.out.tfevents.1.a").touch()
    with pytest.raises(UserError, match=r"run_dir=run: already holds a run; add resume=true or overwrite=true"):
        Session(config("run_dir=run"))
    assert (folder / "config.yaml").read_text() == "old"
    run.start(Path("run"), config("run_dir=run"), overwrite=True)
    assert (folder / "config.yaml").read_text() != "old"
    kept = [f.name for f in sorted(folder.rglob("*")) if f.is_file() and f.read_text() == "kept"]
    assert kept == ["epoch100_mine.ckpt", "mine.txt", "mine", "views.png.bak", "notes"]
    assert not (folder / "checkpoints" / "last.ckpt").exists()
    assert not list(folder.rglob("events.*"))


HOLDER = """
import os, signal, sys
from pathlib import Path
from siamese.run import Hold
hold = Hold(Path("run"), resume=False, overwrite=False)
if os.fork() == 0:  # a worker that outlives it
    signal.pause()
print("held", flush=True)
signal.pause()
"""


def test_a_folder_in_which_another_process_is_at_work(config, here, monkeypatch):
    """Refused while it lives, however it ends; and what it leaves is found even if it was not there at first."""
    session = Session(config("run_dir=run"))
    other = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="run_dir=run: another process is at work in it; wait for it, or choose"):
            session.start()
        assert sorted(os.listdir("run")) == [".lock"]
        other.kill()
        other.wait()
        with run.Hold(Path("run"), resume=False, overwrite=False):
            pass
        assert os.listdir("run") == []
        with monkeypatch.context() as patch:  # the one before takes its file away between our opening and our locking
            lock = fcntl.lockf
            patch.setattr(fcntl, "lockf", lambda *a: (os.unlink("run/.lock"), lock(*a)))
            with pytest.raises(UserError, match="another process is at work"):
                run.Hold(Path("run"), resume=False, overwrite=False)
        Path("run/results.json").touch()
        with pytest.raises(UserError, match="run_dir=run: already holds a run"):
            session.start()
        assert os.listdir("run") == ["results.json"]
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
        other.stdout.close()


def evaluate(config, *arguments):
    from siamese.evaluation.protocol import Evaluation

    return Evaluation(config(*arguments, name="eval_linear"))


@pytest.mark.parametrize("given", ["run_dir=/proc/x", "run_dir=file/x", "run_dir=file"])
def test_a_folder_that_cannot_be_made(config, tiny, here, given):
    (here / "file").touch()
    with pytest.raises(UserError, match=f"^{given}: .*; (choose another folder|give a folder)$"):
        Session(config(*tiny, given)).start()
    assert os.listdir() == ["file"]


@pytest.mark.parametrize(
    "given",
    [
        "overwrite=no", "run_dir= overwrite=true", "deterministic=off", "data=null", "~method", "backbone=null",
        "method=null", "backbone.widths=8", "optimizer=3", "data.size=0 data=folder",
    ],
)  # fmt: skip
def test_nothing_is_lost_at_the_command_line(command, tmp_path, given):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_text("mine")
    done = command("train.py", *given.split(" "))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {given.split(' ')[0].lstrip('~')}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "checkpoints" / "last.ckpt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["checkpoints"]


def test_a_copy_without_conf(tmp_path):
    import shutil

    root = Path(__file__).resolve().parents[1]
    shutil.copy(root / "train.py", tmp_path)
    shutil.copytree(root / "ssl", tmp_path / "ssl")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "ssl")}
    done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: {tmp_path}/conf/train.yaml is missing; keep the folder conf of the checkout where it was\n"
    )


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harm",))


def test_checkpoints_that_are_not_ours(config, here):
    good = {"state_dict": {"backbone.x": torch.zeros(1)}}
    torch.save(good, "other.ckpt")
    torch.save({"harm": Harmful()}, "harmful.ckpt")
    Path("text.ckpt").write_text("hello")
    Path("empty.ckpt").write_text("")
    buffer = io.BytesIO()
    torch.save(good, buffer)
    Path("cut.ckpt").write_bytes(buffer.getvalue()[:200])
    before = sorted(here.rglob("*"))
    for name, says in (
        ("missing", "is not a file"), ("other", "was not written by train.py"), ("harmful", "could run code"),
        ("text", "ckpt=text.ckpt"), ("empty", "ckpt=empty.ckpt"), ("cut", "ckpt=cut.ckpt"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            evaluate(config, f"ckpt={name}.ckpt")
    with pytest.raises(UserError, match="ckpt="):
        evaluate(config)
    assert sorted(here.rglob("*")) == before  # above all: no folder "harm"


def test_a_data_set_without_labels_cannot_be_evaluated(config, here):
    np.savez("x.npz", train_images=np.zeros((8, 8, 8), np.uint8))
    cfg = config("data=npz", "data.path=x.npz", "backbone=small", "data.crop=8")
    torch.save({"state_dict": {}, "siamese": {"config": build.plain(cfg), "num_classes": 0}}, "a.ckpt")
    with pytest.raises(UserError, match="no labels or no test part"):
        evaluate(config, "ckpt=a.ckpt")


def test_explanations_name_close_keys():
    cfg = OmegaConf.create({"optimizer": {"lr": 1}, "epochs": 2})
    keys = cli.all_keys(cfg)
    assert keys == ["optimizer", "optimizer.lr", "epochs"]


def test_a_user_error_is_one_line():
    assert str(UserError("a=1", "two\nlines", "none")) == "a=1: two lines; none"


@pytest.mark.parametrize("name", ["metrics.csv", "views.png", "config.tmp", "checkpoints/last.tmp", "results.json"])
def test_files_of_the_users_own_are_not_written_over(config, tiny, here, name):
    """A folder that has a file of a name that a run writes holds something already."""
    (here / "mine" / name).parent.mkdir(parents=True)
    (here / "mine" / name).write_text("mine")
    with pytest.raises(UserError, match=r"^run_dir=mine: already holds a run; add .*overwrite=true"):
        Session(config(*tiny, "run_dir=mine"))
    assert (here / "mine" / name).read_text() == "mine"


@pytest.mark.parametrize("link", ["views.png", "metrics.csv", "checkpoints", ".lock", "tensorboard"])
def test_links_in_a_run_folder_are_not_followed(config, tiny, here, link):
    (here / "run").mkdir()
    (here / "outside").mkdir()
    (here / "outside" / "last.ckpt").write_text("mine")
    (here / "run" / link).symlink_to(here / "outside")
    for more in ([], ["overwrite=true"]):
        with pytest.raises(UserError, match=r"^run_dir=run: "):
            Session(config(*tiny, "run_dir=run", *more)).start()
    assert (here / "outside" / "last.ckpt").read_text() == "mine"
    assert os.listdir("outside") == ["last.ckpt"]


def test_a_folder_in_the_place_of_a_file(config, tiny, here):
    (here / "run" / "config.yaml").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^run_dir=run: config.yaml in it is not a run's own"):
        Session(config(*tiny, "run_dir=run", "overwrite=true"))


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "x" * 300])
@pytest.mark.parametrize("key", ["run_dir", "init_from", "data.path", "data.packed"])
def test_paths_that_cannot_be(config, tiny, here, key, path):
    (here / "photos").mkdir()
    from PIL import Image

    Image.new("RGB", (8, 8)).save(here / "photos" / "a.png")
    data = ["data=folder", "data.path=photos", "backbone=small"]
    with pytest.raises(UserError, match=f"^{key}=.*: cannot be a path"):
        Session(config(*data, *tiny, f"{key}='{path}'"))


def test_control_characters_do_not_reach_the_terminal():
    assert str(UserError("a=\x1b[31mred", "b\x07", "c")) == "a=?[31mred: b?; c"
