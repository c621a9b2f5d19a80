"""Every key of a config has a type: an impossible value is one line that names it, before anything is built."""

import functools
import math

import pytest
from omegaconf import OmegaConf

from siamese.errors import UserError
from siamese.options import options
from siamese.schema import check_eval, check_train
from siamese.schema.check import check_group
from siamese.schema.groups import Train
from siamese.training import build, check

CHOICES = {group: options(group) for group in ("method", "data", "backbone", "optimizer", "trainer", "logger", "probe")}
# Every option of every group at least once.
COMBINATIONS = [
    tuple(f"{group}={found[i % len(found)]}" for group, found in CHOICES.items())
    for i in range(max(map(len, CHOICES.values())))
]
COMBINATIONS += [("method=simclr", f"method/loss={loss}") for loss in options("method/loss")]
GARBAGE = ["x y", "", -3, -0.5, math.nan, math.inf, True, [], ["a"], [[1]], {"a": 1}]
# Keys that may have any value that Lightning or a logger knows.
OPEN = ("trainer.accelerator", "trainer.strategy", "trainer.devices", "logger.")


def leaves(node, prefix=""):
    for key in node:
        child = node._get_node(key)
        name = f"{prefix}{key}"
        if OmegaConf.is_dict(child) and len(child):
            yield from leaves(child, f"{name}.")
        else:
            yield name


def possible(key, value):
    """Whether the key may have this value of `GARBAGE`."""
    text = key.endswith(
        ("path", "run_dir", "teacher.file", "init_from", "packed", "data.labels", "data.list")
    ) and isinstance(value, (str, int))
    switch = value is True and key.split(".")[-1] in (
        "resume", "overwrite", "report", "compile", "deterministic", "resident", "compiled", "download", "small_stem",
        "mlp", "zero_init_residual", "pretrained", "gray_first", "fused", "exclude_bias_and_norm", "fix_predictor_lr",
        "lr_in_buffer", "symmetric", "freeze_patches", "freeze_stem", "adapt_first_layer", "_partial_", "train",
        "nesterov", "clip",
        "norm_last_layer", "pool_views", "times_samples",
        "normalise_pixels", "predictor_last_bn",
    )  # fmt: skip
    free = key.startswith(("data.train.", "data.test.")) and isinstance(value, (str, bool))
    whole_list = value == [] and key in ("optimizer.milestones", "trainer.devices", "data.include", "data.exclude")
    algorithm = key.startswith("optimizer.algorithm.") and isinstance(value, float | int)  # tried by a step, below
    mapping = isinstance(value, dict) and key in ("backbone.options", "augment_scale", "augment_recipe")
    column = key in ("data.image", "data.label") and (isinstance(value, str) or value in ([], ["a"]))
    globs = key in ("data.include", "data.exclude") and value == ["a"]
    if column or globs:
        return True
    return (text and value != "") or switch or free or whole_list or mapping or algorithm or key.startswith(OPEN)


@pytest.mark.parametrize("overrides", COMBINATIONS, ids=" ".join)
def test_training_key_refuses_impossible_values(config, overrides):
    cfg = config(*overrides)
    check_train(cfg)
    OmegaConf.set_struct(cfg, False)
    keys = [k for k in leaves(cfg) if not k.endswith("_target_") and k != "logger"]  # an empty node: see below
    assert len(keys) > 80
    if overrides != COMBINATIONS[0]:  # the other keys are those of the first one
        keys = [
            k for k in keys if k.startswith("method.loss." if len(overrides) == 2 else tuple(f"{g}." for g in CHOICES))
        ]
    values = OmegaConf.to_container(cfg, resolve=True)  # once: to resolve a config takes longer than to check it
    accepted, unclear = [], []
    for key in keys:
        *nodes, last = key.split(".")
        node = functools.reduce(lambda inner, name: inner[name], nodes, values)
        before = node[last]
        for value in (v for v in GARBAGE if not possible(key, v)):
            node[last] = value
            try:
                check_group("", values, Train)
                accepted.append((key, value))
            except UserError as error:
                if "\n" in str(error) or last not in str(error):
                    unclear.append((key, value, str(error)))
        node[last] = before
    assert accepted == []
    assert unclear == []
    check_group("", values, Train)


@pytest.mark.parametrize("key", ["batch_size", "eval.knn.ks", "eval.linear.lrs", "eval.logistic.l2s", "data.workers",
                                 "eval.linear_crops.momentum", "eval.unlabelled.views", "eval.in_memory_mb",
                                 "eval.linear_crops.crop_scale", "overwrite", "trust_config", "foreign",
                                 "eval.data"])  # fmt: skip
def test_evaluation_key_refuses_impossible_values(config, key):
    for value in ("x y", -3, math.nan, [["a"]], {"a": 1}):
        cfg = config("ckpt=a.ckpt", "eval=all", name="eval_linear")
        check_eval(cfg)
        OmegaConf.set_struct(cfg, False)
        OmegaConf.update(cfg, key, value, merge=False)
        with pytest.raises(UserError, match=key.replace(".", r"\.")):
            check_eval(cfg)


@pytest.mark.parametrize("group", ["data", "backbone", "method", "optimizer", "augment", "trainer", "probe", "logger"])
@pytest.mark.parametrize("value", [None, "x", 3, []])
def test_group_must_be_a_node(config, group, value):
    cfg = config()
    OmegaConf.set_struct(cfg, False)
    OmegaConf.update(cfg, group, value, merge=False)
    with pytest.raises(UserError, match=f"^{group}=.*: these settings are needed; choose one of"):
        check_train(cfg)
    del cfg[group]
    with pytest.raises(UserError, match=f"^{group}=null: these settings are needed"):
        check_train(cfg)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("backbone.widths=[]", "backbone.widths=[]: not a possible value; give a list of one or more whole numbers"),
        ("backbone.widths=[0]", "backbone.widths=[0]: not a possible value"),
        ("backbone.widths=8", "backbone.widths=8: not a possible value"),
        ("backbone.blocks=-1", "backbone.blocks=-1: not a possible value; give a whole number in [1, 1000]"),
        ("data=folder data.size=big data.path=p", "data.size=big: not a possible value; give a whole number"),
        ("data=folder data.size=0 data.path=p", "data.size=0: not a possible value; give a whole number"),
        ("data.split_seed=x", "data.split_seed=x: not a possible value"),
        ("+method.extra=1", "method.extra=1: no such key"),
        ("+method.predictor_dims=1", "method.predictor_dims=1: no such key; did you mean method.predictor_dim or"),
        ("method.predictor_dim=-3", "method.predictor_dim=-3: not a possible value"),
        ("method.name=[a]", "method.name=[a]: not a possible value; give a name of letters"),
        ("method.name=../../x", "method.name=../../x: not a possible value"),
        ("data.center=0", "data.center=0: not a possible value; give a number in (0, 1]"),
        ("data.center=5", "data.center=5: not a possible value"),
        ("data.val_fraction=0.001", "data.val_fraction=0.001: holds out no image; the largest class has 146 images"),
        ("data.test_fraction=-1", "data.test_fraction=-1: not a possible value"),
        ("data.test_fraction=1", "data.test_fraction=1: not a possible value; give a number in (0, 1)"),
        ("data.test_fraction=0.9999", "data.test_fraction=0.9999: leaves a split without images of some class"),
        ("augment.mean=0.5", "augment.mean=0.5: not a possible value; give auto, or a number"),
        ("data.mean=[300,300,300]", "data.mean=[300,300,300]: not a possible value; give auto, or a number in [0, 1]"),
        ("augment.std=[0,0,0]", "augment.std=[0,0,0]: not a possible value"),
        ("augment.crop_ratio=[0,0]", "augment.crop_ratio=[0,0]: not a possible value; give two rising"),
        ("augment.crop_ratio=[2,1]", "augment.crop_ratio=[2,1]: not a possible value"),
        ("augment.blur_sigma=[-1,2]", "augment.blur_sigma=[-1,2]: not a possible value"),
        ("augment.jitter=[1,1,1]", "augment.jitter=[1,1,1]: not a possible value; give four strengths"),
        ("augment.jitter=[0,0,0,0.6]", "augment.jitter=[0,0,0,0.6]: not a possible value"),
        ("augment.views=[{flip:1},{}]", "augment.views.0.flip=1: no such key; did you mean augment.views.0.flip_p?"),
        ("augment.views=[{flip_p:7},{}]", "augment.views.0.flip_p=7: not a possible value"),
        ("overwrite=no", "overwrite=no: not a possible value; give true or false"),
        ("overwrite=1", "overwrite=1: not a possible value; give true or false"),
        ("deterministic=on", "deterministic=on: not a possible value"),
        ("compile=yes", "compile=yes: not a possible value; give auto, true or false"),
        ("data=cifar10 data.download=no", "data.download=no: not a possible value; give true or false"),
        ("run_dir=", "run_dir=: not a possible value; give a path"),
        ("run_dir='  '", "run_dir= : not a possible value; give a path"),
        ("run_dir=2024.10", "run_dir=2024.1: not a possible value; give a path (in quotes"),
        ("init_from=", "init_from=: not a possible value"),
        ("optimizer.algorithm.betas=[0.9]", "optimizer.algorithm.betas=[0.9]: not a possible value"),
        ("optimizer.algorithm.betas=[0.9,2]", "optimizer.algorithm: cannot work (Invalid beta parameter"),
        ("optimizer.algorithm.fused=no", "optimizer.algorithm.fused=no: not a possible value"),
        ("optimizer=sgd optimizer.algorithm.momentum=-1", "optimizer.algorithm: cannot work (Invalid momentum"),
        ("backbone._target_=nowhere.Net", "backbone._target_=nowhere.Net: cannot be imported (ModuleNotFound"),
        ("backbone._target_=Net", "backbone._target_=Net: cannot be imported (no module.name)"),
        ("+trainer.max_steps=3", "trainer.max_steps=3: the run sets it itself; use epochs="),
        ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps=0: not a possible value"),
        ("+foo=1", "foo=1: no such key"),
        ("method.fix_predictor_lr=perhaps", "method.fix_predictor_lr=perhaps: not a possible value"),
        ("seed=${nothing}", "the config: cannot be resolved"),
        ("method=moco method.hidden_dim=0", "method.hidden_dim=0: v2's head has a hidden layer"),
        ("augment.views=[]", "augment.views=[]: not a possible value"),
        ("augment.views=[{}]", "augment.views=1 x 8: method=simsiam takes 2 views of one size; give"),
        ("augment.views=[{},{},{}]", "augment.views=3 x 8: method=simsiam takes 2 views of one size; give"),
        ("+data.classes=[a]", "data.classes=[a]: no such key"),
        ("+data.train=3", "data.train=3: no such key"),
        ("optimizer.algorithm._partial_=false", "optimizer.algorithm._partial_=false: must be true"),
        ("+optimizer.algorithm.lr=5", "optimizer.algorithm.lr=5: the run sets it itself; use optimizer.lr="),
        ("+method.global_batch=7", "method.global_batch=7: the run sets it itself; use batch_size="),
        ("optimizer=sgd optimizer.schedule=milestones", "optimizer.milestones=[]: optimizer.schedule=milestones needs"),
        ("probe.linear.batch_size=100000000000000000000000", "probe.linear.batch_size=1000000"),
        ("logger=wandb logger.wandb.project=[1]", "logger.wandb.project=[1]: not a possible value"),
        ("logger=wandb +logger.wandb.id=a", "logger.wandb.id=a: the run sets it itself; use resume="),
        ("logger=wandb logger.wandb.log_model=all", "logger.wandb.log_model=all: not a possible value; give true or"),
        ("+logger.x._target_=torch.nn.ReLU", "logger.x._target_=torch.nn.ReLU: is no Lightning logger"),
        ("+logger.x=3", "logger.x=3: names nothing to build"),
        ("data.val_fraction=0.9971", "data.val_fraction=0.9971: leaves no label to train on"),
        ("trainer.devices=0", "trainer.devices=0: at least one device is needed"),
    ],
)  # fmt: skip
def test_mistake_is_reported_in_one_line(config, tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    arguments = [given] if "'" in given else given.split()
    with pytest.raises(UserError) as error:
        build(check(config(*arguments)))
    assert str(error.value).startswith(" ".join(says.split())), str(error.value)
    assert not list(tmp_path.iterdir())


def test_missing_key_is_reported(config):
    cfg = config("method=byol")
    OmegaConf.set_struct(cfg, False)
    del cfg.monitor.every
    with pytest.raises(UserError, match="^monitor.every: is missing; give a whole number of at least 0"):
        check_train(cfg)
    cfg = config("method=byol", "~method.momentum")
    with pytest.raises(UserError, match=r"^method.momentum: is missing; give a number in \[0, 1\]"):
        check_train(cfg)
    for key in ("data.name", "data.center", "probe.linear.epochs", "augment.flip_p", "backbone.blocks", "method.name"):
        with pytest.raises(UserError, match=f"^{key}: is missing"):
            check_train(config("method=byol", f"~{key}"))
