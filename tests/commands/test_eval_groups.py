"""eval_linear.py takes the groups data=, backbone= and augment= of train.py."""

import json
import re

import numpy as np
import pytest
import torch
import torchvision

from siamese.cli import moved_groups
from siamese.errors import UserError
from siamese.evaluation import settings
from siamese.options import CONF


@pytest.fixture
def npz(tmp_path):
    """60 images of three classes."""
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    parts = {f"{p}_images": rng.integers(0, 256, (60, 12, 12), dtype=np.uint8) for p in ("train", "test")}
    np.savez(tmp_path / "x.npz", **parts, train_labels=labels, test_labels=labels)
    return tmp_path / "x.npz"


@pytest.fixture
def trained(session):
    run = session("epochs=1")
    run.fit()
    return run.state.checkpoint


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["ckpt=a", "data.path=d", "data.workers=0"], ["ckpt=a", "data.path=d", "data.workers=0"]),
        (["data=cifar100", "data.path=d", "ckpt=a"], ["foreign=['data=cifar100']", "data.path=d", "ckpt=a"]),
        (["backbone=timm", "backbone.name=x", "+backbone.options.num_heads=12"],
         ["foreign=['backbone=timm','backbone.name=x','+backbone.options.num_heads=12']"]),
        (["augment=large/simclr", "data.mean=[0,0.5,1]"], ["foreign=['augment=large/simclr','data.mean=[0,0.5,1]']"]),
        (["data=npz,digits", "backbone=small", "-m"],
         ["foreign=['data=npz','backbone=small'],['data=digits','backbone=small']", "-m"]),
        (["ckpt=a", "+data=digits", "--cfg", "job"], ["ckpt=a", "foreign=['data=digits']", "--cfg", "job"]),
        (["data=null", "backbone=null", "augment=null", "ckpt=a"], ["ckpt=a"]),
        (["eval.data=[digits]", "run_dir=data=1"], ["eval.data=[digits]", "run_dir=data=1"]),
    ],
)  # fmt: skip
def test_groups_of_the_command_line_are_gathered(given, expected):
    assert moved_groups(given) == expected


@pytest.mark.parametrize("value", [r"a\,b", r"a\b", "[1,2]", "'two words'", "${data.crop}", "x\\"])
def test_values_reach_the_composition_as_they_were_typed(config, value):
    (gathered,) = moved_groups([f"data.name={value}"])
    (item,) = config(gathered, name="eval_linear").foreign
    assert settings.Given([item]).overrides == [f"data.name={value}"]


@pytest.mark.parametrize("given", ["data=npz,digits", "backbone=glob(*)", "data=choice(npz,digits)"])
def test_several_values_need_a_sweep(given):
    with pytest.raises(UserError, match="names several values; give one; or add -m, and list them"):
        moved_groups([given, "ckpt=a"])


def test_groups_and_their_alias_exclude_each_other():
    with pytest.raises(UserError, match=r"data=npz: foreign=\[…\] sets the same; give only one of them"):
        moved_groups(["foreign=[backbone:small]", "data=npz"])


def test_checkpoint_of_ours_on_another_data_set(command, trained, npz, tmp_path):
    """Exit code, table and results.json; the view is that of the training."""
    common = (f"ckpt={trained}", "eval=knn", "eval.cache=null")
    done = command("eval_linear.py", *common, "data=npz", f"data.path={npz}", "run_dir=e")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["data"] == "npz" and list(results["results"]) == ["npz"]
    assert results["results"]["npz"]["classes"] == 3
    assert results["results"]["npz"]["view"]["size"] == 8
    assert results["results"]["npz"]["view"]["mean"] == [0.306] * 3
    assert results["command"].endswith("run_dir=e") and "data=npz" in results["command"]
    alias = command("eval_linear.py", *common, f"foreign=[data:npz,'data.path:{npz}']", "run_dir=alias")
    assert alias.returncode == 0, alias.stderr
    same = json.loads((tmp_path / "alias" / "results.json").read_text())
    assert same["results"]["npz"]["rows"] == results["results"]["npz"]["rows"]


def test_third_party_file(command, npz, tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    common = ("ckpt=r18.pth", "eval=knn", "eval.cache=null", "data=npz", f"data.path={npz}", "data.crop=32")
    done = command("eval_linear.py", *common, "backbone=resnet18", "augment=large/simclr", "run_dir=e")
    assert done.returncode == 2 and "add data.channels=3 to repeat grey images, or backbone.adapt_first" in done.stderr
    common = (*common, "data.channels=3")
    done = command("eval_linear.py", *common, "backbone=resnet18", "augment=large/simclr", "run_dir=e")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["format"].startswith("plain state dict") and results["backbone"] == "resnet18"
    assert results["results"]["npz"]["view"]["interpolation"] == "bicubic"  # SimCLR's
    assert results["results"]["npz"]["view"]["mean"] == [0.0] * 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data=cifar11"], "error: data=cifar11: no such option; choose one of .*cifar10"),
        (["backbone=resnet50"], "does not fit the backbone: .*leave backbone= out"),
        (["data.crop=16"], "error: data.crop=16: the checkpoint holds its own config; leave it out, or choose data="),
        (["data=npz"], "data.path=null: this data set needs a path"),
        (["augment.blur_p=0.5"], "error: augment.blur_p=0.5: the checkpoint holds its own config"),
        (["backbone=small", "backbone.widhts=[4]"], "backbone.widhts=.*no such key"),
    ],
)
def test_mistakes_in_groups(evaluation, trained, tmp_path, arguments, says):
    with pytest.raises(UserError) as error:
        evaluation(trained, "eval=knn", *moved_groups(arguments))
    assert re.search(says, f"error: {error.value}"), error.value
    assert not (tmp_path / "e").exists()


def test_mistake_in_a_group_ends_with_exit_code_2(command, trained, tmp_path):
    done = command("eval_linear.py", f"ckpt={trained}", "run_dir=e", "eval=knn", "data=cifar11")
    assert done.returncode == 2
    assert re.fullmatch("error: data=cifar11: no such option; choose one of .*\n", done.stderr)
    assert not (tmp_path / "e").exists()


def test_an_augmentation_of_ones_own_choice(evaluation, trained):
    """For protocols that crop; size and normalisation stay those of the training."""
    made = evaluation(trained, "eval=knn", "foreign=['augment=large/moco_v2']")
    assert made.judged.augment.size == 8
    assert list(made.judged.augment.mean) == pytest.approx([0.306] * 3)
    assert made.judged.augment.blur_p == 0.5 and made.trained.augment.blur_p == 0.0


def test_every_group_is_one_of_train(config):
    for group in settings.GROUPS:
        assert (CONF / group).is_dir()
