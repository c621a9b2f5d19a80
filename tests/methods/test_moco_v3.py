"""MoCo v3's two forms, and how old checkpoints keep theirs."""

import copy
import itertools

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from siamese import factory
from siamese.config import to_dict
from siamese.recipe import as_measured, changed_recipe, recipe_digest
from siamese.schema.saved import upgraded

SMALL = ("method.hidden_dim=16", "method.output_dim=8")


def layers(head):
    return ["bare" if isinstance(m, nn.BatchNorm1d) and not m.affine else type(m).__name__ for m in head]


def form(config, *overrides):
    cfg = config("method=moco_v3", *SMALL, *overrides)
    return instantiate(cfg.method, _partial_=True)(factory.backbone(cfg))


HIDDEN = ["Linear", "BatchNorm1d", "ReLU"]
RESNET = ([*HIDDEN, "Linear", "bare"], [*HIDDEN, "Linear"])
VIT = ([*HIDDEN, *HIDDEN, "Linear", "bare"], [*HIDDEN, "Linear", "bare"])
TIMM = ("backbone=timm", "data.crop=32")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("backbone=small",), RESNET),
        (("backbone=small_vit", "backbone.depth=1"), VIT),
        ((*TIMM, "backbone.name=vit_tiny_patch16_224"), VIT),
        ((*TIMM, "backbone.name=swin_tiny_patch4_window7_224", "+backbone.options.img_size=32"), VIT),
        (("backbone=small", "method.projector_layers=3"), (VIT[0], RESNET[1])),
        (("backbone=small_vit", "method.projector_layers=2", "method.predictor_last_bn=false"), RESNET),
    ],
)
def test_form_follows_the_backbone(config, overrides, expected):
    method = form(config, *overrides)
    assert (layers(method.projector), layers(method.predictor)) == expected
    assert all(
        m.bias is None for head in (method.projector, method.predictor) for m in head if hasattr(m, "in_features")
    )
    assert [m.out_features for m in method.projector if hasattr(m, "out_features")][-1] == 8


def old(cfg):
    """The config of a run that was started before the two keys existed."""
    before = copy.deepcopy(to_dict(cfg))
    del before["method"]["projector_layers"], before["method"]["predictor_last_bn"]
    return before


@pytest.mark.parametrize("backbone", ["small", "small_vit"])
def test_old_run_resumes_in_its_form(config, backbone):
    cfg = config("method=moco_v3", f"backbone={backbone}", *SMALL)
    before = old(cfg)
    assert upgraded(before)["method"]["projector_layers"] == 2
    now = as_measured(cfg, before)
    assert (now.method.projector_layers, now.method.predictor_last_bn) == (2, False)
    assert changed_recipe(before, to_dict(now), False) == []
    deeper = config("method=moco_v3", f"backbone={backbone}", *SMALL, "method.projector_layers=3")
    assert changed_recipe(before, to_dict(as_measured(deeper, before)), False) == ["method.projector_layers=3 (was 2)"]


def test_digest_of_the_resnet_form_is_that_of_old_runs(config):
    digests = {}
    for backbone in ("small", "small_vit"):
        cfg = config("method=moco_v3", f"backbone={backbone}", *SMALL)
        resolved = factory.resolve_method(cfg, factory.backbone(cfg))
        assert "auto" not in (resolved.method.projector_layers, resolved.method.predictor_last_bn)
        digests[backbone] = recipe_digest(old(cfg)), recipe_digest(to_dict(resolved))
        if backbone == "small_vit":  # a new run of the transformer's form resumes
            assert changed_recipe(to_dict(resolved), to_dict(as_measured(cfg, to_dict(resolved))), False) == []
    assert digests["small"][0] == digests["small"][1]
    assert digests["small_vit"][0] != digests["small_vit"][1]


def test_frozen_patches_stay_and_the_target_has_them(config):
    method = form(config, "backbone=small_vit", "backbone.depth=1", "backbone.freeze_patches=true")
    before = method.backbone.patch_embed.proj.weight.clone()
    optimizer = torch.optim.SGD(itertools.chain(*(g["params"] for g in method.param_groups())), lr=0.1)
    method.loss([torch.randn(6, 3, 8, 8) for _ in range(2)]).backward()
    optimizer.step()
    method.after_step(0, 10)
    assert torch.equal(method.backbone.patch_embed.proj.weight, before)
    torch.testing.assert_close(method.target[0].patch_embed.proj.weight, before)
