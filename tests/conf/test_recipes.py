"""The first step of each recipe against its source: loss, rate and optimiser, implemented independently."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from mae_reference import mae_loss
from method_cases import narrow_heads, with_teacher
from torch import nn

from siamese import factory, losses
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


def seed(method, views, temperature):
    """Every view's similarities to the teacher's own feature and the queue, in words of probabilities."""
    total = 0
    for x in views:
        s = F.normalize(method.head(method.backbone(x)), dim=1)
        t = F.normalize(method.teacher.network(x), dim=1).detach()
        candidates = [torch.cat([t[i : i + 1], method.queue]) for i in range(len(t))]
        for i, c in enumerate(candidates):
            p, q = (c @ t[i] / 0.01).softmax(0), (c @ s[i] / temperature).softmax(0)
            total = total - (p * q.log()).sum() / len(t) / len(views)
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


def projections(method, views):
    return [method.projector(method.backbone(v)) for v in views]


def barlow_twins(method, views, temperature):
    """The official code: batch-normalised, lambda 0.0051."""
    a, b = ((z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in projections(method, views))
    c = torch.einsum("ni,nj->ij", a, b) / len(a)
    one = torch.eye(len(c), dtype=c.dtype)
    return ((c - one).square() * (one + 0.0051 * (1 - one))).sum()


def barlow_twins_tenth(method, views, temperature):
    return barlow_twins(method, views, temperature) / 10


def vicreg(method, views, temperature):
    z = projections(method, views)
    loss = 25 * (z[0] - z[1]).square().mean()
    for one in z:
        c = torch.cov(one.T)
        loss = loss + 25 * F.relu(1 - (c.diagonal() + 1e-4).sqrt()).mean()
        loss = loss + (c.square().sum() - c.diagonal().square().sum()) / len(c)
    return loss


def sup_con(method, views, temperature):
    """The labels of the test are 0 to 3 in turn."""
    z = F.normalize(method.projector(method.backbone(torch.cat(views))), dim=1)
    total, m = 0, len(z)
    for i in range(m):
        others = [j for j in range(m) if j != i]
        log_p = F.log_softmax(z[others] @ z[i] / temperature, 0)
        total = total - torch.stack([log_p[k] for k, j in enumerate(others) if j % 4 == i % 4]).mean()
    return total / m


def sup_con_scaled(method, views, temperature):
    return temperature * sup_con(method, views, temperature)


def dcl_mean(method, views, temperature):
    """lightly's loss, written out: the mean over the 2N anchors."""
    z = F.normalize(method.projector(method.backbone(torch.cat(views))), dim=1)
    n, total = len(z) // 2, 0
    for i in range(2 * n):
        negatives = [j for j in range(2 * n) if j % n != i % n]
        total = total + torch.logsumexp(z[negatives] @ z[i] / temperature, 0) - z[i] @ z[i - n] / temperature
    return total / (2 * n)


def nnclr(method, views, temperature):
    z, p = both(method, views)
    neighbours = [
        torch.stack([method.queue[(F.normalize(row, dim=0) @ method.queue.T).argmax()] for row in one]) for one in z
    ]
    total = 0
    for a, b in ((neighbours[0], p[1]), (neighbours[1], p[0])):
        total = total - F.log_softmax(a @ F.normalize(b, dim=1).T / temperature, 1).diagonal().mean() / 2
    return total


def at_once(method, views):
    """The head's output of each view; BatchNorm sees all of them."""
    return method.projector(method.backbone(torch.cat(views))).chunk(len(views))


def swav(method, views, temperature):
    """Codes by scaling the columns' sums to 1 / K and the rows' to 1 / N, three times, with epsilon 0.05."""
    scores = [F.normalize(z, dim=1) @ method.prototypes.weight.T for z in at_once(method, views)]
    total = 0
    for a, b in ((0, 1), (1, 0)):
        q = torch.exp(scores[a].detach() / 0.05)
        for _ in range(3):
            q = q / q.sum(0, keepdim=True)
            q = q / q.sum(1, keepdim=True)
        total = total - (q * F.log_softmax(scores[b] / temperature, 1)).sum(1).mean() / 2
    return total


def dino(method, views, temperature):
    """Without a centre, as in the first step, and with the first temperature of the teacher, 0.04."""
    student = [method.prototypes(z) / temperature for z in at_once(method, views)]
    teacher = method.target(torch.cat(views)).detach().chunk(2)
    pairs = ((teacher[0], student[1]), (teacher[1], student[0]))
    return -sum((F.softmax(t / 0.04, 1) * F.log_softmax(s, 1)).sum(1).mean() for t, s in pairs) / 2


def lejepa(method, views, centred, regularised, weight):
    """(1 - lambda) of the spread around the mean of `centred` views, lambda of the mean over views of a statistic."""
    z = method.projector(method.backbone(torch.cat(views))).chunk(len(views))
    mu = sum(z[:centred]) / centred
    slices = losses.random_slices(
        z[0].shape[1], 256 if weight == 0.01 else 1024, (0, 0, 0), z[0]
    )  # the recipe's key of the first step
    spread = torch.stack([(mu - one) ** 2 for one in z]).mean()
    return (1 - weight) * spread + weight * sum(regularised(one, one @ slices, slices) for one in z) / len(z)


def epps_pulley(z, x, slices):
    """LeJEPA's algorithm 1, on the whole of [-5, 5], whose half has 17 knots."""
    t = torch.linspace(-5, 5, 33, dtype=x.dtype)
    cf = (-t.square() / 2).exp()
    error = (torch.exp(1j * x.unsqueeze(2) * t).mean(0) - cf).abs().square() * cf
    return (torch.trapezoid(error, t) * len(x)).mean()


def wasserstein(z, x, slices):
    """VISReg's three terms, each with weight 1; quantiles by the inverse of the error function."""
    var, mean = torch.var_mean(z, 0, correction=0)
    x = ((z - mean) / (var.sqrt().detach() + 1e-4)) @ slices
    p = torch.arange(1, len(z) + 1, dtype=z.dtype) / (len(z) + 1)
    far = (x.sort(0).values - 2**0.5 * torch.erfinv(2 * p - 1).unsqueeze(1)).square().mean()
    return far + (1 - var.sqrt()).square().mean() + mean.square().mean()


def sigreg(method, views, weight):
    return lejepa(method, views, len(views), epps_pulley, weight)


def visreg(method, views, weight):
    return lejepa(method, views, 2, wasserstein, weight)


def mae(method, views, temperature):
    (x,) = views
    return mae_loss(method, x, method.draw(len(x), x.device))


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


def lars_two_rates(w, g, lr, wd):
    """Barlow Twins' official code: 0.2 for weights, 0.0048 for biases and norms."""
    return lars(w, g, lr, wd) if w.ndim > 1 else -lr * 0.0048 / 0.2 * g


def larc(w, g, lr, wd):
    """SwAV's: every tensor is adapted, biases too."""
    g = g + wd * w
    return -lr * 1e-3 * w.norm() / g.norm() * g if w.norm() > 0 and g.norm() > 0 else -lr * g


def adamw(w, g, lr, wd):
    """DINO's: no decay of biases and norms."""
    p = nn.Parameter(w.clone())
    p.grad = g.clone()
    torch.optim.AdamW([p], lr=lr, weight_decay=wd if w.ndim > 1 else 0.0).step()
    return p.detach() - w


def lars_clipped(w, g, lr, wd):
    """solo-learn's, with eta 0.02, clip_lr and exclude_bias_n_norm."""
    if w.ndim == 1 or w.norm() == 0 or g.norm() == 0:
        return -lr * g
    return -min(0.02 * w.norm() / (g.norm() + wd * w.norm() + 1e-8), lr) * (g + wd * w)


def adamw_all(w, g, lr, wd):
    """Of every parameter: moments of one step are g and its square."""
    return -lr * g / (g.abs() + 1e-8) - lr * wd * w


# Recipe -> the source's loss, temperature, optimiser, the rate of the recipe's batch, decay.
lightly, notebook = 0.06 * 512 / 128, 0.06  # at 512
SOURCES = {
    "cifar10/simclr": (simclr_mean, 0.5, sgd, lightly, 5e-4),
    "cifar10/moco": (moco_sum, 0.1, sgd, notebook, 5e-4),
    "cifar10/moco_v3": (moco_v3, 0.2, lars_clipped, 0.3 * 512 / 256, 1e-6),
    "cifar10/byol": (half_the_cosines, None, sgd, lightly, 5e-4),
    "cifar10/simsiam": (half_the_cosines, None, sgd, 0.03 * 512 / 256, 5e-4),
    "cifar10/dcl": (dcl_mean, 0.1, sgd, lightly, 5e-4),
    "cifar10/solo_learn/barlow_twins": (barlow_twins_tenth, None, lars_clipped, 0.3, 1e-4),
    "cifar10/solo_learn/vicreg": (vicreg, None, lars_clipped, 0.3, 1e-4),
    "cifar10/solo_learn/supcon": (sup_con, 0.2, sgd, 0.4, 1e-5),
    "cifar10/solo_learn/simclr": (simclr_mean, 0.2, lars_clipped, 0.4, 1e-4),
    "cifar10/solo_learn/moco": (moco_mean, 0.2, sgd, 0.3, 1e-4),
    "cifar10/solo_learn/moco_v3": (moco_v3, 0.2, lars_clipped, 0.3, 1e-6),
    "cifar10/solo_learn/byol": (byol_paper, None, lars_clipped, 1.0, 1e-5),
    "cifar10/solo_learn/simsiam": (half_the_cosines, None, sgd, 0.5, 1e-5),
    "cifar10/solo_learn/nnclr": (nnclr, 0.2, lars_clipped, 0.4, 1e-5),
    "cifar10/solo_learn/swav": (swav, 0.1, lars_clipped, 0.6, 1e-6),
    "cifar10/solo_learn/dino": (dino, 0.1, lars_clipped, 0.3, 1e-6),
    "imagenet/nnclr": (nnclr, 0.1, lars, 0.3 * 4096 / 256, 1e-6),
    "imagenet/swav": (swav, 0.1, larc, 4.8, 1e-6),
    "imagenet/dino": (dino, 0.1, adamw, 5e-4 * 1024 / 256, 0.04),
    "cifar10/lejepa": (sigreg, 0.01, adamw_all, 2e-3, 1e-2),
    "cifar10/visreg": (visreg, 0.6, adamw_all, 1e-3, 0.05),
    "imagenet/lejepa": (sigreg, 0.05, adamw_all, 5e-4, 0.05),
    "cifar10/solo_learn/mae": (mae, None, adamw_all, 2e-4, 0.05),
    "imagenet/mae": (mae, None, adamw, 1.5e-4 * 4096 / 256, 0.05),
    "imagenet/moco_v3_vit": (moco_v3, 0.2, adamw_all, 1.5e-4 * 4096 / 256, 0.1),
    "imagenet/simclr": (simclr_sum, 0.1, lars, 0.3 * 4096 / 256, 1e-6),
    "imagenet/moco_v1": (moco_first, 0.07, sgd, 0.03, 1e-4),
    "imagenet/moco_v2": (moco_first, 0.2, sgd, 0.03, 1e-4),
    "imagenet/moco_v3": (moco_v3, 1.0, lars, 0.3 * 4096 / 256, 1.5e-6),
    "imagenet/byol": (byol_paper, None, lars, 0.2 * 4096 / 256, 1.5e-6),
    "imagenet/simsiam": (half_the_cosines, None, sgd, 0.05 * 512 / 256, 1e-4),
    "imagenet/barlow_twins": (barlow_twins, None, lars_two_rates, 0.2 * 2048 / 256, 1e-6),
    "imagenet/vicreg": (vicreg, None, lars, 0.2 * 2048 / 256, 1e-6),
    "imagenet/supcon": (sup_con_scaled, 0.1, lars, 0.4 * 6144 / 256, 1e-3),
}
SOURCES |= {
    "cifar10/distill": (seed, 0.2, sgd, 0.03 * 512 / 256, 1e-4),
    "imagenet/distill": (seed, 0.2, sgd, 0.03, 1e-4),
}
NO_SOURCE = {"cifar10/supervised"}


def test_all_recipes_are_compared_with_their_sources():
    assert set(options("experiment")) == set(SOURCES) | NO_SOURCE


@pytest.mark.parametrize("experiment", SOURCES)
def test_first_step_equals_that_of_the_source(config, experiment):
    """Every tensor's change, and its size beside the weight's, at the peak of the schedule, in float64."""
    source, temperature, rule, lr, wd = SOURCES[experiment]
    cfg = with_teacher(config, f"experiment={experiment}", "data.path=none")
    for key, value in {"queue_size": 512, "bn_splits": 1}.items():  # of no account to rates
        if cfg.method.get(key):
            cfg.method[key] = value
    narrow_heads(cfg)
    network = Net()
    if "width" in cfg.backbone:  # a narrow transformer in the recipe's form
        cfg.data.crop, cfg.backbone.patch_size, cfg.backbone.width, cfg.backbone.depth = 8, 2, 24, 1
        network = factory.backbone(cfg)
    method = instantiate(cfg.method, _partial_=True)(network).double().train()
    reference = copy.deepcopy(method)
    views = [torch.randn(16, 3, 8, 8, dtype=torch.float64) for _ in range(method.num_views or 2)]

    recipe = instantiate(cfg.optimizer, _convert_="all")
    optimizer, _ = recipe.build(method.param_groups(), cfg.batch_size, 10, cfg.epochs)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    torch.manual_seed(1)
    method.loss(views, *([torch.arange(16) % 4] if method.uses_labels else [])).backward()
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
        assert (found - expected).norm() <= 1e-6 * expected.norm() + 1e-11, name
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
