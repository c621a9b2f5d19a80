import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from siamese.errors import UserError
from siamese.evaluation import settings
from siamese.options import CONF


def test_settings_of_a_protocol_that_does_not_run_are_refused(config):
    cfg = config(name="eval_linear")
    for given, says in (
        ("eval/linear_crops=moco", "moco: linear_crops does not run, but knn, linear; add eval=linear_crops"),
        ("eval.finetune.epochs=3", "finetune.epochs=3: finetune does not run"),
        ("eval.lowshot.epochs=[1,1]", "lowshot does"), ("+eval.finetune.x=1", "finetune does not run"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            settings.check_used([given], cfg, ["knn", "linear"])
    for given in ("eval.finetune.seed=1", "eval.finetune.lrs=[1]"):  # few labels have their own
        with pytest.raises(UserError, match=f"{given.split('=')[0]}=.*: finetune does not run, but lowshot; add"):
            settings.check_used([given], cfg, ["lowshot"])
    used = ["eval.linear.lrs=[1]", "eval.finetune.flip=0", "eval=lowshot", "eval.cache=null"]
    settings.check_used(used, cfg, ["lowshot"])
    settings.check_used(["eval/linear_crops=moco", "eval.data=[x]", "seed=1"], cfg, ["linear_crops"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("eval.protocols=[knn,lniear]",), "lniear"),
        (("eval=as_trained", "eval.protocols=[]"), "a list of protocols"),
        (("eval.knn.ks=[0]",), r"eval.knn.ks=\[0\]: not a possible value"),
        (("eval.logistic.l2s=[]",), "eval.logistic.l2s"),
        (("eval.in_memory_mb=-1",), "eval.in_memory_mb"),
        (("eval.finetune.crop_scale=[0.5]",), r"eval.finetune.crop_scale=\[0.5\]: .* two parts of the area"),
        (("eval.linear.lrs=[a]",), r"eval.linear.lrs=\[a\]: not a possible value; give a list of numbers above 0"),
        (("eval.linear.epochs=1.5",), "eval.linear.epochs=1.5: .* a whole number"),
        (("eval.linear.seed=a",), "eval.linear.seed=a"),
        (("eval.linear.lrs=[inf]",), r"eval.linear.lrs=\[inf\]"),
        (("eval.linear=5",), "eval.linear=5: names nothing to build; choose an option"),
        (("eval.knn=null",), "eval.knn=null: names nothing to build"),
        (("+eval.linear.foo=1",), "eval.linear.foo=1: no such key"),
        (("foreign=backbone:resnet18",), "foreign=backbone:resnet18: "),
        (("eval.data=[5]",), r"eval.data=.5.: not a possible value"),
        (("eval.protocols=knn",), "eval.protocols=knn: not a possible value; give a list of protocols"),
        (("eval.finetune.seed=99999999999999999999",), "eval.finetune.seed=9"),
        (("eval.linear_crops.nesterov=maybe",), "nesterov=maybe"),
        (("eval.lowshot.fine_tune=maybe",), "fine_tune=maybe"),
        (("eval.lowshot.seeds=[0,0]",), "holds a value twice"),
        (("eval.lowshot.fractions=[0.1]",), "one length for each fraction"),
        (("eval.logistic.l2s=[a]",), r"eval.logistic.l2s=\[a\]"),
        (("eval.logistic.max_iter=1.5",), "eval.logistic.max_iter=1.5"),
        (("eval.linear_crops.milestones=[a]",), r"eval.linear_crops.milestones=\[a\]"),
        (("eval.finetune.lrs=[a]",), r"eval.finetune.lrs=\[a\]"),
        (("eval.unlabelled.views=2.5",), "eval.unlabelled.views=2.5"),
        (("eval.lowshot.lists=[5]", "eval.lowshot.epochs=[1,1,1]"), r"eval.lowshot.lists=\[5\]: not a possible value"),
        (("eval.finetune.epochs=1.5",), "eval.finetune.epochs=1.5: .* a whole number"),
        (
            ("eval.linear_crops.interpolation=cubic",),
            "eval.linear_crops.interpolation=cubic: not a possible value; give bilinear, bicubic or null",
        ),
        (("eval.linear_crops.flip=2",), r"eval.linear_crops.flip=2: .*\[0, 1\]"),
        (("eval=lowshot", "eval.lowshot.epochs=[1]"), "eval.lowshot.seeds"),
    ],
)
def test_mistakes(trained, evaluation, arguments, says, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=says):
        evaluation(trained, *arguments)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("given", ["data.split_seed=3", "data.test_seed=5", "data.val_fraction=0.2"])
def test_data_set_of_the_training_keeps_its_split(config, given):
    """Otherwise training images would be tested on, and a supervised row would have seen the labels that choose."""
    trained, cfg = config("data.split_seed=7", "data.train_images=500"), config(name="eval_linear")
    OmegaConf.resolve(trained)
    OmegaConf.set_struct(trained, False)

    def judge(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return settings.of_ours(trained, settings.Given(overrides))

    judged = judge("data=digits", "data.resident=false")
    assert (judged.data.split_seed, judged.data.train_images, judged.data.resident) == (7, 500, False)
    with pytest.raises(UserError, match=rf"{given}: the checkpoint was trained with data\.\w+=.*; leave it out"):
        judge("data=digits", given)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        _, listed = settings.other_data("digits", trained, cfg, [])
    assert (listed.data.split_seed, listed.data.train_images) == (7, 500)
    other = judge("data=cifar10", "data.split_seed=3")
    assert (other.data.name, other.data.split_seed, other.data.crop) == ("cifar10", 3, 8)


def test_another_file_of_the_same_kind_has_its_own_split(config, tmp_path):
    for name in ("a.npz", "b.npz"):
        (tmp_path / name).touch()
    (tmp_path / "link.npz").symlink_to(tmp_path / "a.npz")
    trained = config("data=npz", f"data.path={tmp_path / 'a.npz'}", "data.split_seed=7", "data.train_images=500")
    cfg = config(name="eval_linear")
    OmegaConf.resolve(trained)
    OmegaConf.set_struct(trained, False)
    for name, seed in (("a.npz", 7), ("link.npz", 7), ("gone.npz", 7), ("b.npz", 0)):
        path = tmp_path / name
        with initialize_config_dir(str(CONF), version_base="1.3"):
            chosen = settings.of_ours(trained, settings.Given(["data=npz", f"data.path={path}"]))
            _, listed = settings.other_data(f"npz:{path}", trained, cfg, [])
            beside = settings.of_ours(trained, settings.Given(["data=npz"]), path=str(path))  # as the command line does
        assert chosen.data.split_seed == listed.data.split_seed == beside.data.split_seed == seed, name
        assert chosen.data.path == listed.data.path == str(path)
