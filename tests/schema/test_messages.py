"""Errors of Hydra in words."""

import re

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from siamese.schema.messages import all_keys, explain


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
