"""Every option in conf/ composes, builds and takes a step."""

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import get_class, instantiate
from method_cases import narrow_heads, settings, with_teacher
from paths import ROOT

from siamese import factory
from siamese.config import make
from siamese.data import DataSet, Split
from siamese.options import options, protocols
from siamese.schema import check_eval, check_train
from siamese.schema.check import locate
from siamese.schema.messages import all_keys


@pytest.fixture
def small_data():
    def make(size, crop_channels=3):
        labels = torch.arange(24) % 3
        p = Split(torch.randint(0, 256, (24, crop_channels, size, size), dtype=torch.uint8), labels)
        return DataSet("x", p, p, ["a", "b", "c"], val_fraction=0.34, split_seed=0)

    return make


def one_step(cfg, data):
    """Views, loss, backward, optimiser and target of one batch of four."""
    cfg, _ = factory.resolve_images(cfg, data.pretrain)
    recipe = instantiate(cfg.optimizer, _convert_="all")
    method = factory.method(cfg, factory.backbone(cfg), data, views=factory.views(cfg), optimizer=recipe)
    optimizer, schedule = recipe.build(method.param_groups(), 4, 2, cfg.epochs)
    images, labels = data.train_labeled.images.pixels[:4], data.train_labeled.labels[:4]
    for step in range(2):
        batch = method.on_after_batch_transfer((images, labels, None), 0)
        loss = method.loss(batch.views, batch.labels) if method.uses_labels else method.loss(batch.views)
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        method.after_step(step, 10)
    return method


@pytest.mark.parametrize("method", options("method"))
@pytest.mark.parametrize("data", ["digits", "cifar10", "folder"])
def test_method_trains_at_each_scale(config, small_data, method, data):
    cfg = config(f"method={method}", f"data={data}", "backbone=small", *settings(method), "data.crop=16")
    one_step(cfg, small_data(20))


@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiment_takes_two_steps_on_a_small_backbone(config, small_data, experiment):
    crop = 16 if experiment.startswith("cifar10/") else 32
    cfg = with_teacher(config, f"experiment={experiment}", "data.path=none", f"data.crop={crop}")
    for view in cfg.augment.views:
        if "size" in view:  # the small views of many
            view.size = crop
    vit = "width" in cfg.backbone
    cfg.backbone.update({"name": "vit", "depth": 1} if vit else {"name": "resnet18"})
    if cfg.method.get("bn_splits", 1) > 1:
        cfg.method.bn_splits = 2  # of a batch of four
    narrow_heads(cfg)
    method = one_step(cfg, small_data(72))
    assert method.backbone.feature_dim == cfg.backbone.get("width", 512)  # a Vision Transformer keeps its own
    if hasattr(method, "queue_size"):
        method.check(cfg.batch_size, cfg.batch_size)


@pytest.mark.parametrize("experiment", [o for o in options("experiment") if o.startswith("cifar10/")])
def test_cifar10_recipe_trains_a_narrow_network(config, tmp_path, experiment):
    """On a .npz file and a backbone of another kind, with the recipe's own optimiser, and with AdamW in its place."""
    rng, arrays = np.random.default_rng(0), {}
    for part in ("train", "test"):
        arrays |= {f"{part}_images": rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)}
        arrays |= {f"{part}_labels": np.arange(200) % 10}
    np.savez(tmp_path / "cifar10.npz", **arrays)
    needs_vit = get_class(config(f"experiment={experiment}").method._target_).needs_vit
    of_needs = ["backbone=small_vit"] if needs_vit else ["backbone=small", "backbone.widths=[16,32,64,128]"]
    narrow = (
        f"experiment={experiment}", "data=npz", f"data.path={tmp_path / 'cifar10.npz'}", "data.crop=16",
        "data.train_images=100", "batch_size=256", "epochs=10",
        "monitor.every=0", *of_needs,
    )  # fmt: skip
    cfg = with_teacher(config, *narrow)
    make(cfg.optimizer).check(10)
    if cfg.method.get("bn_splits", 1) > 1:
        cfg.method.bn_splits = 2  # of a batch of four
    method = one_step(cfg, factory.data_set(cfg))
    assert method.backbone.feature_dim == (96 if needs_vit else 128)
    method.check(256, 256)
    adamw = make(config(*narrow, "optimizer=adamw").optimizer)
    assert isinstance(adamw.build(method.param_groups(), 256, 2, 10)[0], torch.optim.AdamW)


@pytest.mark.parametrize("experiment", [o for o in options("experiment") if "solo_learn" in o])
def test_solo_learn_recipe_has_the_shared_settings(config, experiment):
    """scripts/pretrain/cifar and the transform for CIFAR; the length, batch and network of its table of results."""
    cfg = config(f"experiment={experiment}")
    assert (cfg.epochs, cfg.batch_size, cfg.data.name, cfg.data.crop) == (1000, 256, "cifar10", 32)
    recipe = instantiate(cfg.optimizer, _convert_="all")
    assert (recipe.warmup(1000), recipe.schedule, recipe.per, recipe.scaling) == (10, "cosine", "step", "linear")
    views = factory.views(cfg).views
    if get_class(cfg.method._target_).needs_vit:  # reconstruction.yaml
        (view,) = views
        chosen = view.settings
        assert (view.size, chosen["crop_scale"], chosen["interpolation"]) == (32, (0.08, 1.0), "bicubic")
        assert [chosen[k] for k in ("jitter_p", "gray_p", "blur_p", "solarize_p", "flip_p")] == [0, 0, 0, 0, 0.5]
        assert (cfg.backbone.patch_size, cfg.backbone.heads, cfg.backbone.width) == (4, 12, 384)
        return
    network = factory.backbone(cfg)
    assert (network.conv1.kernel_size, network.conv1.stride, network.conv1.padding) == ((3, 3), (1, 1), (2, 2))
    assert network.layer1[0].bn2.weight.min() == 1  # no zero-init
    strong, weak = (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.4, 0.1)
    symmetric = {"simclr": strong, "supcon": strong, "swav": strong, "moco": weak, "simsiam": weak}
    name = experiment.rpartition("/")[2]
    assert [v.settings["jitter"] for v in views] == [symmetric.get(name, (0.4, 0.4, 0.2, 0.1))] * 2
    assert [v.settings["blur_p"] for v in views] == [0.5 if name in symmetric else 0] * 2
    solarize = {"vicreg": [0.1, 0.1]} | {key: [0, 0] for key in symmetric}
    assert [v.settings["solarize_p"] for v in views] == solarize.get(name, [0, 0.2])
    for view in views:
        chosen = view.settings
        smallest = 0.2 if name == "vicreg" else 0.08
        assert (view.size, chosen["crop_scale"], chosen["interpolation"]) == (32, (smallest, 1.0), "bicubic")
        assert [chosen[k] for k in ("jitter_p", "gray_p", "flip_p", "rotate_degrees")] == [0.8, 0.2, 0.5, 0]
        assert chosen["blur_sigma"] == (0.1, 2.0) and chosen["blur_kernel"] // 2 >= 3 * 2.0
        torch.testing.assert_close(view.mean, torch.tensor([0.4914, 0.4822, 0.4465]))
        torch.testing.assert_close(view.std, torch.tensor([0.2470, 0.2435, 0.2616]))


@pytest.mark.parametrize("backbone", options("backbone"))
def test_backbone_gives_features_of_its_dimension(config, backbone):
    cfg = config(f"backbone={backbone}", "data.crop=32")
    network = factory.backbone(cfg).eval()
    with torch.no_grad():
        features = network(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, network.feature_dim)


def test_vision_transformer_is_built_for_the_size_of_the_views(config):
    cfg = config("backbone=timm", "backbone.name=vit_tiny_patch16_224", "data.crop=48")
    network = factory.backbone(cfg)
    assert network(torch.randn(2, 3, 48, 48)).shape == (2, network.feature_dim) == (2, 192)


@pytest.mark.parametrize("augment", options("augment"))
def test_augmentation_gives_finite_views(config, augment):
    for channels in (1, 3, 13):
        images = torch.randint(0, 256, (4, channels, 40, 40), dtype=torch.uint8)
        of_any = ("data=npz", "backbone=small", f"augment={augment}", "data.crop=32")
        cfg, _ = factory.resolve_images(config(*of_any), Split(images, torch.zeros(4)))
        views = factory.views(cfg)
        for view, size in zip(views(images), views.sizes, strict=True):
            assert view.shape == (4, channels, size, size)
            assert view.isfinite().all()
        assert views.sizes[0] == 32


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_optimizer_takes_a_step(config, optimizer):
    cfg = config(f"optimizer={optimizer}", "epochs=20")
    recipe = instantiate(cfg.optimizer, _convert_="all")
    recipe.check(20)
    w = torch.nn.Parameter(torch.ones(2, 2))
    made, _ = recipe.build([{"params": [w]}], 64, 10, 20)
    made.step()


@pytest.mark.parametrize("data", options("data"))
def test_data_option_names_an_existing_builder(config, data):
    cfg = config(f"data={data}")
    assert callable(locate("data._target_", cfg.data._target_))
    known = {"mean": 3, "std": 3, "value_range": 2}  # or measured
    assert all(cfg.data[key] == "auto" or len(cfg.data[key]) == count for key, count in known.items())


@pytest.mark.parametrize("group", ["trainer", "logger", "probe"])
def test_other_option_of_training_composes(config, group):
    for option in options(group):
        check_train(config(f"{group}={option}"))


@pytest.mark.parametrize("option", options("eval"))
def test_eval_option_composes(config, option):
    check_eval(config(f"eval={option}", "ckpt=x", name="eval_linear"))


@pytest.mark.parametrize("protocol", protocols())
def test_protocol_option_builds_the_protocol_of_its_name(config, protocol):
    for option in options(f"eval/{protocol}"):
        cfg = config(f"eval={protocol}", f"eval/{protocol}={option}", "ckpt=x", name="eval_linear")
        check_eval(cfg)
        assert make(cfg.eval[protocol]).name == protocol


def first_trial(sweep):
    """The command line that `wandb agent` makes of a sweep for the first or smallest value of each parameter, as in
    https://docs.wandb.ai/guides/sweeps/define-sweep-configuration#command-macros."""
    values = {k: v.get("values", [v.get("min")])[0] for k, v in sweep["parameters"].items()}
    macros = {
        "${env}": ["/usr/bin/env"], "${interpreter}": ["python"], "${program}": [sweep["program"]],
        "${args_no_hyphens}": [f"{key}={value}" for key, value in values.items()],
    }  # fmt: skip
    return [word for chunk in sweep["command"] for word in macros.get(chunk, [chunk])]


def test_wandb_sweep_starts_trials_that_compose(config):
    sweep = yaml.safe_load((ROOT / "conf" / "wandb_sweep.yaml").read_text())
    keys = all_keys(config())
    assert sweep["parameters"]
    assert set(sweep["parameters"]) <= set(keys)
    assert sweep["metric"] == {"name": "linear_top1", "goal": "maximize"}
    words = first_trial(sweep)
    assert words[:4] == ["/usr/bin/env", "python", "train.py", "logger=wandb"]
    assert (ROOT / words[2]).is_file()
    assert not [word for word in words if "${" in word]
    cfg = config(*words[3:])
    check_train(cfg)
    assert (cfg.method.name, cfg.optimizer.lr, cfg.seed) == ("simclr", 0.001, 0)
    assert list(cfg.logger) == ["wandb"]


def test_several_loggers_compose(config):
    cfg = config("logger=[wandb,tensorboard,mlflow]", "logger.wandb.project=mine")
    check_train(cfg)
    assert list(cfg.logger) == ["wandb", "tensorboard", "mlflow"]
    assert cfg.logger.wandb.project == "mine"
    assert config().logger == {}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data=cifar10", "method=simclr"], {"jitter": [0.4, 0.4, 0.4, 0.1], "blur_p": 0.0, "mean": [0.0]}),
        (["data=imagenet", "method=simclr"], {"jitter": [0.8, 0.8, 0.8, 0.2], "blur_p": 0.5}),
        (["data=imagenet", "method=moco_v1"], {"jitter": [0.4] * 4, "jitter_p": 1.0, "gray_first": True}),
        (["data=imagenet", "method=moco"], {"jitter": [0.4, 0.4, 0.4, 0.1], "blur_p": 0.5, "crop_scale": [0.2, 1.0]}),
        (["data=imagenet", "method=byol"], {"crop_scale": [0.08, 1.0], "interpolation": "bicubic"}),
        (["data=imagenet", "method=moco_v3"], {"crop_scale": [0.2, 1.0], "interpolation": "bilinear"}),
        (["data=digits", "method=byol"], {"flip_p": 0.0, "gray_p": 0.0}),
        (["data=imagenet", "method=mae"], {"jitter_p": 0, "gray_p": 0, "crop_scale": [0.2, 1.0], "views": [{}]}),
        (["data=digits", "method=mae"], {"flip_p": 0.0, "crop_scale": [0.75, 1.0], "views": [{}]}),
        (["experiment=imagenet/moco_v3_vit"], {"crop_scale": [0.08, 1.0], "jitter": [0.4, 0.4, 0.2, 0.1]}),
        (["experiment=cifar10/simsiam"], {"crop_scale": [0.2, 1.0], "blur_p": 0.0, "jitter": [0.4, 0.4, 0.4, 0.1]}),
    ],
)  # fmt: skip
def test_views_follow_method_and_data_set(config, overrides, expected):
    augment = config(*overrides).augment
    assert {k: augment[k] for k in expected} == expected


def test_command_line_overrides_other_choices(config):
    assert config("data=cifar10", "method=byol", "augment=large/simclr").augment.blur_p == 0.5
    assert config("experiment=imagenet/byol", "optimizer.lr=7").optimizer.lr == 7
    assert config("experiment=imagenet/byol", "backbone=resnet18").backbone.name == "resnet18"
