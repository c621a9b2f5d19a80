"""Which differences of two configs are another recipe."""

import copy

import pytest
import yaml
from paths import ROOT

from siamese.config import to_dict
from siamese.recipe import as_measured, changed_recipe, recipe_digest
from siamese.schema.saved import upgraded

OLD_CONFIG = ROOT / "tests" / "schema" / "config_2026-11-24.yaml"


def test_upgraded_config_is_the_same_recipe():
    old = yaml.safe_load(OLD_CONFIG.read_text())
    assert changed_recipe(old, upgraded(old), in_mid_epoch=True) == []
    assert recipe_digest(old) == recipe_digest(upgraded(old))


@pytest.mark.parametrize("key", ["optimizer.lr", "batch_size", "seed", "data.split_seed", "augment.crop_scale"])
def test_changed_setting_is_reported(config, key):
    before, now = to_dict(config()), to_dict(config())
    *path, last = key.split(".")
    node = now
    for name in path:
        node = node[name]
    was, node[last] = node[last], "another"
    assert changed_recipe(before, now, in_mid_epoch=False) == [f"{key}=another (was {was})"]


def test_mutable_settings_are_not_reported(config):
    before = to_dict(config("data=folder", "data.path=a"))
    now = to_dict(config(
        "data=folder", "data.path=b", "data.workers=7", "epochs=999", "run_dir=elsewhere", "monitor.every=3",
        "probe.knn.k=7", "checkpoint.every_steps=5", "on_collapse=stop", "trainer=cpu", "logger=tensorboard",
    ))  # fmt: skip
    assert changed_recipe(before, now, in_mid_epoch=True) == []


def test_accumulation_is_mutable_between_epochs_only(config):
    before, now = to_dict(config()), to_dict(config("trainer.accumulate_grad_batches=2"))
    assert changed_recipe(before, now, in_mid_epoch=False) == []
    assert changed_recipe(before, now, in_mid_epoch=True) == ["trainer.accumulate_grad_batches=2 (was 1)"]


def test_the_recipe_of_a_run_leaves_the_seed_out(config):
    def digest(*overrides):
        return recipe_digest(to_dict(config("method=simsiam", *overrides)))

    assert digest() == recipe_digest({**to_dict(config("method=simsiam")), "new": {"key": None}})
    assert digest() == digest("seed=1", "run_dir=elsewhere", "data.workers=1", "monitor.every=2")
    assert len({digest(), digest("optimizer.lr=0.1"), digest("epochs=7"), digest("data.split_seed=3")}) == 4


def test_key_added_since_is_no_change_while_it_has_its_default(config):
    now = to_dict(config("backbone=resnet18"))
    before = copy.deepcopy(now)
    del before["backbone"]["stem_padding"]
    assert changed_recipe(before, now, in_mid_epoch=False) == []
    del before["backbone"]["small_stem"]  # it has no default
    assert changed_recipe(before, now, in_mid_epoch=False) == ["backbone.small_stem=False (was missing)"]


def test_one_number_for_all_channels_is_the_same_recipe(config):
    given = config("data=npz", "data.mean=[0.5]", "data.std=[0.3]", "data.value_range=[[0,9]]")
    before = to_dict(given)
    for group in ("data", "augment"):
        before[group] |= {"mean": [0.5] * 3, "std": [0.3] * 3, "value_range": [[0, 9]] * 3}
    before["data"]["channels"] = before["backbone"]["channels"] = 3
    assert changed_recipe(before, to_dict(as_measured(given, before)), in_mid_epoch=False) == []
    before["data"]["mean"] = [0.5, 0.5, 0.4]
    assert "data.mean=" in changed_recipe(before, to_dict(as_measured(given, before)), in_mid_epoch=False)[-1]
