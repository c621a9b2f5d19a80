"""Backbones for any number of channels; their first layer against timm's."""

import pytest
import timm
import torch
from timm.models import adapt_input_conv
from torch import nn

from siamese import backbones
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
