"""Backbones for any number of channels; their first layer against timm's."""

import math

import pytest
import timm
import torch
from timm.models import adapt_input_conv
from torch import nn

from siamese import backbones
from siamese.backbones.vit import sincos_position
from siamese.checkpoints.formats import fill
from siamese.errors import UserError

BUILD = {
    "small": lambda n, **more: backbones.small_resnet("small", [4, 8], 1, channels=n, **more),
    "torchvision": lambda n, **more: backbones.torchvision_resnet("resnet18", False, False, channels=n, **more),
    "small stem": lambda n, **more: backbones.torchvision_resnet("resnet18", True, False, channels=n, **more),
    "lightly": lambda n, **more: backbones.lightly_resnet("resnet-18", 0, channels=n, **more),
    "timm": lambda n, **more: backbones.timm_model("resnet10t", 32, False, {}, channels=n, **more),
    "vit": lambda n, **more: backbones.timm_model("vit_tiny_patch16_224", 32, False, {}, channels=n, **more),
}


def stem(model):
    """Name and weight of the first convolution."""
    name, layer = next((k, m) for k, m in model.named_modules() if isinstance(m, nn.Conv2d))
    return f"{name}.weight", layer.weight


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("channels", [1, 4, 13])
def test_first_layer_takes_the_channels_and_nothing_else_changes(kind, channels):
    model, usual = BUILD[kind](channels).eval(), BUILD[kind](3)
    with torch.no_grad():
        assert model(torch.randn(2, channels, 32, 32)).shape == (2, model.feature_dim)
    name, weight = stem(model)
    assert weight.shape[1] == channels and model.feature_dim == usual.feature_dim
    shapes = {k: tuple(v.shape) for k, v in usual.state_dict().items()}
    shapes[name] = (shapes[name][0], channels, *shapes[name][2:])
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == shapes
    assert 0.01 < weight.std() < 1  # initialised


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_timms_own_networks_of_these_channels(name):
    size = {"img_size": 32} if name.startswith("vit") else {}
    for channels in (1, 4, 13):
        ours = backbones.timm_model(name, 32, False, {}, channels=channels)
        theirs = timm.create_model(name, num_classes=0, in_chans=channels, **size)
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(2, channels, 32, 32)
        with torch.no_grad():
            assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("channels", [1, 4, 13])
def test_adapted_weights_are_timms(kind, channels):
    source, model = BUILD[kind](3), BUILD[kind](channels, adapt_first_layer=True)
    held = {k: v.clone() for k, v in source.state_dict().items()}
    told = fill("f.ckpt", "train.py's own", model, held)
    name, weight = stem(model)
    expected = adapt_input_conv(channels, held[name])
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-7)
    done = "summed" if channels == 1 else "repeated"
    assert told == f"first layer {name}: weights of 3 channels {done} for {channels}"
    others = {k: v for k, v in model.state_dict().items() if k != name}
    assert all(torch.equal(v, held[k]) for k, v in others.items())


@pytest.mark.parametrize(("before", "after"), [(13, 3), (13, 1), (4, 13), (1, 3), (13, 26)])
def test_equal_channels_give_the_same_activations(before, after):
    """The mean over repeated channels keeps its size, whatever the numbers of channels."""
    torch.manual_seed(0)
    source, model = BUILD["small"](before), BUILD["small"](after, adapt_first_layer=True)
    with torch.no_grad():  # equal weights for each channel
        layer = stem(source)[1]
        layer.copy_(layer.mean(1, keepdim=True).expand_as(layer))
    fill("f.ckpt", "train.py's own", model, source.state_dict())
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        whole = [m.eval()(x.expand(-1, n, -1, -1)) for m, n in ((source, before), (model, after))]
    if after == 1:  # the sum over channels of equal values is that of one channel
        assert torch.allclose(stem(model)[1], stem(source)[1].sum(1, keepdim=True), atol=1e-6)
    torch.testing.assert_close(*whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BUILD)
def test_other_first_layer_is_refused_without_being_asked_for(kind):
    with pytest.raises(UserError, match=r"1 of another shape: .* add backbone.adapt_first_layer=true"):
        fill("f.ckpt", "train.py's own", BUILD[kind](4), BUILD[kind](3).state_dict())


def test_channels_must_be_known():
    with pytest.raises(UserError, match="backbone.channels=auto: is not known without images"):
        BUILD["small"]("auto")


# Vision Transformers


def vision_transformer(**changes):
    settings = dict(
        name="x", image_size=224, patch_size="auto", width=192, depth=2, heads=3, pool="token", position="learned",
        init="timm", freeze_patches=False, drop_path=0.0,
    )  # fmt: skip
    return backbones.vit(**{**settings, **changes})


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_vit_is_timms_tensor_by_tensor(pool):
    made = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2)
    ours = vision_transformer(pool=pool).eval()
    ours.load_state_dict(made.state_dict())  # strict: the same names and shapes
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        tokens = made.eval().forward_features(x)
        expected = tokens[:, 0] if pool == "token" else tokens[:, 1:].mean(1)
        assert torch.equal(ours(x), expected)
    assert ours.feature_dim == 192


def test_drop_path_rises_to_the_last_block():
    network = vision_transformer(image_size=8, width=16, heads=2, depth=3, drop_path=0.4)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.blocks]
    assert rates == pytest.approx([0, 0.2, 0.4])


def test_fixed_positions_are_sines_and_cosines():
    """Columns, then rows; a quarter of the width each."""
    found = sincos_position(8, 3)
    assert found.shape == (1, 10, 8) and found[0, 0].abs().sum() == 0
    for place in range(9):
        column, row = place % 3, place // 3
        expected = [f(n / 100**i) for n in (column, row) for f in (math.sin, math.cos) for i in (0, 1)]
        assert found[0, 1 + place].tolist() == pytest.approx(expected, abs=1e-6)
    network = vision_transformer(image_size=8, position="sincos")
    assert not network.pos_embed.requires_grad and "pos_embed" in network.state_dict()
    assert torch.equal(network.pos_embed, sincos_position(192, 4))


@pytest.mark.parametrize(("size", "side"), [(224, 16), (112, 16), (96, 8), (64, 8), (32, 4), (28, 4), (8, 2)])
def test_patches_follow_the_views(size, side):
    assert vision_transformer(image_size=size, depth=1).patch_embed.patch_size == (side, side)


def test_smaller_views_get_interpolated_positions():
    torch.manual_seed(0)
    network = vision_transformer(image_size=32, position="sincos").eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, 16, 16)).shape == (2, 192)
        sizes = [network._pos_embed(network.patch_embed(torch.zeros(1, 3, n, n))).shape[1] for n in (32, 16)]
    assert sizes == [65, 17]


def test_frozen_patches_are_not_trained():
    network = vision_transformer(image_size=8, freeze_patches=True)
    fixed = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert fixed == {"patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_xavier_start_has_queries_keys_and_values_apart():
    network = vision_transformer(image_size=32, init="xavier")
    qkv, fc1 = network.blocks[0].attn.qkv.weight, network.blocks[0].mlp.fc1.weight
    assert qkv.abs().max().item() == pytest.approx(math.sqrt(6 / (192 + 192)), rel=1e-2)
    assert fc1.abs().max().item() == pytest.approx(math.sqrt(6 / (192 + 768)), rel=1e-2)
    patches = network.patch_embed.proj.weight
    assert patches.abs().max().item() == pytest.approx(math.sqrt(6 / (48 + 192)), rel=1e-2)
    assert network.cls_token.abs().max() < 1e-4 and network.patch_embed.proj.bias.abs().sum() == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"image_size": 32, "patch_size": 5},
            r"backbone.patch_size=5: does not divide the 32 pixels.*1, 2, 4, 8, 16, 32",
        ),
        ({"image_size": 30}, r"backbone.patch_size=auto: does not divide the 30 pixels"),
        ({"image_size": 131}, r"does not divide the 131 pixels of the views; choose another data.crop"),
        ({"image_size": 262, "patch_size": 1}, r"more than 128 patches; choose another data.crop"),
        ({"heads": 5}, r"backbone.width=192: must be a multiple of backbone.heads=5; try 180"),
        ({"width": 18, "heads": 3, "position": "sincos"}, r"backbone.width=18: .*heads=3 and of 4; try 12"),
    ],
)
def test_impossible_vision_transformer_is_refused(change, told):
    with pytest.raises(UserError, match=told):
        vision_transformer(**change)


def test_kinds_of_transformers_are_told_apart():
    vit, swin = vision_transformer(image_size=8, depth=1), timm.create_model("swin_tiny_patch4_window7_224")
    assert [(f(n)) for n in (vit, swin, BUILD["small"](3)) for f in (backbones.is_vit, backbones.attends)] == [
        True, True, False, True, False, False,
    ]  # fmt: skip
    assert not backbones.is_vit(timm.create_model("beit_base_patch16_224", depth=1))
    pooled = timm.create_model("vit_tiny_patch16_224", depth=1, global_pool="map", fc_norm=False)
    assert backbones.is_vit(pooled)
    assert not backbones.attends(timm.create_model("resnet10t"))
