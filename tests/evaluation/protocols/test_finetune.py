"""Fine-tuning of the whole network."""

import pytest
import timm
import torch
import torchvision
from sklearn.metrics import log_loss
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from siamese.augment import CleanView
from siamese.config import make
from siamese.errors import UserError
from siamese.evaluation.compare import _comparable
from siamese.evaluation.protocols.finetune import Classifier, FineTune, Score, best_of, layer_groups, score

SETTINGS = dict(
    scaling="linear", weight_decay=0.0, batch_size=32, warmup_epochs=0, layer_decay=1.0, crop_scale=[0.8, 1.0],
    interpolation="bilinear", flip=0.0, lrs=[1.0], epochs=4, seed=0,
)  # fmt: skip


def test_network_of_the_target_is_not_changed(target):
    t = target()
    before = {k: v.clone() for k, v in t.network.state_dict().items()}
    found = FineTune(**SETTINGS).evaluate(t)
    assert found["top1"] > 0.9
    assert "chosen" not in found
    assert all(torch.equal(v, before[k]) for k, v in t.network.state_dict().items())
    assert not any(p.requires_grad for p in t.network.parameters())


def test_validation_split_chooses_among_rates(target):
    t = target()
    found = FineTune(**{**SETTINGS, "lrs": [1e-6, 1.0]}).evaluate(t)
    assert found["chosen"]["lr"] == found["lr"] == 1.0
    t.data.test.labels = t.data.test.labels.flip(0)
    assert FineTune(**{**SETTINGS, "lrs": [1e-6, 1.0]}).evaluate(t)["chosen"] == found["chosen"]


def test_optimizer_is_that_of_the_paper(target, optimizer_steps):
    """Nesterov momentum, the rate by the batch, half a cosine, BatchNorm in train mode, a head that starts at zero."""
    t, modes = target(), []
    t.network.register_forward_hook(lambda network, inputs, output: modes.append(network.training))  # of the copy, too
    found = FineTune(**{**SETTINGS, "lrs": [0.05], "epochs": 2}).evaluate(t)
    steps = 2 * (160 // 32)
    factors = [0.5 * (1 + torch.cos(torch.tensor(torch.pi * i / steps)).item()) for i in range(steps)]
    assert len(optimizer_steps) == steps
    for groups, factor in zip(optimizer_steps, factors, strict=True):
        assert [g["lr"] for g in groups] == pytest.approx([0.05 * 32 / 256 * factor] * len(groups))
        assert all(g["nesterov"] and g["momentum"] == 0.9 for g in groups)
    assert found["rate"] == optimizer_steps[0][0]["lr"]
    assert modes[:steps] == [True] * steps
    assert len(modes) > steps and not any(modes[steps:])
    assert Classifier(t.network, 4).head.weight.abs().sum() == 0


@pytest.mark.parametrize(("scaling", "rate"), [("none", 0.1), ("linear", 0.1 * 160 / 256)])
def test_step_has_all_images_if_there_are_fewer_than_a_batch(target, optimizer_steps, scaling, rate):
    """`none` takes the rate as it is, whatever their number."""
    change = {"lrs": [0.1], "scaling": scaling, "batch_size": 1000, "epochs": 1}
    found = FineTune(**{**SETTINGS, **change}).evaluate(target())
    (groups,) = optimizer_steps
    assert [g["lr"] for g in groups] == pytest.approx([rate] * len(groups))
    assert (found["batch_size"], found["rate"]) == (160, pytest.approx(rate))


def test_score_equals_scikit_learn_and_leaves_unknown_labels_out(target):
    t = target()
    network = Classifier(t.network, 4)
    nn.init.normal_(network.head.weight)
    network.eval()
    test = t.data.test
    test.labels = test.labels.clone()
    test.labels[:5] = -1
    with torch.no_grad():
        p = network(t.view(test.images.pixels)).double().softmax(1)[5:]
    found = score(network, t.loading.loader(test, 32, shuffle=False), t.view, torch.device("cpu"))
    assert found.images == 75
    assert found.right == (p.argmax(1) == test.labels[5:]).sum()
    assert found.loss == pytest.approx(75 * log_loss(test.labels[5:], p, labels=range(4)), rel=1e-4)


def test_ties_are_broken_by_the_lowest_loss():
    lost = Score(7, float("nan"), 8)
    assert best_of([Score(5, 1.0, 8), Score(6, 9.0, 8), Score(6, 8.0, 8), lost]) == 2
    assert best_of([lost, Score(1, 99.0, 8)]) == 1


def test_scored_images_are_resized_as_the_crops_are(target, config):
    t, seen = target(), []
    handle = register_module_forward_pre_hook(
        lambda module, inputs: seen.append(module.interpolation) if isinstance(module, CleanView) else None
    )
    try:
        FineTune(**{**SETTINGS, "epochs": 1, "interpolation": "bicubic"}).evaluate(t)
        simclr = config("eval/linear_crops=simclr", "eval.linear_crops.epochs=1", name="eval_linear")
        make(simclr.eval.linear_crops).evaluate(t)
        assert set(seen) == {"bicubic"}
        assert t.view.interpolation == "bilinear"
        t.features("test")
        assert seen[-1] == "bilinear"
        count = len(seen)
        t.features("test", "bicubic")
        t.features("test")
        assert len(seen) == count
    finally:
        handle.remove()


def test_layer_decay_of_a_resnet():
    network = torchvision.models.resnet18(num_classes=3)
    network.fc = nn.Identity()
    groups = layer_groups(network, 0.5)
    assert [g["lr_scale"] for g in groups] == [0.5**6, 0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5]  # conv1, bn1, layers 1 to 4
    assert groups[0]["params"][0] is network.conv1.weight
    assert sum(len(g["params"]) for g in groups) == len(list(network.parameters()))


def test_layer_decay_of_a_vision_transformer():
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    groups = layer_groups(network, 0.75)
    # BEiT's and MAE's numbers: the embedding 0, the blocks 1 to 12; the last norm has the classifier's rate, 13.
    scales = {
        n: g["lr_scale"] for n, p in network.named_parameters() for g in groups if any(p is q for q in g["params"])
    }
    number = {n: 13 if n.startswith("norm.") else 1 + int(n.split(".")[1]) if "blocks" in n else 0 for n in scales}
    assert scales == {n: pytest.approx(0.75 ** (13 - i)) for n, i in number.items()}
    assert sum(i == 0 for i in number.values()) == 4 and len(groups) == 14
    last = next(i for i, g in enumerate(groups) if any(p is network.blocks[11].attn.qkv.weight for p in g["params"]))
    first = next(i for i, g in enumerate(groups) if any(p is network.blocks[0].attn.qkv.weight for p in g["params"]))
    assert last - first == 11
    assert groups[last]["lr_scale"] == pytest.approx(groups[first]["lr_scale"] / 0.75**11)
    assert len({id(p) for g in groups for p in g["params"]}) == len(list(network.parameters()))


def test_adamw_of_the_vit_recipe(target, config, optimizer_steps):
    """MAE's table 9: the decay of matrices alone, betas 0.9 and 0.999."""
    protocol = make(config("eval=finetune", "eval/finetune=vit", "ckpt=x", name="eval_linear").eval.finetune)
    assert (protocol.layer_decay, protocol.warmup_epochs, protocol.epochs) == (0.75, 5, 100)
    few = config("eval=lowshot", "eval/finetune=vit", "ckpt=x", name="eval_linear").eval.lowshot.finetune
    assert (few.optimizer, few.weight_decay, few.layer_decay) == ("sgd", 0, 1)
    protocol.epochs = 2
    protocol.evaluate(target())
    assert {(tuple(g["betas"]), g["weight_decay"]) for g in optimizer_steps[0]} == {
        ((0.9, 0.999), 0.05),
        ((0.9, 0.999), 0),
    }
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)
    groups = protocol.make_optimizer(layer_groups(network, 0.75), 1e-3).param_groups
    plain = {
        n
        for n, p in network.named_parameters()
        for g in groups
        if g["weight_decay"] == 0
        for q in g["params"]
        if p is q
    }
    assert plain == {n for n, p in network.named_parameters() if p.ndim == 1} | {"cls_token", "pos_embed"}
    assert sum(len(g["params"]) for g in groups) == len(list(network.parameters()))


def test_sgd_is_what_results_without_an_optimizer_had():
    now = FineTune(**SETTINGS).settings()
    before = {k: v for k, v in now.items() if k != "optimizer"}
    assert _comparable(now) == _comparable(before)
    assert _comparable(now) != _comparable(FineTune(**{**SETTINGS, "optimizer": "adamw"}).settings())


@pytest.mark.parametrize("change", [{"lrs": []}, {"layer_decay": 1.5}, {"scaling": "no"}, {"epochs": 0}])
def test_impossible_setting_is_refused(built, change):
    with pytest.raises(UserError, match=f"eval.finetune.{next(iter(change))}"):
        built("eval.finetune", "siamese.evaluation.protocols.finetune.FineTune", **{**SETTINGS, **change})
