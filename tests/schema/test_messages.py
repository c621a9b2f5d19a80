"""Errors of Hydra in words."""

import re

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from siamese.schema.messages import SYNONYMS, all_keys, explain


def test_all_keys_names_nodes_and_values():
    cfg = OmegaConf.create({"optimizer": {"lr": 1}, "epochs": 2})
    keys = all_keys(cfg)
    assert keys == ["optimizer", "optimizer.lr", "epochs"]


@pytest.mark.parametrize(
    ("config_name", "given", "says"),
    [
        ("train", "eval.linear.epochs=2", "eval.linear.epochs=2: eval was renamed; use probe.linear.epochs="),
        ("train", "scale=large", "scale=large: scale was renamed; use augment_scale="),
        ("train", "views=byol", "views=byol: views was renamed; use augment_recipe="),
        (
            "train",
            "augment=large/nope",
            "augment=large/nope: no such option; choose one of large/byol, .*small/vicreg$",
        ),
        ("train", "optimizer.lrr=1", "optimizer.lrr=1: no such key; did you mean optimizer.lr"),
        ("train", "trainer.max_epochs=3", "trainer.max_epochs=3: the run sets it itself; use epochs="),
        ("train", "method.momentumm=0.9", "method.momentumm=0.9: no such key; method has _target_, name, output_dim"),
        ("train", "method/loss=nt_xent", "method/loss=nt_xent: the chosen option of method has no such group"),
        ("train", "+data=cifar10", r"\+data=cifar10: the group has an option already; use data=cifar10"),
        ("train", "optimizer.learning_rate=3", "optimizer.learning_rate=3: no such key; did you mean optimizer.lr\\?$"),
        ("train", "learningRate=3", "did you mean optimizer.lr\\?$"),
        ("train", "wd=3", "did you mean optimizer.weight_decay\\?$"),
        ("train", "n_epochs=3", "did you mean epochs\\?$"),
        ("train", "data.num_workers=3", "did you mean data.workers\\?$"),
        ("train", "arch=resnet50", "arch=resnet50: no such key; did you mean backbone\\?$"),
        ("train", "img_size=32", "did you mean data.crop\\?$"),
        ("train", "output_dir=x", "did you mean run_dir\\?$"),
        ("train", "ema=0.9", "ema=0.9: no such key; --cfg job prints all keys$"),  # simsiam has no momentum
        ("eval_linear", "checkpoint=x", "did you mean ckpt\\?$"),
        ("eval_linear", "optimizer.learning_rate=3", "no such key; --cfg job prints all keys$"),
        ("train", "conf=sweep", "conf=sweep: no such key; --cfg job prints all keys"),
        ("train", "run_dir=a[b", "command line: .*; put a value with special characters in quotes"),
        ("eval_linear", "eval=nope", "eval=nope: no such option; choose one of all, as_trained, finetune, knn"),
        ("eval_linear", "eval.linear_crops.trust=1", "no such key; did you mean eval.linear_crops.trust_coefficient"),
    ],
)
def test_errors_of_hydra_name_key_and_remedy(config, config_name, given, says):
    keys = all_keys(config(name=config_name))
    with pytest.raises(HydraException) as error:
        config(given, name=config_name)
    told = explain(error.value, [given], keys)
    assert re.search(says, str(told)), told


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (
            "method.temperature=0.2",
            "is no key of the default option of method=, which is swept; write ++method.temperature=",
        ),
        ("method.temprature=0.2", "method.temprature=0.2: no such key"),
    ],
)
def test_key_of_swept_options_alone(config, key, says):
    """Hydra composes a sweep first with the default option."""
    with pytest.raises(HydraException) as error:
        config(key)
    told = str(explain(error.value, ["-m", "method=simclr,moco", key], all_keys(config())))
    assert says in told


def test_synonyms_name_keys_that_exist(config):
    configs = [config("data=folder", "method=moco"), *(config(name=n) for n in ("eval_linear", "embed", "export"))]
    known = {key for cfg in configs for key in all_keys(cfg)}
    assert {key for keys in SYNONYMS.values() for key in keys} <= known
    for name in SYNONYMS:
        assert name == name.lower().replace("_", "")


def test_synonym_offers_what_the_command_has():
    error = HydraException("Could not override 'tau'.\nKey 'tau' is not in struct")
    keys = ["method", "method.momentum", "method.temperature"]
    assert str(explain(error, ["tau=1"], keys)).endswith("did you mean method.temperature or method.momentum?")
    assert str(explain(error, ["tau=1"], keys[:2])).endswith("did you mean method.momentum?")
