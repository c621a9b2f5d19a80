"""Methods as in their papers; ../conf gives the numbers (recipes of the papers, table by table)."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from lightly.models.modules import heads
from torch import nn

from siamese.errors import UserError
from siamese.methods.base import Method
from siamese.methods.byol import BYOL
from siamese.methods.moco import MoCo
from siamese.methods.moco_v3 import MoCoV3
from siamese.methods.simclr import SimCLR
from siamese.methods.simsiam import SimSiam
from siamese.methods.supervised import Supervised
from siamese.optim import ema_momentum, ema_update
from siamese.schema import check_train

SELF_SUPERVISED = ["simclr", "moco", "moco_v1", "moco_v3", "byol", "simsiam"]


class Net(nn.Module):
    """A backbone with a BatchNorm that notes the batches it sees."""

    def __init__(self, dim=12):
        super().__init__()
        self.conv, self.bn, self.feature_dim = nn.Conv2d(3, dim, 3), nn.BatchNorm2d(dim), dim
        self.batches: list[int] = []

    def forward(self, x):
        self.batches.append(len(x))
        return self.bn(self.conv(x)).relu().mean((2, 3))


def make(config, name, *overrides, **kwargs) -> Method:
    cfg = config(f"method={name}", *overrides)
    extra = {"num_classes": 5} if name == "supervised" else {}
    return instantiate(cfg.method, _partial_=True)(Net(), **extra, **kwargs).train()


def views(n=6):
    return [torch.randn(n, 3, 8, 8), torch.randn(n, 3, 8, 8)]


def trainable(*modules):
    return sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)


class Wide(nn.Module):
    feature_dim = 2048


def paper(config, name):
    """The method of experiment=imagenet/<name> with 2,048 features."""
    cfg = config(f"experiment=imagenet/{name}", "data.path=none")
    return instantiate(cfg.method, _partial_=True)(Wide())


@pytest.mark.parametrize(
    ("name", "projector", "predictor"),
    [
        ("moco_v1", 262_272, None),
        ("moco_v2", 4_458_624, None),
        ("moco_v3", 9_445_376, 2_105_344),
        ("simclr", 4_460_672, None),
        ("byol", 9_449_472, 2_109_440),
        ("simsiam", 12_591_104, 2_100_224),
    ],
)
def test_head_parameters_are_the_papers(config, name, projector, predictor):
    method = paper(config, name)
    assert trainable(method.projector) == projector
    if predictor is not None:
        assert trainable(method.predictor) == predictor


def test_heads_that_lightly_has_right(config):
    moco, simsiam = paper(config, "moco_v2"), paper(config, "simsiam")
    assert trainable(moco.projector) == trainable(heads.MoCoProjectionHead(2048, 2048, 128))
    assert trainable(simsiam.projector) == trainable(heads.SimSiamProjectionHead(2048, 2048, 2048))
    assert trainable(simsiam.predictor) == trainable(heads.SimSiamPredictionHead(2048, 512, 2048))


def test_head_structure(config):
    byol, simsiam, v3, simclr = (paper(config, n) for n in ("byol", "simsiam", "moco_v3", "simclr"))
    assert [type(m).__name__ for m in byol.projector] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]  # no last BN
    assert byol.projector[0].bias is not None
    assert byol.projector[3].bias is None
    assert not simsiam.projector[-1].affine
    assert isinstance(simsiam.predictor[-1], nn.Linear)  # no BN on the predictor's output
    assert not v3.projector[-1].affine
    assert isinstance(v3.predictor[-1], nn.Linear)
    assert simclr.projector[-1].weight.requires_grad
    assert not simclr.projector[-1].bias.requires_grad


@pytest.mark.parametrize(
    ("name", "expected"),
    [("simclr", [12]), ("byol", [6, 6]), ("simsiam", [6, 6]), ("moco_v3", [6, 6]), ("moco", [6]), ("supervised", [12])],
)
def test_which_views_share_a_batchnorm_batch(config, name, expected):
    method = make(config, name)
    arguments = (torch.zeros(6, dtype=torch.int64),) if name == "supervised" else ()
    method.loss(views(), *arguments)
    assert method.backbone.batches == expected


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_a_step_moves_what_it_should_and_nothing_else(config, name):
    method = make(config, name)
    optimizer = torch.optim.SGD([p for g in method.param_groups() for p in g["params"]], lr=0.1)
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    target = list(method.target.parameters()) if hasattr(method, "target") else []
    assert not held & {id(p) for p in target}
    assert not any(p.requires_grad for p in target)
    before = [p.clone() for p in target]
    loss = method.loss(views())
    assert loss.ndim == 0
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is None for p in target)
    assert all(p.grad is not None for g in optimizer.param_groups for p in g["params"])
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, target, strict=True))  # only after the step
    method.after_step(0, 10)
    if target:
        assert not all(torch.equal(a, b) for a, b in zip(before, target, strict=True))


@pytest.mark.parametrize("name", ["byol", "moco_v3", "moco"])
def test_target_has_batch_statistics_of_its_own(config, name):
    method = make(config, name)
    before = method.target[0].bn.running_mean.clone()
    method.loss(views())
    method.after_step(0, 10)
    assert method.target.training
    assert not torch.equal(method.target[0].bn.running_mean, before)
    mixed = 0.99 * before + 0.01 * method.backbone.bn.running_mean
    assert not torch.allclose(method.target[0].bn.running_mean, mixed)  # no average of the online statistics


def test_ema_closed_form():
    online, target = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(target.weight)
    for step in range(20):
        nn.init.constant_(online.weight, float(step))
        ema_update(target, online, 0.9)
    expected = sum(0.1 * 0.9 ** (19 - k) * k for k in range(20))
    assert target.weight.item() == pytest.approx(expected, rel=1e-5)


def test_ema_schedule_is_byols():
    assert ema_momentum(0, 100, 0.99, cosine=True) == pytest.approx(0.99)
    assert ema_momentum(50, 100, 0.99, cosine=True) == pytest.approx(0.995)
    assert ema_momentum(100, 100, 0.99, cosine=True) == 1
    assert ema_momentum(70, 100, 0.99, cosine=False) == 0.99


def test_queue_before_enqueue_in_order_and_wrapping(config):
    method = make(config, "moco", "method.queue_size=18", "method.output_dim=4", "method.hidden_dim=8")
    history = []
    for step in range(5):
        before = method.queue.clone()
        method.loss(views())
        assert torch.equal(method.queue, before)  # the logits saw the queue without this step's keys
        (keys,) = method.new_keys
        torch.testing.assert_close(keys.norm(dim=1), torch.ones(6))
        history.append(keys.clone())
        method.after_step(step, 10)
        assert not method.new_keys
    # five steps of six keys in a queue of 18: steps 3, 4 (wrapped) and 2
    expected = torch.cat([history[3], history[4], history[2]]).T
    torch.testing.assert_close(method.queue, expected)


def test_queue_starts_normalised_and_is_saved(config):
    method = make(config, "moco")
    torch.testing.assert_close(method.queue.norm(dim=0), torch.ones(method.queue.shape[1]))
    assert "queue" in method.state_dict()


def test_moco_loss_is_the_official_one(config):
    """Written again from the pseudocode: cross entropy of [q.k, q.queue] / T with label 0."""
    method = make(config, "moco", "method.queue_size=32", "method.output_dim=4", "method.hidden_dim=8")
    x = views()
    reference = copy.deepcopy(method)
    loss = method.loss(x)
    q = F.normalize(reference.projector(reference.backbone(x[0])), dim=1)
    k = F.normalize(reference.target(x[1]), dim=1)
    logits = torch.cat([torch.einsum("nc,nc->n", q, k).unsqueeze(1), torch.einsum("nc,ck->nk", q, reference.queue)], 1)
    torch.testing.assert_close(loss, F.cross_entropy(logits / 0.2, torch.zeros(6, dtype=torch.int64)))


def test_symmetric_moco_is_both_directions_against_one_queue(config):
    """As in the official notebook: the sum, and the keys of the second view, then of the first, enter the queue."""
    small = ("method.queue_size=24", "method.output_dim=4", "method.hidden_dim=8")
    method, x = make(config, "moco", "method.symmetric=true", *small), views()
    forth, back = copy.deepcopy(method), copy.deepcopy(method)
    forth.symmetric = back.symmetric = False
    torch.testing.assert_close(method.loss(x), forth.loss(x) + back.loss(x[::-1]))
    expected = torch.cat([*forth.new_keys, *back.new_keys])
    method.after_step(1, 10)  # the second step: columns 12 to 24
    torch.testing.assert_close(method.queue[:, 12:], expected.T)
    torch.testing.assert_close(method.queue[:, :12], forth.queue[:, :12])
    with pytest.raises(UserError, match=r"method.queue_size=24.*twice the global batch.*batch_size=8.*try 32"):
        method.check(8, 8)


def test_a_queue_that_the_batch_does_not_divide(config):
    with pytest.raises(UserError, match=r"method.queue_size=4096.*batch_size=100.*4100"):
        make(config, "moco").check(100, 100)


def test_byol_loss_by_hand(config):
    method = make(config, "byol")
    x = views()
    reference = copy.deepcopy(method)
    loss = method.loss(x)
    q = [reference.predictor(reference.projector(reference.backbone(v))) for v in x]
    t = [reference.target(v) for v in x]
    expected = sum((F.normalize(q[i]) - F.normalize(t[1 - i])).square().sum(1).mean() for i in (0, 1))
    torch.testing.assert_close(loss, expected)
    assert 0 <= loss <= 8


def test_simsiam_loss_and_stop_gradient(config):
    method = make(config, "simsiam")
    x = views()
    reference = copy.deepcopy(method)
    loss = method.loss(x)
    z = [reference.projector(reference.backbone(v)) for v in x]
    p = [reference.predictor(v) for v in z]
    expected = -sum(F.cosine_similarity(p[i], z[1 - i].detach()).mean() for i in (0, 1)) / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for a, b in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_simsiam_predictor_keeps_its_learning_rate(config):
    cfg = config("method=simsiam", "optimizer=sgd", "optimizer.lr=0.05", "epochs=4")
    method = make(config, "simsiam")
    recipe = instantiate(cfg.optimizer, _convert_="all")
    optimizer, schedule = recipe.build(method.param_groups(), 256, 3, 4)
    for _ in range(12):
        optimizer.step()
        schedule.step()
    predictor = {id(p) for p in method.predictor.parameters()}
    for group in optimizer.param_groups:
        fixed = id(group["params"][0]) in predictor
        assert group["lr"] == pytest.approx(0.05 if fixed else 0.0, abs=1e-9)


@pytest.mark.parametrize("name", ["nt_xent", "nt_logistic", "triplet", "contrastive"])
def test_simclr_losses_are_choices(config, name):
    from siamese import losses

    method = make(config, "simclr", f"method/loss={name}", "method.temperature=0.3")
    x = views()
    reference = copy.deepcopy(method)
    z = reference.projector(reference.backbone(torch.cat(x)))
    margin = config("method=simclr", f"method/loss={name}").method.loss.get("margin")
    expected = getattr(losses, name)(z, 0.3 if margin is None else margin)
    torch.testing.assert_close(method.loss(x), expected)


def test_supervised_is_cross_entropy_of_every_view(config):
    method = make(config, "supervised")
    x, y = views(), torch.tensor([0, 1, 2, 3, 4, 0])
    reference = copy.deepcopy(method)
    logits = reference.classifier(reference.backbone(torch.cat(x)))
    torch.testing.assert_close(method.loss(x, y), F.cross_entropy(logits, torch.cat([y, y])))


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_labels_cannot_reach_the_loss(config, name):
    import inspect

    method = make(config, name)
    assert not method.uses_labels
    assert list(inspect.signature(method.loss).parameters) == ["views"]


@pytest.mark.parametrize("name", ["byol", "moco", "moco_v1", "moco_v3"])
@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_momentum_out_of_range(config, name, momentum):
    with pytest.raises(UserError, match=f"method.momentum={momentum}"):
        check_train(config(f"method={name}", f"method.momentum={momentum}"))


@pytest.mark.parametrize("name", ["simclr", "moco", "moco_v1", "moco_v3"])
def test_temperature_out_of_range(config, name):
    with pytest.raises(UserError, match="method.temperature=0"):
        check_train(config(f"method={name}", "method.temperature=0"))


def test_only_moco_v1_and_v2_keep_batchnorm_apart():
    assert not MoCo.sync_batchnorm
    assert all(m.sync_batchnorm for m in (SimCLR, MoCoV3, BYOL, SimSiam, Supervised))
