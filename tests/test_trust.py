"""A checkpoint from somebody else never runs code, reads secrets or writes where it wants."""

import os
from pathlib import Path

import pytest
import torch
import yaml

from siamese import build, checkpoint
from siamese.errors import UserError
from siamese.schema.files import shipped, trusted, upgraded

OLD_CONFIG = Path(__file__).with_name("config_2026-11-24.yaml")  # what train.py wrote then
EVIL = {"_target_": "torch.utils.collect_env.run", "command": "echo > harm"}


@pytest.fixture
def saved(config, tmp_path, monkeypatch):
    """Writes a checkpoint of an untrained network whose config has been changed."""
    monkeypatch.chdir(tmp_path)

    def write(change=lambda config: None, *overrides, file="a.ckpt"):
        cfg = config("backbone.widths=[4,8]", "method.output_dim=16", *overrides)
        data = build.data_set(cfg)
        method = build.method(cfg, build.backbone(cfg), data, views=build.views(cfg))
        content = build.plain(cfg)
        change(content)
        meta = {"config": content, "num_classes": data.num_classes, "images": len(data.fit)}
        torch.save({"state_dict": method.state_dict(), checkpoint.KEY: meta}, file)
        return file

    return write


def evaluation(config, *arguments):
    from siamese.evaluation.protocol import Evaluation

    return Evaluation(config(*arguments, "eval=knn", "eval.cache=null", name="eval_linear"))


def put(*path, value=None):
    """Puts a value (the evil node unless given) at a place of a config."""

    def change(content):
        node = content
        for key in path[:-1]:
            node = node[key] if isinstance(key, int) else node.setdefault(key, {})
        node[path[-1]] = EVIL if value is None else value

    return change


PLACES = [
    ("backbone",), ("backbone", "zz"), ("backbone", "widths"), ("backbone", "deep", "deeper"), ("data",),
    ("data", "zz"),
    ("data", "name"), ("data", "path"), ("method",), ("method", "zz"), ("method", "loss"), ("method", "name"),
    ("augment",), ("augment", "zz"), ("augment", "mean"), ("augment", "views", 0, "flip_p"), ("optimizer", "algorithm"),
    ("optimizer", "zz"), ("trainer",), ("logger",), ("logger", "zz"), ("eval", "linear"), ("eval", "zz"), ("zz",),
    ("checkpoint",), ("scale", "zz"), ("views", "zz"),
]  # fmt: skip


@pytest.mark.parametrize("path", PLACES, ids=lambda p: ".".join(map(str, p)))
def test_a_config_calls_nothing_that_is_not_ours(config, saved, path):
    file = saved(put(*path))
    with pytest.raises(UserError, match=rf"^ckpt={file}: .*_target_=torch.utils.collect_env.run.*trust_config=true"):
        evaluation(config, f"ckpt={file}")
    in_a_list = saved(put(*path, value=[1, {"a": [EVIL]}]))
    with pytest.raises(UserError, match="torch.utils.collect_env.run"):
        evaluation(config, f"ckpt={in_a_list}")
    assert os.listdir() == [file]


def test_ours_at_another_place_is_not_ours(config, saved):
    """A class of the project may do harm where it does not belong."""
    file = saved(put("backbone", value={"_target_": "siamese.optim.LARS", "params": []}))
    with pytest.raises(
        UserError, match="siamese.optim.LARS, is none of this project's own|siamese.optim.LARS: is none"
    ):
        evaluation(config, f"ckpt={file}")


def test_the_supervised_checkpoint_too(config, saved):
    good, bad = saved(), saved(put("backbone", "zz"), "method=simsiam", file="b.ckpt")
    with pytest.raises(UserError, match=r"^eval.supervised=b.ckpt: .*collect_env.*trust_config=true"):
        evaluation(config, f"ckpt={good}", f"eval.supervised={bad}")
    assert sorted(os.listdir()) == ["a.ckpt", "b.ckpt"]


@pytest.mark.parametrize("text", ["${oc.env:SECRET}", "a${oc.env:SECRET}b", "${seed}", "${oc.decode:x}", "???"])
@pytest.mark.parametrize("path", [("run_dir",), ("data", "name"), ("method", "name"), ("backbone", "widths"),
                                  ("augment", "views", 0, "flip_p"), ("zz",)])  # fmt: skip
def test_no_interpolation_is_resolved(config, saved, monkeypatch, capsys, text, path):
    monkeypatch.setenv("SECRET", "hunter2")
    for value in (text, [text]):
        file = saved(put(*path, value=value))
        with pytest.raises(UserError, match=r"^ckpt=a.ckpt: .*interpolation") as error:
            evaluation(config, f"ckpt={file}")
        assert "hunter2" not in str(error.value) + capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("method", "name"), "../../../somewhere"), (("data", "name"), "/etc/x"), (("backbone", "zz"), 1),
        (("backbone", "widths"), "x"), (("data", "center"), 9), (("seed",), -1), (("backbone", "widths"), [10**9]),
        (("zz",), 1), (("method",), None), (("data",), []), (("method", "output_dim"), 10**12), ((3,), 1),
        (("data", "source"), {"_target_": "hydra.utils.get_class", "path": "antigravity.fly"}),
    ],
    ids=str,
)  # fmt: skip
def test_values_have_the_types_of_the_schema(config, saved, path, value):
    file = saved(put(*path, value=value) if value is not None else put(*path, value=0))
    with pytest.raises(UserError, match=r"^ckpt=a.ckpt: its config cannot be used: ") as error:
        evaluation(config, f"ckpt={file}")
    assert "\n" not in str(error.value)


def test_a_config_that_never_ends(config, saved):
    loop = []
    loop.append(loop)
    with pytest.raises(UserError, match="nested too deeply"):
        evaluation(config, f"ckpt={saved(put('zz', value=loop))}")


def test_a_config_that_is_walked_without_end(config, saved):
    """A small file whose lists share their members."""
    many = [1]
    for _ in range(12):
        many = [many] * 10
    with pytest.raises(UserError, match="zz.*: holds more than 10,000 values"):
        evaluation(config, f"ckpt={saved(put('zz', value=many))}")


@pytest.mark.parametrize("target", [["a"], {"a": 1}, 3, None])
def test_targets_that_are_no_text(config, saved, target):
    with pytest.raises(UserError, match="backbone.zz._target_=.*: is none of this project's own"):
        evaluation(config, f"ckpt={saved(put('backbone', 'zz', value={'_target_': target}))}")


@pytest.mark.parametrize(
    "key", [("method", "name"), ("data", "name"), ("data", "crop"), ("augment", "mean"), ("seed",)]
)
def test_keys_that_are_missing(config, saved, key):
    def change(content):
        node = content
        for part in key[:-1]:
            node = node[part]
        del node[key[-1]]

    with pytest.raises(UserError, match=f"^ckpt=a.ckpt: its config cannot be used: {'.'.join(key)}: is missing"):
        evaluation(config, f"ckpt={saved(change)}")


def test_timm_options_that_read_other_files(config, saved):
    def change(content):
        content["backbone"] = {
            "_target_": "siamese.backbones.timm_model", "name": "resnet18", "image_size": 32, "pretrained": True,
            "options": {"checkpoint_path": "/etc/passwd"},
        }  # fmt: skip

    with pytest.raises(UserError, match=r"backbone.options.checkpoint_path: would read or fetch another file"):
        evaluation(config, f"ckpt={saved(change)}")


def test_what_a_file_asks_to_fetch_or_to_pack_is_not_done(config, saved, tmp_path):
    """The weights are in the file; images are packed where the user says so, nowhere else."""
    cfg = build.plain(config("data=folder", "data.path=photos", "data.packed=elsewhere", "backbone=timm"))
    cfg["backbone"]["pretrained"] = True
    file = saved()
    one = evaluation(config, f"ckpt={file}")
    state = {"siamese": {"config": cfg}, "state_dict": {}}
    trained = one._trusted(state, "ckpt=x")
    assert trained.backbone.pretrained is False
    assert trained.data.packed is None
    cfg = build.plain(config("data=cifar10", "data.download=true"))
    assert one._trusted({"siamese": {"config": cfg}, "state_dict": {}}, "ckpt=x").data.download is False


def test_a_class_of_the_users_own_needs_the_users_word(config, saved, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "from siamese.backbones import small_resnet\n"
        "Path('imported').touch()\n"
        "def net(name: str, widths: list, blocks: int):\n"
        "    return small_resnet(name, widths, blocks)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = saved(put("backbone", "_target_", value="mine.net"))
    with pytest.raises(UserError, match="mine.net: is none of this project's own .*add trust_config=true"):
        evaluation(config, f"ckpt={file}")
    assert not Path("imported").exists()
    assert evaluation(config, f"ckpt={file}", "trust_config=true").backbone.feature_dim == 8
    file = saved(put("backbone", "zz", value=1))
    with pytest.raises(UserError, match="backbone.zz=1: no such key"):  # trusted or not
        evaluation(config, f"ckpt={file}", "trust_config=true")


def test_every_option_of_ours_is_known(config):
    """What conf/ names is what may be named, each at its place; nothing of the standard library is among it."""
    known = shipped()
    assert known["method"] >= {"siamese.methods.byol.BYOL", "siamese.methods.moco.MoCo"}
    assert known["method.loss"] >= {"siamese.losses.nt_xent"}
    assert known["eval.linear"] == {"siamese.evaluation.LinearGrid"}
    named = {target for key, targets in known.items() if not key.startswith("hydra") for target in targets}
    assert all(t.startswith(("siamese.", "torch.optim.", "pytorch_lightning.")) for t in named), named
    for overrides in (["method=byol"], ["method=simclr", "data=stl10", "backbone=timm"], ["data=imagenet"]):
        trusted(build.plain(config(*overrides)), "ckpt=x", trust=False)


def test_the_config_of_an_older_version_is_read(config):
    """Written at 68a1e68; data sets of torchvision were named by a node of Hydra's then."""
    old = yaml.safe_load(OLD_CONFIG.read_text())
    cfg = trusted(old, "ckpt=x", trust=False)
    assert cfg.method.name == "simclr"
    assert build.backbone(cfg).feature_dim == 8
    same = {"source": {"_target_": "hydra.utils.get_class", "path": "torchvision.datasets.CIFAR10"}}
    assert upgraded({"data": same, "trainer": {"max_steps": -1}}) == {"data": {"source": "CIFAR10"}, "trainer": {}}
    lars = {"optimizer": {"algorithm": {"_target_": "siamese.optim.LARS"}}}
    assert upgraded(lars)["optimizer"]["algorithm"]["clip"] is False
    assert upgraded({"method": {"_target_": "siamese.methods.moco.MoCo"}})["method"]["final_momentum"] is None
    assert build.changed_recipe(old, upgraded(old), in_mid_epoch=True) == []
    assert build.recipe_digest(old) == build.recipe_digest(upgraded(old))


@pytest.mark.parametrize("meta", [1, {}, {"config": 3}, {"config": None}, []])
def test_damaged_entries_are_no_checkpoint_of_ours(config, tmp_path, monkeypatch, meta):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"backbone.x": torch.ones(1)}, checkpoint.KEY: meta}, "a.ckpt")
    with pytest.raises(UserError, match="^ckpt=a.ckpt: was not written by train.py"):
        evaluation(config, "ckpt=a.ckpt")


def test_tensors_that_are_none(config, saved):
    file = saved()
    state = torch.load(file, weights_only=True)
    name = next(k for k in state["state_dict"] if k.startswith("backbone."))
    state["state_dict"][name] = "text"
    torch.save(state, file)
    with pytest.raises(UserError, match="1 missing: "):
        evaluation(config, f"ckpt={file}")
