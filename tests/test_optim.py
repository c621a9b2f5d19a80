import math

import pytest
import torch
from torch import nn

from siamese import by_epochs
from siamese.errors import UserError
from siamese.optim import LARS, OptimizerRecipe, lr_factor, split_groups


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
def test_lars_trajectory(lr_in_buffer, adapt, zero):
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


def test_lars_skips_tensors_without_a_gradient():
    w = nn.Parameter(torch.ones(2, 2))
    LARS([w], lr=1.0, weight_decay=1.0).step()
    assert torch.equal(w, torch.ones(2, 2))


def test_biases_and_norms_are_excluded():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    groups = split_groups([{"params": net.parameters()}], 1e-6)
    by = {g["adapt"]: g for g in groups}
    assert [p.ndim for p in by[True]["params"]] == [4, 2]
    assert all(p.ndim == 1 for p in by[False]["params"])
    assert len(by[False]["params"]) == 4
    assert (by[True]["weight_decay"], by[False]["weight_decay"]) == (1e-6, 0.0)


def test_decay_of_everything_where_the_paper_does():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer, _ = recipe().build([{"params": list(net.parameters())}], 256, 1, 1)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-4]
    assert len(optimizer.param_groups[0]["params"]) == 4


@pytest.mark.parametrize(
    ("scaling", "batch", "expected"), [("linear", 512, 0.2), ("sqrt", 4096, 6.4), ("none", 512, 0.1)]
)
def test_scaling_by_the_global_batch(scaling, batch, expected):
    assert recipe(scaling=scaling).peak_lr(batch) == pytest.approx(expected)


def test_simclrs_two_scalings_meet_at_4096():
    assert recipe(lr=0.3).peak_lr(4096) == pytest.approx(recipe(lr=0.075, scaling="sqrt").peak_lr(4096)) == 4.8


def test_warmup_and_cosine_per_step():
    factors = [lr_factor(s, 5, 4, warmup_epochs=1) for s in range(21)]
    expected = [s / 5 for s in range(5)] + [0.5 * (1 + math.cos(math.pi * (s - 5) / 15)) for s in range(5, 21)]
    assert factors == pytest.approx(expected)
    assert factors[0] == 0
    assert factors[-1] == pytest.approx(0)


def test_cosine_per_epoch_is_mocos():
    factors = [lr_factor(s, 5, 4, per="epoch") for s in range(20)]
    expected = [0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4) for _ in range(5)]
    assert factors == pytest.approx(expected)


def test_milestones_are_moco_v1s():
    factors = [lr_factor(s, 1, 200, schedule="milestones", milestones=(120, 160)) for s in (0, 119, 120, 159, 160, 199)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_scheduler_applies_the_closed_form():
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
def test_impossible_values(change, key):
    with pytest.raises(UserError, match=f"optimizer.{key}="):
        recipe(**change).check(epochs=5)


def test_the_warm_up_is_no_longer_than_its_part_of_the_training():
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


def test_what_follows_the_length_of_the_training():
    table = {0: 0.97, 100: 0.99, 1000: 0.996}
    assert [by_epochs(e, table) for e in (25, 99, 100, 800, 1000, 2000)] == [0.97, 0.97, 0.99, 0.99, 0.996, 0.996]
