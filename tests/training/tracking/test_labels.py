"""Group and tags of a run."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from paths import ROOT

from siamese.training.tracking.labels import labels


@pytest.fixture
def labelled():
    """The labels under a command line of Hydra."""
    before = HydraConfig.instance().cfg

    def make(*overrides):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return labels(cfg)

    yield make
    HydraConfig.instance().cfg = before


def test_tags_of_a_command_line(labelled):
    found = labelled(
        "method=byol", "data=cifar10", "backbone=resnet18_small", "optimizer.lr=0.3", "seed=2", "run_dir=/home/me",
        "data.path=/home/me", "logger=[wandb,tensorboard]", "logger.wandb.project=p", "trainer=cpu", "epochs=3",
        "+trainer.benchmark=true", "hydra.mode=RUN", f"init_from={'x' * 99}", f"augment.views=[{'{},' * 30}{{}}]",
        "+data.train.api_key=abc", "+method.options={a: 1, api_key: abc}",
    )  # fmt: skip
    assert found.group is None
    assert found.short()[:5] == ["byol", "cifar10", "resnet18_small", "optimizer.lr=0.3", "seed=2"]
    assert [text.partition("=")[0] for text in found.short()[5:]] == ["trainer.benchmark", "augment.views"]
    assert len(found.short()[-1]) == 64


def test_experiment_is_a_tag(labelled):
    assert labelled("experiment=cifar10/simsiam").short() == ["simsiam", "cifar10", "resnet18_small", "cifar10/simsiam"]


def test_group_is_the_folder_of_the_sweep(labelled):
    found = labelled("seed=1", "hydra.mode=MULTIRUN", "hydra.sweep.dir=outputs/sweeps/rates")
    assert (found.group, found.tags["seed"]) == ("rates", "1")


def test_without_a_command_line(config):
    assert not HydraConfig.initialized()
    assert labels(config()).short() == ["simsiam", "digits", "small"]
