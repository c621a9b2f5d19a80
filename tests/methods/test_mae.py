"""MAE: masks, loss and decoder."""

import pytest
import timm
import torch
from hydra.utils import instantiate
from lightly.models import utils as lightly
from mae_reference import mae_loss
from method_cases import make

from siamese import factory
from siamese.backbones import encode_visible
from siamese.errors import UserError
from siamese.losses import masked_pixels, patchify


@pytest.mark.parametrize("normalise", ["true", "false"])
@pytest.mark.parametrize("ratio", [0.75, 0.4])
def test_loss_equals_the_papers_text(config, normalise, ratio):
    method = make(config, "mae", f"method.normalise_pixels={normalise}", f"method.mask_ratio={ratio}").double()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    loss = method.loss([x])
    order = method.draw(5, x.device)
    expected = mae_loss(method, x, order)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    ours = torch.autograd.grad(loss, [p for p in method.parameters() if p.requires_grad])
    theirs = torch.autograd.grad(expected, [p for p in method.parameters() if p.requires_grad])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


def test_masks_are_random_orders_of_each_image(config):
    method = make(config, "mae")
    order = method.draw(400, torch.device("cpu"))
    assert torch.equal(order.sort(1).values, torch.arange(16).expand(400, 16))
    assert method.visible == 4
    seen = order[:, :4].flatten().bincount(minlength=16) / 400
    assert (seen - 0.25).abs().max() < 0.1 and len({tuple(o) for o in order.tolist()}) == 400


def test_masked_pixels_do_not_reach_the_encoder(config):
    method, seen = make(config, "mae").eval(), []
    method.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    x = torch.randn(4, 3, 8, 8)
    for change in (0, 1):
        order = method.draw(4, x.device)
        patches = patchify(x, 2)
        hidden = torch.zeros(4, 16, 1).scatter(1, order[:, method.visible :, None], 1.0)
        changed = patches + change * hidden * torch.randn_like(patches)
        image = changed.view(4, 4, 4, 2, 2, 3).permute(0, 5, 1, 3, 2, 4).reshape(4, 3, 8, 8)
        method.loss([image])
        assert seen[-1][0].shape == (4, 1 + method.visible, 96)
    torch.testing.assert_close(seen[0][0], seen[1][0], rtol=0, atol=0)


def test_all_patches_visible_give_the_backbones_features(config):
    for pool in ("token", "mean"):
        network = factory.backbone(config("backbone=small_vit", f"backbone.pool={pool}")).eval()
        x = torch.randn(3, 3, 8, 8)
        order = torch.rand(3, 16).argsort(1)
        with torch.no_grad():
            found = network.forward_head(encode_visible(network, x, order), pre_logits=True)
            torch.testing.assert_close(found, network(x), rtol=1e-5, atol=1e-5)


def test_pixels_are_lightlys():
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    assert torch.equal(patchify(x, 4), lightly.patchify(x, 4))
    prediction, masked = torch.randn(2, 5, 48, dtype=torch.float64), torch.rand(2, 9).argsort(1)[:, 4:]
    pixels = patchify(x, 4)
    target = lightly.get_at_index(pixels, masked)
    plain = masked_pixels(prediction, pixels, masked, normalise=False)
    torch.testing.assert_close(plain, torch.nn.MSELoss()(prediction, target))
    scaled = (target - target.mean(2, True)) / target.std(2, keepdim=True)
    found = masked_pixels(prediction, pixels, masked, normalise=True)
    torch.testing.assert_close(found, torch.nn.MSELoss()(prediction, scaled), rtol=1e-5, atol=0)
    even = torch.ones_like(pixels)  # a patch of one value has no standard deviation
    torch.testing.assert_close(masked_pixels(prediction, even, masked, normalise=True), prediction.square().mean())


def test_loss_is_in_float32_under_autocast():
    prediction, masked = torch.randn(2, 5, 12, dtype=torch.bfloat16), torch.rand(2, 9).argsort(1)[:, 4:]
    pixels = torch.randn(2, 9, 12).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = masked_pixels(prediction, pixels, masked, normalise=True)
    assert found.dtype == torch.float32
    assert torch.equal(found, masked_pixels(prediction.float(), pixels.float(), masked, normalise=True))


def test_state_holds_each_tensor_once_under_timms_names(config):
    method = make(config, "mae")
    names = set(method.state_dict())
    model = timm.models.VisionTransformer(img_size=8, patch_size=2, embed_dim=96, depth=2, num_heads=3, num_classes=0)
    assert {n.removeprefix("backbone.") for n in names if n.startswith("backbone.")} == set(model.state_dict())
    assert {n.split(".")[0] for n in names} == {"backbone", "decoder"}
    assert method.projection is None
    method.loss([torch.randn(2, 3, 8, 8)])
    assert method.projection.shape == (2, 96) and not method.projection.requires_grad


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_vision_transformers_of_timm(config, name):
    cfg = config("method=mae", "backbone=timm", f"backbone.name={name}", "data.crop=64")
    method = instantiate(cfg.method, _partial_=True)(factory.backbone(cfg))
    loss = method.loss([torch.randn(2, 3, 64, 64)])
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_pooling_that_is_not_trained_is_refused(config):
    cfg = config(
        "method=mae",
        "backbone=timm",
        "backbone.name=vit_tiny_patch16_224",
        "data.crop=64",
        "+backbone.options.global_pool=avg",
    )
    with pytest.raises(
        UserError, match=r"pools by layers that MAE does not train; give \+backbone.options.global_pool"
    ):
        instantiate(cfg.method, _partial_=True)(factory.backbone(cfg))


def test_processes_mask_what_one_process_masks(config, monkeypatch):
    from siamese.methods import mae

    method = make(config, "mae")
    method.step, method.micro_batch = 5, 1
    whole = method.draw(8, torch.device("cpu"))
    torch.manual_seed(7)  # another state of the process
    monkeypatch.setattr(mae, "world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(mae, "rank", lambda rank=rank: rank)
        parts.append(method.draw(4, torch.device("cpu")))
    assert torch.equal(torch.cat(parts), whole)
    method.micro_batch = 0
    assert not torch.equal(method.draw(4, torch.device("cpu")), parts[1])


def test_mistakes_name_a_value_that_works(config):
    with pytest.raises(UserError, match="method.decoder_width=97: .*; try 96"):
        make(config, "mae", "method.decoder_width=97")
    with pytest.raises(UserError, match=r"augment.views=1 x 4: the backbone is built for 8 pixels; give data.crop"):
        make(config, "mae").check_views([4])
