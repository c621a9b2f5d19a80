"""MoCo v1 and v2: the queue and the loss."""

import copy

import pytest
import torch
import torch.nn.functional as F
from method_cases import make, views

from siamese.errors import UserError


def test_queue_is_read_before_enqueueing_and_wraps_around(config):
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


def test_loss_equals_official_pseudocode(config):
    """Cross entropy of [q.k, q.queue] / T with label 0."""
    method = make(config, "moco", "method.queue_size=32", "method.output_dim=4", "method.hidden_dim=8")
    x = views()
    reference = copy.deepcopy(method)
    loss = method.loss(x)
    q = F.normalize(reference.projector(reference.backbone(x[0])), dim=1)
    k = F.normalize(reference.target(x[1]), dim=1)
    logits = torch.cat([torch.einsum("nc,nc->n", q, k).unsqueeze(1), torch.einsum("nc,ck->nk", q, reference.queue)], 1)
    torch.testing.assert_close(loss, F.cross_entropy(logits / 0.2, torch.zeros(6, dtype=torch.int64)))


def test_symmetric_loss_is_both_directions_against_one_queue(config):
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


def test_queue_size_not_divisible_by_batch_is_refused(config):
    with pytest.raises(UserError, match=r"method.queue_size=4096.*batch_size=100.*4100"):
        make(config, "moco").check(100, 100)
