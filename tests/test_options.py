"""The options of conf/, and what is registered with Hydra."""

import pytest
from omegaconf import OmegaConf
from paths import ROOT

from siamese.options import by_epochs, options, protocols


def test_by_epochs_takes_the_longest_training_that_is_no_longer():
    table = {0: 0.97, 100: 0.99, 1000: 0.996}
    assert [by_epochs(e, table) for e in (25, 99, 100, 800, 1000, 2000)] == [0.97, 0.97, 0.99, 0.99, 0.996, 0.996]


def test_by_epochs_is_a_resolver_of_configs():
    cfg = OmegaConf.create({"epochs": 150, "momentum": "${by_epochs:${epochs},{0:0.97,100:0.99}}"})
    assert cfg.momentum == 0.99


@pytest.mark.parametrize("group", sorted(f.name for f in (ROOT / "conf").iterdir() if any(f.rglob("*.yaml"))))
def test_options_are_the_files_of_a_group(group):
    files = [f.relative_to(ROOT / "conf" / group) for f in (ROOT / "conf" / group).rglob("*.yaml")]
    top = {f.stem for f in files if len(f.parts) == 1 and not f.name.startswith("_")}
    assert top <= set(options(group))
    assert not [o for o in options(group) if o.rpartition("/")[2].startswith("_")]


def test_group_within_an_option_is_no_option():
    assert not [o for o in options("method") if "/" in o]
    assert "nt_xent" in options("method/loss")


def test_protocol_is_an_option_of_eval():
    assert set(protocols()) | {"all", "as_trained"} == set(options("eval"))
    assert protocols() == sorted(f.parent.name for f in (ROOT / "conf" / "eval").glob("*/default.yaml"))


def test_eval_option_runs_its_protocols(config):
    for name in protocols():
        assert config(f"eval={name}", name="eval_linear").eval.protocols == [name]
    assert config("eval=all", name="eval_linear").eval.protocols == protocols()
