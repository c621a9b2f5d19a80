"""What all methods have in common; ../../conf gives the numbers of the papers."""

import inspect

import pytest
import torch
from lightly.models.modules import heads
from method_cases import CLASSES, METHODS, NODES, SELF_SUPERVISED, make, paper, trainable, views
from runs import interrupt
from torch import nn

from siamese.errors import RunAborted, UserError
from siamese.methods.simsiam import SimSiam
from siamese.schema import check_train


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
def test_head_parameter_counts_match_the_papers(config, name, projector, predictor):
    method = paper(config, name)
    assert trainable(method.projector) == projector
    if predictor is not None:
        assert trainable(method.predictor) == predictor


def test_head_parameter_counts_match_lightly(config):
    moco, simsiam = paper(config, "moco_v2"), paper(config, "simsiam")
    assert trainable(moco.projector) == trainable(heads.MoCoProjectionHead(2048, 2048, 128))
    assert trainable(simsiam.projector) == trainable(heads.SimSiamProjectionHead(2048, 2048, 2048))
    assert trainable(simsiam.predictor) == trainable(heads.SimSiamPredictionHead(2048, 512, 2048))


def test_head_layers_match_the_papers(config):
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
def test_views_share_batchnorm_batches_as_in_the_papers(config, name, expected):
    method = make(config, name)
    arguments = (torch.zeros(6, dtype=torch.int64),) if name == "supervised" else ()
    method.loss(views(), *arguments)
    assert method.backbone.batches == expected


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_optimizer_step_changes_trained_networks_only(config, name):
    method = make(config, name)
    optimizer = torch.optim.SGD([p for g in method.param_groups() for p in g["params"]], lr=0.1)
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    target = list(method.target.parameters()) if hasattr(method, "target") else []
    assert not held & {id(p) for p in target}
    assert not any(p.requires_grad for p in target)
    before = [p.clone() for p in target]
    loss = method.loss(views(name=name))
    assert loss.ndim == 0
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is None for p in target)
    assert all(p.grad is not None for g in optimizer.param_groups for p in g["params"])
    method.on_before_optimizer_step(optimizer)
    still = {id(p): p.clone() for p in method.held_back()}
    optimizer.step()
    assert all(torch.equal(p, still[id(p)]) for p in method.held_back())
    assert all(torch.equal(a, b) for a, b in zip(before, target, strict=True))  # only after the step
    method.after_step(0, 10)
    if target:
        assert not all(torch.equal(a, b) for a, b in zip(before, target, strict=True))


@pytest.mark.parametrize("name", [name for name in METHODS if "momentum" in NODES[name]])
def test_target_network_has_its_own_batch_statistics(config, name):
    method = make(config, name)
    before = method.target[0].bn.running_mean.clone()
    method.loss(views(name=name))
    method.after_step(0, 10)
    assert method.target.training
    assert not torch.equal(method.target[0].bn.running_mean, before)
    mixed = 0.99 * before + 0.01 * method.backbone.bn.running_mean
    assert not torch.allclose(method.target[0].bn.running_mean, mixed)  # no average of the online statistics


@pytest.mark.parametrize("name", SELF_SUPERVISED)
def test_labels_do_not_reach_the_loss(config, name):
    method = make(config, name)
    assert not method.uses_labels
    assert list(inspect.signature(method.loss).parameters) == ["views"]


@pytest.mark.parametrize("name", [name for name in METHODS if "momentum" in NODES[name]])
@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_momentum_out_of_range_is_refused(config, name, momentum):
    with pytest.raises(UserError, match=f"method.momentum={momentum}"):
        check_train(config(f"method={name}", f"method.momentum={momentum}"))


@pytest.mark.parametrize("name", [name for name in METHODS if "temperature" in NODES[name]])
def test_temperature_out_of_range_is_refused(config, name):
    with pytest.raises(UserError, match="method.temperature=0"):
        check_train(config(f"method={name}", "method.temperature=0"))


@pytest.mark.parametrize("name", METHODS)
def test_only_moco_v1_and_v2_do_not_synchronize_batchnorm(name):
    assert CLASSES[name].sync_batchnorm == (name not in ("moco", "moco_v1"))


def test_method_that_sets_no_projection_is_stopped_in_one_line(session):
    run = session("method=simsiam")
    original = run.method.loss

    def loss(views):
        value = original(views)
        run.method.projection = None
        return value

    run.method.loss = loss
    with pytest.raises(RunAborted, match=r"method=simsiam: loss\(\) must set self.projection"):
        run.fit()


def test_micro_batches_are_numbered_within_their_step(session, monkeypatch):
    """Also after an interruption within an epoch."""
    seen = []
    loss = SimSiam.loss

    def recorded(self, views):
        seen.append((self.step, self.micro_batch))
        return loss(self, views)

    monkeypatch.setattr(SimSiam, "loss", recorded)
    given = ("method=simsiam", "trainer.accumulate_grad_batches=2", "monitor.every=0", "checkpoint.every_steps=3")
    interrupt(session(*given), 13)
    before = len(seen)
    session(*given, "resume=true").fit()
    expected = [(step, part) for step in range(22) for part in (0, 1)]
    assert seen[:before] == expected[:before]
    assert seen[before:] == expected[2 * seen[before][0] :]
