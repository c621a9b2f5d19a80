"""LeJEPA and VISReg: the loss of algorithm 2, its slices, its head."""

import copy

import pytest
import torch
from method_cases import CLASSES, METHODS, make, trainable, views

from siamese import losses
from siamese.methods.lejepa import LeJEPA

NAMES = [name for name in METHODS if CLASSES[name] is LeJEPA]
# Slices and the rest of each regulariser.
REGULARISERS = {
    "sigreg": lambda z, key: losses.sigreg(z, key, 256, 17, 5.0),
    "visreg": lambda z, key: losses.visreg(z, key, 256, 1.0, 1.0, 1.0),
}


@pytest.mark.parametrize("regularizer", REGULARISERS)
@pytest.mark.parametrize("centre", ["all", "global"])
def test_loss_equals_algorithm_2(config, regularizer, centre):
    overrides = (f"method/regularizer={regularizer}", f"method.centre={centre}", "method.weight=0.3", "seed=5")
    method = make(config, "lejepa", *overrides)
    reference, x = copy.deepcopy(method), views(name="lejepa")
    method.step = 7
    h = [reference.backbone(torch.cat(x[:2])), reference.backbone(x[2])]  # once for each size
    z = reference.projector(torch.cat(h)).chunk(3)
    chosen = z if centre == "all" else z[:2]
    mu = sum(chosen) / len(chosen)
    prediction = sum((mu - one).square().mean() for one in z) / 3
    regularised = sum(REGULARISERS[regularizer](one.unsqueeze(0), (5, 7, 0)) for one in z) / 3
    torch.testing.assert_close(method.loss(x), 0.7 * prediction + 0.3 * regularised)
    assert method.projection.shape == (6, method.projector[-1].out_features)


@pytest.mark.parametrize("name", NAMES)
def test_slices_follow_seed_step_and_micro_batch(config, name):
    """Not a generator's state: a run that resumes has the slices of the uninterrupted one."""
    method, x = make(config, name), views(name=name)
    keys, regularizer = [], method.regularizer

    def record(z, key):
        keys.append(key)
        return regularizer(z, key)

    method.regularizer = record
    for method.step, method.micro_batch in ((0, 0), (0, 1), (1, 0)):
        method.loss(x)
    assert keys == [(0, 0, 0), (0, 0, 1), (0, 1, 0)]
    resumed = make(config, name)
    resumed.load_state_dict(method.state_dict())
    for one in (method, resumed):
        one.step = 3
    torch.manual_seed(1)
    first = method.loss(x)
    torch.manual_seed(2)
    assert torch.equal(resumed.loss(x), first)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [[8, 8], [8, 8, 8, 8], [8, 8, 4, 4, 4]])
def test_views_may_all_be_global(config, name, sizes):
    method = make(config, name)
    method.check_views(sizes)
    assert method.loss([torch.randn(6, 3, size, size) for size in sizes]).isfinite()


def test_head_is_lightlys(config):
    heads = pytest.importorskip("lightly.models.modules.heads")
    if not hasattr(heads, "LeJEPAProjectionHead"):
        pytest.skip("lightly before 1.6")
    method = make(config, "lejepa", "method.hidden_dim=32", "method.output_dim=8", "method.layers=4")
    theirs = heads.LeJEPAProjectionHead(method.backbone.feature_dim, 32, 8, 4)
    assert trainable(method.projector) == trainable(theirs)
    shapes = [tuple(p.shape) for p in theirs.parameters()]
    assert [tuple(p.shape) for p in method.projector.parameters()] == shapes


@pytest.mark.parametrize("name", NAMES)
def test_a_step_by_the_regulariser_alone_moves_projections_towards_a_gaussian(config, name):
    method, x = make(config, name, "method.weight=1"), views(64, name)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    values = []
    for step in range(30):
        method.step = step
        loss = method.loss(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(step, 30)
        values.append(loss.item())
    assert values[-1] < 0.7 * values[0]
