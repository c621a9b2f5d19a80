"""LARS, parameter groups, schedules, learning rates."""

import math

import pytest
import torch
from torch import nn

from siamese.errors import UserError
from siamese.optim import LARS, OptimizerRecipe, _written_out, lr_factor, split_groups


def recipe(**changes):
    values = dict(
        algorithm=lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9), lr=0.1, scaling="linear",
        weight_decay=1e-4, exclude_bias_and_norm=False, warmup_epochs=0, schedule="cosine", per="step",
    )  # fmt: skip
    return OptimizerRecipe(**{**values, **changes})


def reference_lars(weights, gradients, lrs, wd, eta, momentum, lr_in_buffer, adapt):
    """One tensor's trajectory, a step a line of the official code, in plain Python."""
    w, v = weights.clone().double(), torch.zeros_like(weights).double()
    for g, lr in zip(gradients, lrs, strict=True):
        g = g.double() + wd * w
        if adapt:
            wn, gn = math.sqrt((w * w).sum()), math.sqrt((g * g).sum())
            g = g * (eta * wn / gn if wn > 0 and gn > 0 else 1.0)
        if lr_in_buffer:
            v = momentum * v + lr * g
            w = w - v
        else:
            v = momentum * v + g
            w = w - lr * v
    return w


@pytest.mark.parametrize("lr_in_buffer", [False, True])
@pytest.mark.parametrize("adapt", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_lars_trajectory_equals_the_official_code(lr_in_buffer, adapt, zero):
    w = nn.Parameter(torch.zeros(5, 3) if zero else torch.randn(5, 3))
    start = w.detach().clone()
    group = {"params": [w], "adapt": adapt, "weight_decay": 1e-2}
    optimizer = LARS([group], lr=0.0, trust_coefficient=1e-3, lr_in_buffer=lr_in_buffer)
    gradients, lrs = torch.randn(12, 5, 3), [0.3 * k for k in range(12)]  # a schedule tells the two forms apart
    for g, lr in zip(gradients, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        w.grad = g.clone()
        optimizer.step()
        torch.testing.assert_close(w.grad, g)  # the gradient is the caller's
    expected = reference_lars(start, gradients, lrs, 1e-2, 1e-3, 0.9, lr_in_buffer, adapt)
    torch.testing.assert_close(w.detach().double(), expected, rtol=1e-5, atol=1e-7)


def reference_clipped(weights, gradients, lrs, wd, eta, momentum, adapt):
    """solo-learn's LARS with clip_lr, one tensor as a list of floats, an operation a line."""
    w, v = [float(x) for x in weights.flatten()], None
    for gradient, lr in zip(gradients, lrs, strict=True):
        g = [float(x) for x in gradient.flatten()]
        wn, gn = math.sqrt(math.fsum(x * x for x in w)), math.sqrt(math.fsum(x * x for x in g))
        if adapt and wn != 0 and gn != 0:
            rate = eta * wn / (gn + wn * wd + 1e-8)
            rate = min(rate / lr, 1) if lr else 1
            g = [rate * (x + wd * y) for x, y in zip(g, w, strict=True)]
        v = g if v is None else [momentum * a + b for a, b in zip(v, g, strict=True)]
        w = [a - lr * b for a, b in zip(w, v, strict=True)]
    return torch.tensor(w, dtype=torch.float64).view_as(weights)


@pytest.mark.parametrize("rates", [[0.0, 0.1, 0.2, 0.3, 0.2, 0.01, 0.0], [0.02] * 7])
@pytest.mark.parametrize("wd", [0.0, 0.3])
def test_clipped_lars_equals_solo_learn(rates, wd):
    """Tensors whose rate is clipped and whose is not, with small gradients, zero weights, a zero gradient, excluded."""
    f64 = torch.float64
    starts = [torch.randn(5, 3, dtype=f64), 50 * torch.randn(4, 2, dtype=f64), torch.randn(3, 2, dtype=f64),
              torch.zeros(2, 2, dtype=f64), torch.randn(2, 3, dtype=f64), torch.randn(6, dtype=f64)]  # fmt: skip
    gradients = [[torch.randn_like(s) * (1e-7 if i == 2 else 1) for s in starts] for i in range(len(rates))]
    for g in gradients:
        g[2] *= 1e-8  # of the order of the constant in the denominator
        g[4].zero_()
    params = [nn.Parameter(s.clone()) for s in starts]
    groups = [{"params": params[:5], "weight_decay": wd}, {"params": params[5:], "adapt": False}]
    optimizer = LARS(groups, lr=0.0, trust_coefficient=0.02, clip=True)
    for g, lr in zip(gradients, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for p, own in zip(params, g, strict=True):
            p.grad = own.clone()
        optimizer.step()
        assert all(torch.equal(p.grad, own) for p, own in zip(params, g, strict=True))  # the caller's
    for i, (p, start) in enumerate(zip(params, starts, strict=True)):
        expected = reference_clipped(start, [g[i] for g in gradients], rates, wd, 0.02, 0.9, adapt=i != 5)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-14)
        assert i == 4 or not torch.equal(p.detach(), start)


@pytest.mark.parametrize("optimizer", ["sgd", "clipped LARS"])
def test_scaled_loss_is_equivalent_to_scaled_rate_and_decay(optimizer):
    """A loss c times larger equals a rate c times smaller and a decay c times larger, by which recipes are converted.
    (Not so for the unclipped LARS.)"""

    def make(params, lr, wd):
        if optimizer == "sgd":
            return torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=wd)
        return LARS(split_groups([{"params": params}], wd), lr=lr, trust_coefficient=0.02, clip=True)

    def train(c):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).double()
        made, x = make(list(net.parameters()), 0.4 / c, 1e-2 * c), torch.randn(16, 6, dtype=torch.float64)
        for step in range(8):
            for group in made.param_groups:
                group["lr"] = 0.4 / c * (step + 1) / 8
            made.zero_grad()
            (c * net(x).square().mean()).backward()
            made.step()
        return [p.detach() for p in net.parameters()]

    one, two, four = train(1), train(2), train(4)
    for a, b, c in zip(one, two, four, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-9)  # the 1e-8 of the denominator
        torch.testing.assert_close(c, a, rtol=1e-6, atol=1e-9)


def test_factors_written_out_scale_as_factors_do():
    """A GPU's way to scale each tensor, bit for bit that of the CPU; layouts stay."""
    tensors = [torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), torch.randn(5, 3).T, torch.randn(7)]
    factors = torch.tensor([0.3, 1e-9, 7.1])
    written = _written_out(factors, tensors)
    for got, f, x in zip(torch._foreach_mul(tensors, written), factors, tensors, strict=True):
        assert torch.equal(got, f * x)
    assert [w.stride() for w in written] == [x.stride() for x in tensors]


def test_lars_skips_tensors_without_a_gradient():
    w = nn.Parameter(torch.ones(2, 2))
    LARS([w], lr=1.0, weight_decay=1.0).step()
    assert torch.equal(w, torch.ones(2, 2))


def test_biases_and_norms_are_excluded_from_decay_and_adaptation():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    groups = split_groups([{"params": net.parameters()}], 1e-6)
    by = {g["adapt"]: g for g in groups}
    assert [p.ndim for p in by[True]["params"]] == [4, 2]
    assert all(p.ndim == 1 for p in by[False]["params"])
    assert len(by[False]["params"]) == 4
    assert (by[True]["weight_decay"], by[False]["weight_decay"]) == (1e-6, 0.0)


def test_all_parameters_decay_without_exclusion():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer, _ = recipe().build([{"params": list(net.parameters())}], 256, 1, 1)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-4]
    assert len(optimizer.param_groups[0]["params"]) == 4


@pytest.mark.parametrize(
    ("scaling", "batch", "expected"), [("linear", 512, 0.2), ("sqrt", 4096, 6.4), ("none", 512, 0.1)]
)
def test_peak_rate_is_scaled_by_the_global_batch(scaling, batch, expected):
    assert recipe(scaling=scaling).peak_lr(batch) == pytest.approx(expected)


def test_simclr_scalings_agree_at_4096():
    assert recipe(lr=0.3).peak_lr(4096) == pytest.approx(recipe(lr=0.075, scaling="sqrt").peak_lr(4096)) == 4.8


def test_warmup_and_cosine_per_step():
    factors = [lr_factor(s, 5, 4, warmup_epochs=1) for s in range(21)]
    expected = [s / 5 for s in range(5)] + [0.5 * (1 + math.cos(math.pi * (s - 5) / 15)) for s in range(5, 21)]
    assert factors == pytest.approx(expected)
    assert factors[0] == 0
    assert factors[-1] == pytest.approx(0)


def test_cosine_per_epoch_equals_moco():
    factors = [lr_factor(s, 5, 4, per="epoch") for s in range(20)]
    expected = [0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4) for _ in range(5)]
    assert factors == pytest.approx(expected)


def test_milestones_equal_moco_v1():
    factors = [lr_factor(s, 1, 200, schedule="milestones", milestones=(120, 160)) for s in (0, 119, 120, 159, 160, 199)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_scheduler_applies_lr_factor():
    w = nn.Parameter(torch.zeros(2, 2))
    optimizer, schedule = recipe(warmup_epochs=1).build([{"params": [w]}], 512, 3, 4)
    seen = []
    for _ in range(12):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx([0.2 * lr_factor(s, 3, 4, 1) for s in range(12)])


@pytest.mark.parametrize(
    ("change", "key"),
    [({"lr": 0}, "lr"), ({"weight_decay": -1}, "weight_decay"), ({"warmup_epochs": 5}, "warmup_epochs"),
     ({"warmup_epochs": -1}, "warmup_epochs"), ({"scaling": "cubic"}, "scaling"), ({"schedule": "x"}, "schedule"),
     ({"per": "batch"}, "per")],
)  # fmt: skip
def test_impossible_setting_is_refused(built, change, key):
    with pytest.raises(UserError, match=f"optimizer.{key}="):
        built("optimizer", "siamese.optim.OptimizerRecipe", **vars(recipe(**change))).check(epochs=5)


def test_warmup_is_limited_to_a_share_of_the_training():
    recipe = OptimizerRecipe(torch.optim.SGD, 1.0, "none", 0.0, False, 10, "cosine", "step", (), 0.1)
    assert [recipe.warmup(epochs) for epochs in (25, 100, 1000)] == [2.5, 10, 10]
    recipe.check(5)  # longer than the training, were it not cut
    w = torch.nn.Parameter(torch.ones(2, 2))
    optimizer, schedule = recipe.build([{"params": [w]}], 64, 4, 25)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:11] == pytest.approx([i / 10 for i in range(11)])


def test_lars_state_without_clip_is_loaded():
    w = nn.Parameter(torch.ones(2, 2))
    w.grad = torch.ones(2, 2)
    state = LARS([w], lr=0.1).state_dict()
    for group in state["param_groups"]:
        del group["clip"]
    again = LARS([w], lr=0.1)
    again.load_state_dict(state)
    again.step()
    assert again.param_groups[0]["clip"] is False
