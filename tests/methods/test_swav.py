"""SwAV: codes, the swapped prediction, prototypes and the queue."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import SwaVLoss
from method_cases import make, trainable, views

from siamese import losses
from siamese.errors import UserError

SMALL = ("method.hidden_dim=8", "method.output_dim=4", "method.prototypes=5", "method.queue_size=18")


def scaled(scores, epsilon, iterations):
    """The paper's algorithm on the matrix (K, B) itself: rows to 1 / K, columns to 1 / B."""
    q = [[torch.exp(s / epsilon) for s in prototype] for prototype in scores.T.double()]
    k, b = len(q), len(q[0])
    for _ in range(iterations):
        q = [[one / sum(row) / k for one in row] for row in q]
        sums = [sum(row[j] for row in q) for j in range(b)]
        q = [[row[j] / sums[j] / b for j in range(b)] for row in q]
    return torch.tensor(q, dtype=torch.float64).T * b


@pytest.mark.parametrize("iterations", [1, 3])
def test_codes_are_those_of_matrix_scaling(iterations):
    scores = torch.rand(9, 4, dtype=torch.float64) * 2 - 1
    codes = losses.sinkhorn(scores, 0.05, iterations)
    torch.testing.assert_close(codes, scaled(scores, 0.05, iterations), rtol=1e-9, atol=1e-12)


def test_codes_have_the_marginals():
    codes = losses.sinkhorn(torch.rand(40, 8, dtype=torch.float64), 0.1, 200)
    torch.testing.assert_close(codes.sum(1), torch.ones(40).double())
    torch.testing.assert_close(codes.sum(0), torch.full((8,), 5.0).double(), rtol=1e-4, atol=0)


def test_codes_do_not_overflow():
    assert losses.sinkhorn(torch.randn(64, 10) * 1000, 0.05, 3).isfinite().all()
    with torch.autocast("cpu", torch.float16):
        codes = losses.sinkhorn(torch.rand(64, 10).half(), 0.05, 3)
    assert codes.dtype == torch.float32
    assert codes.isfinite().all()


def test_loss_equals_a_double_loop_and_lightlys():
    scores = [torch.randn(6, 5, dtype=torch.float64) for _ in range(4)]
    codes = [losses.sinkhorn(s, 0.05, 3) for s in scores[:2]]
    terms = []
    for i in range(2):
        for v in range(4):
            if v != i:
                log_p = torch.log(torch.exp(scores[v] / 0.1) / torch.exp(scores[v] / 0.1).sum(1, keepdim=True))
                terms += [-(codes[i][n] @ log_p[n]) for n in range(6)]
    value = losses.swapped_prediction(scores, codes, 0.1)
    torch.testing.assert_close(value, torch.stack(terms).mean())
    torch.testing.assert_close(value, SwaVLoss()(scores[:2], scores[2:])[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_is_float32_under_autocast(dtype):
    scores = [torch.rand(64, 30).to(dtype).requires_grad_() for _ in range(3)]
    exact = [s.detach().float().requires_grad_() for s in scores]
    codes = [losses.sinkhorn(s, 0.05, 3) for s in exact[:2]]
    with torch.autocast("cpu", dtype):
        value = losses.swapped_prediction(scores, codes, 0.1)
    losses.swapped_prediction(exact, codes, 0.1).backward()
    value.backward()
    assert value.dtype == torch.float32
    assert (scores[2].grad.float() - exact[2].grad).norm() < 0.005 * exact[2].grad.norm()
    weight = F.normalize(torch.randn(30, 128), dim=1)
    with torch.autocast("cpu", dtype):
        assert losses.prototype_scores(torch.randn(4, 128).to(dtype), weight).dtype == torch.float32


def test_every_view_predicts_the_codes_of_the_large_ones(config):
    """Views of two sizes: each passes the backbone with the views of its size, and the head with all."""
    method = make(config, "swav", *SMALL).double()
    x = [torch.randn(6, 3, size, size).double() for size in (8, 8, 6, 6, 6)]
    reference = copy.deepcopy(method)
    h = [reference.backbone(torch.cat(x[:2])), reference.backbone(torch.cat(x[2:]))]
    z = F.normalize(reference.projector(torch.cat(h)), dim=1)
    scores = (z @ reference.prototypes.weight.T).chunk(5)
    codes = [scaled(s.detach(), 0.05, 3) for s in scores[:2]]
    pairs = [(i, v) for i in range(2) for v in range(5) if i != v]
    expected = sum(-(codes[i] * F.log_softmax(scores[v] / 0.1, 1)).sum(1).mean() for i, v in pairs) / len(pairs)
    torch.testing.assert_close(method.loss(x), expected)
    assert method.backbone.batches == [12, 18]


def test_queue_takes_part_from_its_epoch_on(config):
    method = make(config, "swav", *SMALL, "method.queue_from_epoch=2", steps_per_epoch=10).double()
    rows = F.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    weight = method.prototypes.weight.detach()
    for step, queued in ((0, 0), (19, 0), (20, 18), (30, 18)):
        method.step = step
        for view in range(2):
            joint = torch.cat([rows, method.queue[18 * view :][:queued]])
            torch.testing.assert_close(method.codes(rows, view)[:6], scaled(joint @ weight.T, 0.05, 3)[:6])


def test_queue_holds_the_rows_of_each_large_view(config):
    method, history = make(config, "swav", *SMALL), []
    for step in range(4):
        before = method.queue.clone()
        for _ in range(2):  # accumulated
            x, twin = views(3, "swav"), copy.deepcopy(method)
            twin.loss(x)
            history.append(twin.new_rows[-1])
            method.loss(x)
        assert torch.equal(method.queue, before)
        method.after_step(step, 10)
    for view in range(2):
        rows = [one[view] for one in history]
        torch.testing.assert_close(method.queue[18 * view :][:18], torch.cat([*rows[6:8], *rows[2:6]]))
    before = method.queue.clone()
    method.loss(views(3, "swav"))
    method.drop_step()
    assert not method.new_rows
    assert torch.equal(method.queue, before)


def test_prototypes_are_unit_rows_and_frozen_at_first(config):
    method = make(config, "swav", *SMALL, "method.freeze_prototypes_epochs=1", steps_per_epoch=2)
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    start = method.prototypes.weight.detach().clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(5))
    for step in range(3):
        method.step = step
        optimizer.zero_grad()
        method.loss(views(name="swav")).backward()
        method.on_before_optimizer_step(optimizer)
        optimizer.step()
        method.after_step(step, 10)
        torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(5))
        assert torch.allclose(method.prototypes.weight, start) == (step < 2)


def test_state_continues_exactly(config):
    method, other = (make(config, "swav", *SMALL, "method.queue_from_epoch=0") for _ in range(2))
    for step in range(2):
        method.loss(views(name="swav"))
        method.after_step(step, 10)
    other.load_state_dict(method.state_dict())
    method.step = other.step = 2
    x = views(name="swav")
    assert torch.equal(method.loss(x), other.loss(x))
    method.after_step(2, 10), other.after_step(2, 10)
    assert all(torch.equal(a, b) for a, b in zip(method.buffers(), other.buffers(), strict=True))


def test_head_is_that_of_the_paper(config):
    method = make(config, "swav", *SMALL)
    assert trainable(method.projector) == 12 * 8 + 16 + 8 * 4 + 4
    assert trainable(method.prototypes) == 5 * 4


def test_queue_size_not_divisible_by_batch_is_refused(config):
    with pytest.raises(UserError, match=r"method.queue_size=18.*batch_size=8.*or 0.*try 16"):
        make(config, "swav", *SMALL).check(8, 8)
    make(config, "swav", *SMALL, "method.queue_size=0").check(7, 7)
