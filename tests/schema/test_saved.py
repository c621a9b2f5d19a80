"""The config of an untrusted checkpoint runs no code, reads no secrets and chooses no place to write."""

import contextlib
import copy
import itertools
import os
from pathlib import Path

import pytest
import torch
import yaml

from siamese import factory
from siamese.checkpoints.reading import KEY
from siamese.config import to_dict
from siamese.errors import UserError
from siamese.evaluation import build, settings
from siamese.evaluation.baselines import load_projector
from siamese.options import options
from siamese.schema.saved import shipped, trusted, upgraded

OLD_CONFIG = Path(__file__).with_name("config_2026-11-24.yaml")  # written by train.py of that day
EVIL = {"_target_": "torch.utils.collect_env.run", "command": "echo > harm"}


@pytest.fixture
def saved(config, tmp_path, monkeypatch):
    """Writes a checkpoint of an untrained network whose config has been changed."""
    monkeypatch.chdir(tmp_path)

    def write(change=lambda config: None, *overrides, file="a.ckpt"):
        cfg = config("backbone.widths=[4,8]", "method.output_dim=16", *overrides)
        data = factory.data_set(cfg)
        method = factory.method(cfg, factory.backbone(cfg), data, views=factory.views(cfg))
        content = to_dict(cfg)
        change(content)
        meta = {"config": content, "num_classes": data.num_classes, "images": len(data.train_labeled)}
        torch.save({"state_dict": method.state_dict(), KEY: meta}, file)
        return file

    return write


def evaluation(config, *arguments):
    return build.build(build.check(config(*arguments, "eval=knn", "eval.cache=null", name="eval_linear"), ()))


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
    ("optimizer", "zz"), ("trainer",), ("logger",), ("logger", "zz"), ("probe", "linear"), ("probe", "zz"), ("zz",),
    ("checkpoint",), ("augment_scale", "zz"), ("augment_recipe", "zz"), ("eval", "linear"), ("scale", "zz"),
    ("views", "zz"),
]  # fmt: skip


@pytest.mark.parametrize("path", PLACES, ids=lambda p: ".".join(map(str, p)))
def test_foreign_target_is_refused(config, saved, path):
    file = saved(put(*path))
    with pytest.raises(UserError, match=rf"^ckpt={file}: .*_target_=torch.utils.collect_env.run.*trust_config=true"):
        evaluation(config, f"ckpt={file}")
    in_a_list = saved(put(*path, value=[1, {"a": [EVIL]}]))
    with pytest.raises(UserError, match="torch.utils.collect_env.run"):
        evaluation(config, f"ckpt={in_a_list}")
    assert os.listdir() == [file]


def test_own_class_at_another_place_is_refused(config, saved):
    """A class of the project may do harm at a place where it does not belong."""
    file = saved(put("backbone", value={"_target_": "siamese.optim.LARS", "params": []}))
    with pytest.raises(
        UserError, match="siamese.optim.LARS, is not a class of this project|siamese.optim.LARS: is not"
    ):
        evaluation(config, f"ckpt={file}")


def test_supervised_checkpoint_is_checked_too(config, saved):
    good, bad = saved(), saved(put("backbone", "zz"), "method=simsiam", file="b.ckpt")
    with pytest.raises(UserError, match=r"^eval.supervised=b.ckpt: .*collect_env.*trust_config=true"):
        evaluation(config, f"ckpt={good}", f"eval.supervised={bad}")
    assert sorted(os.listdir()) == ["a.ckpt", "b.ckpt"]


def places_of(node, place=()):
    for key, value in node.items():
        yield (*place, key)
        if isinstance(value, dict):
            yield from places_of(value, (*place, key))


@pytest.mark.parametrize(
    "garbage", [[], {}, None, 3, "x", [1], {"a": 1}, True, {"_target_": []}, [{"_target_": {}}]], ids=str
)
def test_config_of_other_types_is_refused_without_a_crash(garbage):
    """At every place of a config of then and of now, options of timm included."""
    old = yaml.safe_load(OLD_CONFIG.read_text())
    timm = {
        "_target_": "siamese.backbones.timm_model",
        "name": "x",
        "image_size": 8,
        "pretrained": False,
        "options": {},
    }
    for base in ({**old, "backbone": timm}, {"probe": old["eval"], **{k: v for k, v in old.items() if k != "eval"}}):
        for place in places_of(base):
            changed = copy.deepcopy(base)
            node = changed
            for key in place[:-1]:
                node = node[key]
            node[place[-1]] = garbage
            with contextlib.suppress(UserError):
                trusted(changed, "ckpt=x", trust=False)


@pytest.mark.parametrize("text", ["${oc.env:SECRET}", "a${oc.env:SECRET}b", "${seed}", "${oc.decode:x}", "???"])
@pytest.mark.parametrize("path", [("run_dir",), ("data", "name"), ("method", "name"), ("backbone", "widths"),
                                  ("augment", "views", 0, "flip_p"), ("zz",)])  # fmt: skip
def test_interpolation_is_refused(config, saved, monkeypatch, capsys, text, path):
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
def test_impossible_value_is_refused(config, saved, path, value):
    file = saved(put(*path, value=value) if value is not None else put(*path, value=0))
    with pytest.raises(UserError, match=r"^ckpt=a.ckpt: its config cannot be used: ") as error:
        evaluation(config, f"ckpt={file}")
    assert "\n" not in str(error.value)


def test_cyclic_config_is_refused(config, saved):
    loop = []
    loop.append(loop)
    with pytest.raises(UserError, match="nested too deeply"):
        evaluation(config, f"ckpt={saved(put('zz', value=loop))}")


def test_exponentially_large_config_is_refused(config, saved):
    """A small file whose lists share their members."""
    many = [1]
    for _ in range(12):
        many = [many] * 10
    with pytest.raises(UserError, match="zz.*: holds more than 10,000 values"):
        evaluation(config, f"ckpt={saved(put('zz', value=many))}")


@pytest.mark.parametrize("target", [["a"], {"a": 1}, 3, None])
def test_nontext_target_is_refused(config, saved, target):
    with pytest.raises(UserError, match="backbone.zz._target_=.*: is not a class of this project"):
        evaluation(config, f"ckpt={saved(put('backbone', 'zz', value={'_target_': target}))}")


@pytest.mark.parametrize(
    "key", [("method", "name"), ("data", "name"), ("data", "crop"), ("augment", "mean"), ("seed",)]
)
def test_missing_key_is_reported(config, saved, key):
    def change(content):
        node = content
        for part in key[:-1]:
            node = node[part]
        del node[key[-1]]

    with pytest.raises(UserError, match=f"^ckpt=a.ckpt: its config cannot be used: {'.'.join(key)}: is missing"):
        evaluation(config, f"ckpt={saved(change)}")


def test_timm_option_that_reads_files_is_refused(config, saved):
    def change(content):
        content["backbone"] = {
            "_target_": "siamese.backbones.timm_model", "name": "resnet18", "image_size": 32, "pretrained": True,
            "options": {"checkpoint_path": "/etc/passwd"},
        }  # fmt: skip

    with pytest.raises(UserError, match=r"backbone.options.checkpoint_path: would read or fetch another file"):
        evaluation(config, f"ckpt={saved(change)}")


def test_a_strangers_teacher_is_never_built(config):
    """Not even for a file that holds a projector; its options are checked as a backbone's are."""
    cfg = to_dict(config("method=distill", "method/teacher=timm", "method.teacher.name=resnet10t"))
    known = settings.trusted_config({KEY: {"config": cfg}}, "ckpt=x", trust=False)
    assert known.method.teacher.pretrained is False
    state = {"state_dict": {"projector.0.weight": torch.zeros(2, 2)}}
    assert load_projector(state, known, None, None) is None
    for option in ("checkpoint_path", "pretrained_cfg", "cache_dir"):
        cfg["method"]["teacher"]["options"] = {option: "x"}
        with pytest.raises(UserError, match=rf"method.teacher.options.{option}: would read or fetch another file"):
            trusted(cfg, "ckpt=x", trust=False)


def test_run_with_a_third_partys_teacher_is_trusted(config):
    trusted(to_dict(config("method=distill", "method/teacher=third_party")), "ckpt=x", trust=False)


def test_downloads_and_packing_are_disabled(config):
    """The weights are in the file; images are packed where the user says so, nowhere else."""
    cfg = to_dict(config("data=folder", "data.path=photos", "data.packed=elsewhere", "backbone=timm"))
    cfg["backbone"]["pretrained"] = True
    trained = settings.trusted_config({KEY: {"config": cfg}}, "ckpt=x", trust=False)
    assert trained.backbone.pretrained is False
    assert trained.data.packed is None
    cfg = to_dict(config("data=cifar10", "data.download=true"))
    assert settings.trusted_config({KEY: {"config": cfg}}, "ckpt=x", trust=False).data.download is False


def test_user_class_needs_trust_config(config, saved, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "from siamese.backbones import small_resnet\n"
        "Path('imported').touch()\n"
        "def net(name: str, widths: list, blocks: int, channels: int, adapt_first_layer: bool, freeze_stem: bool):\n"
        "    return small_resnet(name, widths, blocks)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = saved(put("backbone", "_target_", value="mine.net"))
    with pytest.raises(UserError, match="mine.net: is not a class of this project .*add trust_config=true"):
        evaluation(config, f"ckpt={file}")
    assert not Path("imported").exists()
    assert evaluation(config, f"ckpt={file}", "trust_config=true").rows[-1].network.feature_dim == 8
    file = saved(put("backbone", "zz", value=1))
    with pytest.raises(UserError, match="backbone.zz=1: no such key"):  # trusted or not
        evaluation(config, f"ckpt={file}", "trust_config=true")


def test_all_options_of_conf_are_trusted(config):
    """Each at its place; nothing of the standard library is among them."""
    known = shipped()
    assert known["probe.linear"] == {"siamese.probes.linear.LinearGrid"}
    named = {target for key, targets in known.items() if not key.startswith("hydra") for target in targets}
    assert all(t.startswith(("siamese.", "torch.optim.", "pytorch_lightning.")) for t in named), named
    groups = ("method", "data", "backbone", "optimizer", "trainer", "logger")
    chosen = [[f"{group}={option}" for option in options(group)] for group in groups]
    losses = [["method=simclr", f"method/loss={loss}"] for loss in options("method/loss")]
    for overrides in [*itertools.zip_longest(*chosen), *losses]:  # several groups at once: composing takes time
        trusted(to_dict(config(*filter(None, overrides))), "ckpt=x", trust=False)


def test_config_of_older_version_is_upgraded(config):
    """Written at 68a1e68; data sets of torchvision were named by a node of Hydra's then."""
    old = yaml.safe_load(OLD_CONFIG.read_text())
    cfg = trusted(old, "ckpt=x", trust=False)
    assert cfg.method.name == "simclr"
    assert factory.backbone(cfg).feature_dim == 8
    for target, name in (("WandbLogger", "wandb"), ("TensorBoardLogger", "tensorboard"), ("CometLogger", "own")):
        node = {"_target_": f"pytorch_lightning.loggers.{target}", "project": "siamese"}
        assert upgraded({"logger": node})["logger"] == {name: node}
    node = {"_target_": "pytorch_lightning.loggers.WandbLogger", "project": "siamese"}
    assert trusted({**old, "logger": node}, "ckpt=x", trust=False).logger == {"wandb": node}
    same = {"source": {"_target_": "hydra.utils.get_class", "path": "torchvision.datasets.CIFAR10"}}
    eight_bits = {"channels": 3, "value_range": [0.0, 255.0]}
    new = {"data": {"source": "CIFAR10", "show": None, **eight_bits}, "trainer": {}}
    assert upgraded({"data": same, "trainer": {"max_steps": -1}}) == new
    lars = {"optimizer": {"algorithm": {"_target_": "siamese.optim.LARS"}}}
    assert upgraded(lars)["optimizer"]["algorithm"]["clip"] is False
    assert upgraded({"method": {"_target_": "siamese.methods.moco.MoCo"}})["method"]["final_momentum"] is None
