"""DINO: the loss, the centre, the teacher and the last layer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from lightly.loss import DINOLoss
from lightly.models.modules.heads import DINOProjectionHead
from method_cases import make, trainable, views

from siamese import factory, losses

SMALL = ("method.hidden_dim=8", "method.bottleneck_dim=4", "method.output_dim=5")


def looped(student, teacher, centre, student_temperature, teacher_temperature):
    """The paper's H over all pairs of different views, an image at a time."""
    terms = []
    for i, t in enumerate(teacher):
        for v, s in enumerate(student):
            if i == v:
                continue
            for row_t, row_s in zip(t, s, strict=True):
                p_t = torch.exp((row_t - centre) / teacher_temperature)
                p_s = torch.exp(row_s / student_temperature)
                terms.append(-((p_t / p_t.sum()) * torch.log(p_s / p_s.sum())).sum())
    return torch.stack(terms).mean()


def test_loss_equals_a_double_loop_and_lightlys():
    student = [torch.randn(6, 5, dtype=torch.float64) for _ in range(4)]
    teacher = [torch.randn(6, 5, dtype=torch.float64) for _ in range(2)]
    centre = torch.randn(5, dtype=torch.float64)
    value = losses.self_distillation(student, teacher, centre, 0.1, 0.04)
    torch.testing.assert_close(value, looped(student, teacher, centre, 0.1, 0.04))
    theirs = DINOLoss(5).double()
    theirs.center.copy_(centre.view(1, 1, 5))
    torch.testing.assert_close(value, theirs(teacher, student, teacher_temp=0.04), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_is_float32_under_autocast_and_gives_no_gradient_to_the_teacher(dtype):
    student = [torch.randn(64, 30).to(dtype).requires_grad_() for _ in range(3)]
    teacher = [torch.randn(64, 30).to(dtype).requires_grad_() for _ in range(2)]
    exact = [s.detach().float().requires_grad_() for s in student]
    with torch.autocast("cpu", dtype):
        value = losses.self_distillation(student, teacher, torch.zeros(30), 0.1, 0.04)
    losses.self_distillation(exact, [t.float() for t in teacher], torch.zeros(30), 0.1, 0.04).backward()
    value.backward()
    assert value.dtype == torch.float32
    assert all(t.grad is None for t in teacher)
    assert (student[2].grad.float() - exact[2].grad).norm() < 0.005 * exact[2].grad.norm()


def test_the_teacher_sees_the_large_views_alone(config):
    method = make(config, "dino", *SMALL).double()
    method.center.normal_()
    x = [torch.randn(6, 3, size, size).double() for size in (8, 8, 6, 6, 6)]
    reference = copy.deepcopy(method)
    h = [reference.backbone(torch.cat(x[:2])), reference.backbone(torch.cat(x[2:]))]
    z = [F.normalize(reference.projector(one), dim=1) for one in h]  # no BatchNorm in the head
    student = (torch.cat(z) @ F.normalize(reference.prototypes.weight, dim=1).T).chunk(5)
    backbone, projector, prototypes = reference.target
    t = F.normalize(projector(backbone(torch.cat(x[:2]))), dim=1) @ F.normalize(prototypes.weight, dim=1).T
    expected = looped(student, t.chunk(2), reference.center, 0.1, 0.04)
    found = method.loss(x)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    assert method.backbone.batches == [12, 18]
    assert method.target[0].batches == [12]
    found.backward()
    expected.backward()
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None or not ours.requires_grad)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_centre_is_the_mean_over_micro_batches_after_the_step(config):
    method, expected = make(config, "dino", *SMALL, "method.center_momentum=0.8"), torch.zeros(5)
    for step in range(3):
        means = []
        for _ in range(2):  # accumulated
            x, twin = views(name="dino"), copy.deepcopy(method)
            means.append(twin.target(torch.cat(x[:2])).mean(0))
            method.loss(x)
        torch.testing.assert_close(method.center, expected)
        method.after_step(step, 10)
        expected = 0.8 * expected + 0.2 * (means[0] + means[1]) / 2
        torch.testing.assert_close(method.center, expected)
    method.loss(views(name="dino"))
    method.drop_step()
    assert not method.new_means
    torch.testing.assert_close(method.center, expected)


def test_teacher_temperature_rises_along_a_line(config):
    warm = ("method.warmup_teacher_temperature=0.04", "method.teacher_temperature=0.07")
    method = make(config, "dino", *SMALL, *warm, "method.temperature_warmup_epochs=3", steps_per_epoch=10)
    for step, expected in ((0, 0.04), (15, 0.055), (30, 0.07), (300, 0.07)):
        method.step = step
        assert method.teacher_temperature() == pytest.approx(expected)
    assert make(config, "dino", *SMALL, *warm, "method.temperature_warmup_epochs=0").teacher_temperature() == 0.07


@pytest.mark.parametrize("unit", [True, False])
def test_last_layer_is_frozen_at_first_and_its_length_trained_where_asked(config, unit):
    options = ("method.freeze_last_layer_epochs=1", f"method.norm_last_layer={unit}")
    method = make(config, "dino", *SMALL, *options, steps_per_epoch=2)
    assert len(list(method.prototypes.parameters())) == (1 if unit else 2)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    start = [p.clone() for p in method.prototypes.parameters()]
    for step in range(3):
        method.step = step
        optimizer.zero_grad()
        method.loss(views(name="dino")).backward()
        method.on_before_optimizer_step(optimizer)
        optimizer.step()
        method.after_step(step, 10)
        for now, before in zip(method.prototypes.parameters(), start, strict=True):
            assert torch.equal(now, before) == (step < 2)


def test_state_continues_exactly(config):
    method, other = (make(config, "dino", *SMALL) for _ in range(2))
    for step in range(2):
        method.loss(views(name="dino"))
        method.after_step(step, 10)
    other.load_state_dict(method.state_dict())
    x = views(name="dino")
    assert torch.equal(method.loss(x), other.loss(x))
    method.after_step(2, 10), other.after_step(2, 10)
    assert method.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in method.state_dict().items())
    assert method.center.norm() > 0


@pytest.mark.parametrize("unit", [True, False])
def test_head_equals_lightlys(config, unit):
    method = make(config, "dino", *SMALL, f"method.norm_last_layer={unit}")
    with pytest.warns(FutureWarning, match="weight_norm"):
        theirs = DINOProjectionHead(12, 8, 4, 5, norm_last_layer=unit)
    with torch.no_grad():
        for ours, other in zip(method.projector[::2], list(theirs.layers)[::2], strict=True):
            other.weight.copy_(ours.weight)
            other.bias.copy_(ours.bias)
        theirs.last_layer.weight_v.copy_(method.prototypes.weight)
    x = torch.randn(6, 12)
    torch.testing.assert_close(method.prototypes(method.projector(x)), theirs(x))
    assert trainable(method.projector, method.prototypes) == trainable(theirs)


def test_vision_transformer_takes_views_of_two_sizes_and_its_teacher_drops_nothing(config):
    cfg = config(
        "method=dino", "backbone=small_vit", "backbone.depth=2", "backbone.drop_path=0.5", "data.crop=16", *SMALL
    )
    method = instantiate(cfg.method, _partial_=True)(factory.backbone(cfg)).train()
    x = [torch.randn(4, 3, size, size) for size in (16, 16, 8)]
    assert method.loss(x).isfinite()
    assert torch.equal(method.target(x[0]), method.target(x[0]))
    assert not torch.equal(method.backbone(x[0]), method.backbone(x[0]))
