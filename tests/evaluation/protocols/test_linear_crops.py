"""Linear heads on random crops against autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from siamese.config import make
from siamese.errors import UserError
from siamese.evaluation.protocols.linear_crops import Heads, LinearCrops
from siamese.options import options
from siamese.probes import Features

PLAIN = dict(
    lrs=[0.1, 0.5], weight_decays=[0.0, 0.01], scaling="none", batch_size=16, epochs=2, schedule="cosine",
    milestones=[], per="step", momentum=0.9, nesterov=False, trust_coefficient=0, init_std=0.01, crop_scale=None,
    interpolation=None, flip=None, seed=3,
)  # fmt: skip


def larc(parameters, trust, decay):
    """apex's LARC with clip=False: the decay goes into the gradient, and the ratio before it."""
    for p in parameters:
        size, slope = p.norm(), (p.grad + decay * p).norm()
        p.grad = (p.grad + decay * p) * (trust * size / slope if size > 0 and slope > 0 else 1.0)


@pytest.mark.parametrize("change", [{}, {"nesterov": True}, {"trust_coefficient": 0.02}, {"scaling": "linear"}])
def test_head_is_trained_as_autograd_does(change):
    recipe = LinearCrops(**{**PLAIN, **change})
    settings = [(lr, wd) for lr in recipe.lrs for wd in recipe.weight_decays]
    heads = Heads(recipe, settings, 6, 4, torch.device("cpu"), 16)
    references = []
    for lr, wd in settings * 2:
        layer = nn.Linear(6, 4)
        with torch.no_grad():
            layer.weight.copy_(heads.weight[0].T)
            layer.bias.zero_()
        decay = 0.0 if recipe.trust_coefficient else wd
        rate = lr * 16 / 256 if recipe.scaling == "linear" else lr
        references.append(
            (
                layer,
                torch.optim.SGD(layer.parameters(), rate, 0.9, weight_decay=decay, nesterov=recipe.nesterov),
                rate,
                wd,
            )
        )
    for step in range(6):
        x, y = torch.randn(16, 6), torch.randint(0, 4, (16,))
        first = torch.rand(16) < 0.7
        factor = 1 - step / 6
        heads.step(x, y, first, torch.ones(16, dtype=torch.bool), factor)
        for i, (layer, optimizer, rate, wd) in enumerate(references):
            seen = first if i < len(settings) else slice(None)  # the first half does not learn from the others
            optimizer.zero_grad()
            F.cross_entropy(layer(x[seen]), y[seen]).backward()
            if recipe.trust_coefficient:
                larc(layer.parameters(), recipe.trust_coefficient, wd)
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.step()
    for i, (layer, *_) in enumerate(references):
        torch.testing.assert_close(heads.weight[i].T, layer.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(heads.bias[i, 0], layer.bias.detach(), atol=1e-5, rtol=1e-4)
    x, y = torch.randn(50, 6), torch.randint(0, 4, (50,))
    top1, loss = heads.score(Features(x, y), slice(0, 8))
    for i, (layer, *_) in enumerate(references):
        assert top1[i] == pytest.approx((layer(x).argmax(1) == y).float().mean().item())
        assert loss[i] == pytest.approx(F.cross_entropy(layer(x), y).item(), rel=1e-4)


@pytest.mark.parametrize("preset", options("eval/linear_crops"))
def test_preset_has_the_rate_of_its_paper(config, preset):
    recipe = make(config(f"eval/linear_crops={preset}", name="eval_linear").eval.linear_crops)
    heads = Heads(recipe, [(lr, 0.0) for lr in recipe.lrs], 6, 4, torch.device("cpu"), recipe.batch_size)
    peak = heads.lr.flatten().tolist()
    papers = {"moco": 30, "moco_v3": 0.4, "simclr": 1.6, "simsiam": 1.6, "byol": 1.6}
    if preset in papers:
        assert peak[0] == pytest.approx(papers[preset])
        assert recipe.crop_scale == [0.08, 1.0]
    heads.step(torch.randn(8, 6), torch.arange(8) % 4, torch.arange(8) > 2, torch.arange(8) > -1, 1.0)
    assert heads.weight.isfinite().all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lrs": []}, "lrs"),
        ({"scaling": "log"}, "scaling=log"),
        ({"epochs": 0}, "epochs=0"),
        ({"trust_coefficient": -1}, "trust_coefficient"),
    ],
)
def test_impossible_setting_is_refused(built, change, says):
    with pytest.raises(UserError, match=says):
        built("eval.linear_crops", "siamese.evaluation.protocols.linear_crops.LinearCrops", **{**PLAIN, **change})
