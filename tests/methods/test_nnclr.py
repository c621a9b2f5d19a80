"""NNCLR: neighbours, the queue and the loss."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from method_cases import make, trainable, views
from torch import nn

from siamese import losses
from siamese.errors import UserError

SMALL = ("method.hidden_dim=8", "method.output_dim=4", "method.predictor_dim=8", "method.queue_size=18")


def by_hand(neighbours, p, temperature):
    """The paper's pseudocode, a row at a time."""
    total = 0.0
    for i, anchor in enumerate(neighbours):
        weights = [math.exp((anchor @ other / anchor.norm() / other.norm()).item() / temperature) for other in p]
        total -= math.log(weights[i] / sum(weights)) / len(p)
    return total


def test_loss_is_the_papers():
    neighbours, p = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    expected = by_hand(neighbours, p, 0.2)
    assert losses.info_nce_neighbours(neighbours, p, 0.2).item() == pytest.approx(expected, rel=1e-12)
    assert losses.info_nce_neighbours(p, neighbours, 0.2).item() != pytest.approx(expected, rel=1e-3)  # no symmetry


def test_no_gradient_to_neighbours():
    neighbours, p = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    losses.info_nce_neighbours(neighbours, p, 0.2).backward()
    assert neighbours.grad is None
    assert p.grad.norm() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_and_neighbours_are_float32_under_autocast(dtype):
    neighbours, p = (torch.randn(64, 128).to(dtype) for _ in range(2))
    queue = F.normalize(torch.randn(500, 128), dim=1)
    with torch.autocast("cpu", dtype):
        value, found = losses.info_nce_neighbours(neighbours, p, 0.07), losses.nearest(neighbours, queue)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, losses.info_nce_neighbours(neighbours.float(), p.float(), 0.07))
    assert torch.equal(found, queue[torch.cdist(F.normalize(neighbours.float(), dim=1), queue).argmin(1)])


def test_both_directions_with_neighbours_out_of_the_queue(config):
    method = make(config, "nnclr", *SMALL).double()
    x = [v.double() for v in views()]
    reference = copy.deepcopy(method)
    z = [reference.projector(reference.backbone(v)) for v in x]
    p = [reference.predictor(one) for one in z]
    neighbours = [torch.stack([max(reference.queue, key=lambda q, r=row: q @ r) for row in one]) for one in z]
    expected = (by_hand(neighbours[0], p[1], 0.2) + by_hand(neighbours[1], p[0], 0.2)) / 2
    assert method.loss(x).item() == pytest.approx(expected, rel=1e-9)


def test_queue_takes_the_first_views_of_all_micro_batches_after_the_step(config):
    method, history = make(config, "nnclr", *SMALL), []
    for step in range(4):
        before = method.queue.clone()
        for _ in range(2):  # accumulated
            x = views(3)
            twin = copy.deepcopy(method)
            history.append(F.normalize(twin.projector(twin.backbone(x[0])), dim=1))
            method.loss(x)
        assert torch.equal(method.queue, before)
        method.after_step(step, 10)
    # Four steps of six rows in a queue of 18: the last has wrapped.
    torch.testing.assert_close(method.queue, torch.cat([*history[6:8], *history[2:6]]))


def test_rows_of_a_skipped_step_are_dropped(config):
    method = make(config, "nnclr", *SMALL)
    before = method.queue.clone()
    method.loss(views())
    method.drop_step()
    assert not method.new_rows
    assert torch.equal(method.queue, before)


def test_state_continues_exactly(config):
    method = make(config, "nnclr", *SMALL)
    method.loss(views())
    method.after_step(0, 10)
    other = make(config, "nnclr", *SMALL)
    other.load_state_dict(method.state_dict())
    x = views()
    assert torch.equal(method.loss(x), other.loss(x))
    method.after_step(1, 10), other.after_step(1, 10)
    assert torch.equal(method.queue, other.queue)


def test_heads_are_those_of_the_paper(config):
    method = make(config, "nnclr", "method.hidden_dim=8", "method.output_dim=4", "method.predictor_dim=16")
    kinds = [type(m) for m in method.projector.layers]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
    assert [type(m) for m in method.predictor.layers] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert trainable(method.projector) == 12 * 8 + 16 + 8 * 8 + 16 + 8 * 4 + 8
    assert trainable(method.predictor) == 4 * 16 + 32 + 16 * 4 + 4


def test_queue_size_not_divisible_by_batch_is_refused(config):
    with pytest.raises(UserError, match=r"method.queue_size=1024.*batch_size=100.*try 1000"):
        make(config, "nnclr").check(100, 100)
