"""The first step of each recipe against its source: loss, rate and optimiser, implemented independently."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import nn

from siamese.errors import UserError
from siamese.options import options
from siamese.schema import check_train


class Net(nn.Module):
    """A backbone with a BatchNorm, of some features."""

    feature_dim = 12

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)

    def forward(self, x):
        return self.bn(self.conv(x)).relu().mean((2, 3))


# The losses, with the networks of a method of ours: (q, t) of each view where there is a target.


def both(method, views):
    z = [method.projector(method.backbone(v)) for v in views]
    return z, [method.predictor(one) for one in z]


def anchors(method, views, temperature):
    """Cross entropy of each of the 2N anchors, the other view among the 2N - 1 others."""
    z = F.normalize(method.projector(method.backbone(torch.cat(views))), dim=1)
    n = len(z) // 2
    logits = (z @ z.T / temperature)[~torch.eye(2 * n, dtype=torch.bool)].view(2 * n, -1)  # one column less
    labels = torch.cat([torch.arange(n - 1, 2 * n - 1), torch.arange(n)])
    return F.cross_entropy(logits, labels, reduction="none")


def simclr_mean(method, views, temperature):
    return anchors(method, views, temperature).mean()


def simclr_sum(method, views, temperature):
    return sum(part.mean() for part in anchors(method, views, temperature).chunk(2))


def to_queue(method, q, k, temperature):
    q = F.normalize(method.projector(method.backbone(q)), dim=1)
    k = F.normalize(method.target(k), dim=1).detach()
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ method.queue], 1) / temperature
    return -F.log_softmax(logits, 1)[:, 0].mean()


def moco_first(method, views, temperature):
    return to_queue(method, *views, temperature)


def moco_sum(method, views, temperature):
    return to_queue(method, *views, temperature) + to_queue(method, *views[::-1], temperature)


def moco_mean(method, views, temperature):
    return moco_sum(method, views, temperature) / 2


def moco_v3(method, views, temperature):
    q, k = both(method, views)[1], [method.target(v).detach() for v in views]
    total = 0
    for a, b in ((q[0], k[1]), (q[1], k[0])):
        logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
        total = total - F.log_softmax(logits, 1).diagonal().mean() * 2 * temperature
    return total


def cosines(method, views):
    """The two mean cosines of predictions and targets."""
    z, p = both(method, views)
    t = [method.target(v) for v in views] if hasattr(method, "target") else z
    return [(F.normalize(p[i], dim=1) * F.normalize(t[1 - i].detach(), dim=1)).sum(1).mean() for i in (0, 1)]


def byol_paper(method, views, temperature):
    return sum(2 - 2 * c for c in cosines(method, views))


def half_the_cosines(method, views, temperature):
    return -sum(cosines(method, views)) / 2


# The optimisers' first step, in its own terms: (weight, gradient, rate, decay) to the change of the weight.


def sgd(w, g, lr, wd):
    p = nn.Parameter(w.clone())
    p.grad = g.clone()
    torch.optim.SGD([p], lr=lr, momentum=0.9, weight_decay=wd).step()
    return p.detach() - w


def lars(w, g, lr, wd):
    """The papers' official code: eta 1e-3, the norm of the gradient with its decay."""
    if w.ndim == 1:
        return -lr * g
    g = g + wd * w
    return -lr * 1e-3 * w.norm() / g.norm() * g if w.norm() > 0 and g.norm() > 0 else -lr * g


def lars_clipped(w, g, lr, wd):
    """solo-learn's, with eta 0.02, clip_lr and exclude_bias_n_norm."""
    if w.ndim == 1 or w.norm() == 0 or g.norm() == 0:
        return -lr * g
    return -min(0.02 * w.norm() / (g.norm() + wd * w.norm() + 1e-8), lr) * (g + wd * w)


# Recipe -> the source's loss, temperature, optimiser, the rate of the recipe's batch, decay.
lightly, notebook = 0.06 * 512 / 128, 0.06  # at 512
SOURCES = {
    "cifar10/simclr": (simclr_mean, 0.5, sgd, lightly, 5e-4),
    "cifar10/moco": (moco_sum, 0.1, sgd, notebook, 5e-4),
    "cifar10/moco_v3": (moco_v3, 0.2, lars_clipped, 0.3 * 512 / 256, 1e-6),
    "cifar10/byol": (half_the_cosines, None, sgd, lightly, 5e-4),
    "cifar10/simsiam": (half_the_cosines, None, sgd, 0.03 * 512 / 256, 5e-4),
    "cifar10/solo_learn/simclr": (simclr_mean, 0.2, lars_clipped, 0.4, 1e-4),
    "cifar10/solo_learn/moco": (moco_mean, 0.2, sgd, 0.3, 1e-4),
    "cifar10/solo_learn/moco_v3": (moco_v3, 0.2, lars_clipped, 0.3, 1e-6),
    "cifar10/solo_learn/byol": (byol_paper, None, lars_clipped, 1.0, 1e-5),
    "cifar10/solo_learn/simsiam": (half_the_cosines, None, sgd, 0.5, 1e-5),
    "imagenet/simclr": (simclr_sum, 0.1, lars, 0.3 * 4096 / 256, 1e-6),
    "imagenet/moco_v1": (moco_first, 0.07, sgd, 0.03, 1e-4),
    "imagenet/moco_v2": (moco_first, 0.2, sgd, 0.03, 1e-4),
    "imagenet/moco_v3": (moco_v3, 1.0, lars, 0.3 * 4096 / 256, 1.5e-6),
    "imagenet/byol": (byol_paper, None, lars, 0.2 * 4096 / 256, 1.5e-6),
    "imagenet/simsiam": (half_the_cosines, None, sgd, 0.05 * 512 / 256, 1e-4),
}
NO_SOURCE = {"cifar10/supervised"}


def test_all_recipes_are_compared_with_their_sources():
    assert set(options("experiment")) == set(SOURCES) | NO_SOURCE


@pytest.mark.parametrize("experiment", SOURCES)
def test_first_step_equals_that_of_the_source(config, experiment):
    """Every tensor's change, and its size beside the weight's, at the peak of the schedule, in float64."""
    source, temperature, rule, lr, wd = SOURCES[experiment]
    cfg = config(f"experiment={experiment}", "data.path=none")
    if "queue_size" in cfg.method:
        cfg.method.queue_size, cfg.method.bn_splits = 512, 1  # of no account to rates
    method = instantiate(cfg.method, _partial_=True)(Net()).double().train()
    reference = copy.deepcopy(method)
    views = [torch.randn(16, 3, 8, 8, dtype=torch.float64) for _ in range(2)]

    recipe = instantiate(cfg.optimizer, _convert_="all")
    optimizer, _ = recipe.build(method.param_groups(), cfg.batch_size, 10, cfg.epochs)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    method.loss(views).backward()
    optimizer.step()

    source(reference, views, temperature).backward()
    compared = 0
    for (name, now), was in zip(method.named_parameters(), reference.parameters(), strict=True):
        if not was.requires_grad:
            assert torch.equal(now, was)
            continue
        w = was.detach()
        expected, found = rule(w, was.grad, lr, wd), now.detach() - w
        if w.norm():
            relative = (found.norm() / w.norm()).item()
            assert relative == pytest.approx((expected.norm() / w.norm()).item(), rel=1e-6, abs=1e-12), name
        assert (found - expected).norm() <= 1e-6 * expected.norm() + 1e-12, name
        compared += 1
    assert compared >= 6


def test_solo_learn_moco_raises_its_momentum(config):
    """From 0.99 to 0.999 along half a cosine, a step at a time; without the key it is constant."""
    for experiment, expected in (("solo_learn/moco", [0.99, 0.9945, 0.999]), ("moco", [0.99] * 3)):
        cfg = config(f"experiment=cifar10/{experiment}", "method.queue_size=12", "method.bn_splits=1")
        method = instantiate(cfg.method, _partial_=True)(Net()).double()
        for step, momentum in zip((0, 50, 100), expected, strict=True):
            method.new_keys.append(torch.zeros(6, cfg.method.output_dim))
            before, online = method.target[1][0].weight.clone(), method.projector[0].weight
            with torch.no_grad():
                online.add_(1)
            method.after_step(step, 100)
            wanted = momentum * before + (1 - momentum) * online
            torch.testing.assert_close(method.target[1][0].weight, wanted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("end", [0.9, 1.1])
def test_final_momentum_out_of_range_is_refused(config, end):
    cfg = config("method=moco", f"method.final_momentum={end}")
    made = check_train if end > 1 else lambda c: instantiate(c.method, _partial_=True)(Net())
    with pytest.raises(UserError, match=f"method.final_momentum={end}"):
        made(cfg)
