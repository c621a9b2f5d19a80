"""init_from: others' weights, timm's, a frozen stem, lower rates."""

import pytest
import timm
import torch
from runs import interrupt

from siamese import factory
from siamese.backbones.common import prepared
from siamese.errors import UserError
from siamese.optim import scaled_groups

RESNET = ("backbone=resnet18", "data.crop=32", "monitor.every=0", "data.train_images=130")


@pytest.fixture
def offline_timm(monkeypatch):
    """timm's `pretrained=True` gives seeded weights in place of downloaded ones."""
    made, asked = timm.create_model, []

    def create(name, pretrained=False, **options):
        if pretrained:
            asked.append((name, options))
            torch.manual_seed(5)
        return made(name, **options)

    monkeypatch.setattr(timm, "create_model", create)
    return asked


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("resnet18", RESNET),  # torchvision's network has timm's names
        ("vit_tiny_patch16_224", ("backbone=vit_tiny", "backbone.patch_size=16", "data.crop=64", *RESNET[2:])),
        ("resnet10t", ("backbone=timm", "backbone.name=resnet10t", "data.crop=32", *RESNET[2:])),
    ],
)
def test_weights_of_timm(session, offline_timm, name, given):
    run = session(f"init_from=timm:{name}", *given)
    torch.manual_seed(5)
    size = {"img_size": (64, 64)} if "vit" in name else {}
    expected = timm.create_model(name, **size).state_dict()
    ours = run.method.backbone.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in ours.items())
    assert "init_from" in run.run.baselines and run.started_from == "timm's weights"
    assert not torch.equal(run.untrained.state_dict()[next(iter(ours))], ours[next(iter(ours))])


def test_row_of_the_start_survives_an_interruption(session, offline_timm, tmp_path):
    given = ("init_from=timm:resnet18", *RESNET, "epochs=3", "checkpoint.every_steps=1")
    interrupt(session(*given), 4)
    assert "init_from" in session(*given, "resume=true").run.baselines


def test_mistakes(session, offline_timm, monkeypatch):
    with pytest.raises(UserError, match=r"init_from=timm:resnt18: timm has no such model; did you mean timm:resnet18"):
        session("init_from=timm:resnt18", *RESNET)
    with pytest.raises(UserError, match=r"init_from=timm:resnet34: \(timm's weights.*does not fit the backbone"):
        session("init_from=timm:resnet34", *RESNET)

    def offline(*arguments, **options):
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    told = r"init_from=timm:resnet18: its weights cannot be had \(no route\); check the connection"
    with pytest.raises(UserError, match=told):
        session("init_from=timm:resnet18", *RESNET)


STEMS = {
    "small": ("layers.0.", "layers.1."), "resnet18": ("conv1.", "bn1."), "lightly": ("0.", "1."),
    "small_vit": ("patch_embed.",), "timm": ("stem.",),
}  # fmt: skip


@pytest.mark.parametrize("name", STEMS)
def test_frozen_stem_is_not_trained(session, monkeypatch, name):
    more = ["backbone.name=convnext_atto"] if name == "timm" else []
    size = "data.crop=32" if name != "small" else "data.crop=8"
    run = session("method=simsiam", f"backbone={name}", *more, size, "backbone.freeze_stem=true", "monitor.every=0",
                  "data.train_images=130")  # fmt: skip
    before = {k: v.clone() for k, v in run.method.backbone.named_parameters()}
    run.fit()
    for key, value in run.method.backbone.named_parameters():
        if key.startswith(STEMS[name]):
            assert torch.equal(value, before[key]), key
    assert any(not torch.equal(v, before[k]) for k, v in run.method.backbone.named_parameters())


def test_network_without_a_stem():
    network = torch.nn.Linear(2, 2)
    assert prepared(network, False, False) is network
    with pytest.raises(UserError, match="backbone.freeze_stem=true: this network has no stem that we know"):
        prepared(network, False, True)


def test_rates_of_the_backbone_are_scaled(session):
    plain = session("method=byol", "monitor.every=0", folder="a")
    plain.fit()
    run = session("method=byol", "optimizer.backbone_lr_scale=0.1", "monitor.every=0", folder="b")
    run.fit()
    own = {id(p) for p in run.method.backbone.parameters()}
    (optimizer,) = run.trainer.optimizers
    rates = {group["initial_lr"]: [id(p) in own for p in group["params"]] for group in optimizer.param_groups}
    peak = run.optimizer.peak_lr(64)
    assert sorted(rates) == pytest.approx([0.1 * peak, peak])
    assert all(rates[min(rates)]) and not any(rates[max(rates)])
    assert len(plain.trainer.optimizers[0].param_groups) == 2  # unchanged: matrices, and biases and norms


def test_groups_keep_what_they_hold():
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    groups = scaled_groups([{"params": [*a.parameters(), *b.parameters()], "fixed_lr": True}], a, 0.5)
    assert [g.get("lr_scale") for g in groups] == [0.5, None] and all(g["fixed_lr"] for g in groups)
    assert [id(p) for p in groups[0]["params"]] == [id(p) for p in a.parameters()]


def test_old_checkpoints_know_no_frozen_stem(config):
    assert not any(not p.requires_grad for p in factory.backbone(config("backbone=small")).parameters())
