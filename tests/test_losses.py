"""Losses against values computed by hand, other libraries and their values at chance."""

import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from method_cases import NoWaits

from siamese import losses

N, D = 8, 16


def unit(*shape):
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_nt_xent_by_hand():
    # Two images; each view equals its other view, the two images are orthogonal.
    z = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    t = 0.5
    one = -math.log(math.exp(1 / t) / (math.exp(1 / t) + 2 * math.exp(0)))
    assert losses.nt_xent(z, t).item() == pytest.approx(2 * one, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_is_twice_the_mean_of_lightly(temperature):
    z = torch.randn(2 * N, D, dtype=torch.float64)
    expected = 2 * NTXentLoss(temperature)(z[:N], z[N:])
    assert losses.nt_xent(z, temperature).item() == pytest.approx(expected.item(), rel=1e-6)


def test_nt_xent_at_chance():
    z = torch.ones(512 * 2, 4)
    assert losses.nt_xent(z, 0.1).item() == pytest.approx(2 * math.log(2 * 512 - 1), abs=1e-3)  # 13.86


@pytest.mark.parametrize("chunk", [1, 5, 16, 100])
def test_chunked_nt_xent_equals_nt_xent_in_value_and_gradient(chunk):
    z = torch.randn(2 * N, D, dtype=torch.float64)
    whole, chunked = z.clone().requires_grad_(), z.clone().requires_grad_()
    losses.nt_xent(whole, 0.1).backward()
    loss = losses.nt_xent_chunked(chunked, 0.1, chunk)
    loss.backward()
    assert loss.item() == pytest.approx(losses.nt_xent(z, 0.1).item(), abs=1e-10)
    torch.testing.assert_close(chunked.grad, whole.grad, atol=1e-10, rtol=0)


def brute(z, temperature, margin):
    """The pairwise losses as loops over the paper's formulas."""
    z, n = F.normalize(z, dim=1), len(z) // 2
    logistic, triplet, pull, push = [], [], [], []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        s_pos = z[i] @ z[j]
        logistic.append((0, -F.logsigmoid(s_pos / temperature)))
        pull.append((z[i] - z[j]).norm() ** 2 / 2)
        for k in range(2 * n):
            if k not in (i, j):
                s = z[i] @ z[k]
                logistic.append((1, -F.logsigmoid(-s / temperature)))
                triplet.append(max(0.0, (s - s_pos + margin).item()))
                push.append(max(0.0, margin - (z[i] - z[k]).norm().item()) ** 2 / 2)
    mean = [torch.stack([v for kind, v in logistic if kind == c]).mean() for c in (0, 1)]
    return (sum(mean).item(), sum(triplet) / len(triplet), torch.stack(pull).mean().item() + sum(push) / len(push))


def test_pairwise_losses_equal_loops():
    z = torch.randn(2 * N, D, dtype=torch.float64)
    logistic, triplet, contrastive = brute(z, 0.3, 0.9)
    assert losses.nt_logistic(z, 0.3).item() == pytest.approx(logistic, rel=1e-9)
    assert losses.triplet(z, 0.9).item() == pytest.approx(triplet, rel=1e-9)
    assert losses.contrastive(z, 0.9).item() == pytest.approx(contrastive, rel=1e-9)


def test_contrastive_by_hand():
    z = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])  # positives at 0, negatives at sqrt(2)
    assert losses.contrastive(z, 1.0).item() == pytest.approx(0, abs=1e-6)
    assert losses.contrastive(z, 2.0).item() == pytest.approx((2 - math.sqrt(2)) ** 2 / 2, abs=1e-6)


@pytest.mark.parametrize("name", ["nt_xent", "nt_logistic", "triplet", "contrastive"])
def test_gradients_are_finite_where_views_coincide(name):
    z = torch.randn(N, D).repeat(2, 1).requires_grad_()
    getattr(losses, name)(z, 1.5).backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", ["nt_xent", "nt_logistic", "triplet", "contrastive", "dcl", "dclw", "nt_xent_chunked"])
def test_loss_has_no_sizes_that_depend_on_values(name):
    z = torch.randn(2 * N, D, requires_grad=True)
    given = {"dclw": (0.5,), "nt_xent_chunked": (4,)}.get(name, ())
    with NoWaits():
        getattr(losses, name)(z, 0.5, *given).backward()


def test_info_nce_queue_by_hand():
    q = torch.tensor([[1.0, 0.0, 0.0]])
    k = torch.tensor([[0.6, 0.8, 0.0]])
    queue = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])  # columns: orthogonal to q, equal to q
    t = 0.2
    expected = -math.log(math.exp(0.6 / t) / (math.exp(0.6 / t) + math.exp(0) + math.exp(1 / t)))
    assert losses.info_nce_queue(q, k, queue, t).item() == pytest.approx(expected, abs=1e-6)


def test_info_nce_queue_at_chance():
    q = torch.ones(4, D)
    queue = F.normalize(torch.ones(D, 65536), dim=0)
    assert losses.info_nce_queue(q, q, queue, 0.07).item() == pytest.approx(math.log(65537), abs=1e-3)  # 11.09


def test_info_nce_queue_gives_no_gradient_to_keys():
    q, k, queue = unit(4, D).requires_grad_(), unit(4, D).requires_grad_(), unit(6, D).T.clone().requires_grad_()
    losses.info_nce_queue(q, k, queue, 0.2).backward()
    assert q.grad is not None
    assert k.grad is None
    assert queue.grad is None


def test_info_nce_batch_by_hand_and_at_chance():
    q = torch.eye(2)
    k = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    t = 0.5
    rows = [(1.0, 0.6), (0.8, 0.0)]  # (positive, negative) of each query
    expected = sum(-math.log(math.exp(p / t) / (math.exp(p / t) + math.exp(n / t))) for p, n in rows) / 2
    assert losses.info_nce_batch(q, k, t).item() == pytest.approx(2 * t * expected, abs=1e-6)
    ones = torch.ones(4096, 2)
    both = 2 * losses.info_nce_batch(ones, ones, 1.0).item()
    assert both == pytest.approx(4 * math.log(4096), abs=1e-2)  # 33.27


def test_cosine_similarity_equals_lightly_and_stops_the_gradient():
    p, z = unit(N, D).requires_grad_(), unit(N, D).requires_grad_()
    ours = -losses.cosine_similarity(p, z)
    assert ours.item() == pytest.approx(NegativeCosineSimilarity()(p, z).item(), rel=1e-9)
    ours.backward()
    assert p.grad is not None
    assert z.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "loss",
    [
        lambda z: losses.nt_xent(z, 0.07),
        lambda z: losses.nt_xent_chunked(z, 0.07, 32),
        lambda z: losses.nt_logistic(z, 0.07),
        lambda z: losses.triplet(z, 0.8),
        lambda z: losses.contrastive(z, 1.0),
        lambda z: losses.info_nce_queue(z[:64], z[64:], torch.eye(128), 0.07),
        lambda z: losses.info_nce_batch(z[:64], z[64:].detach(), 0.07),
        lambda z: -losses.cosine_similarity(z[:64], z[64:]),
    ],
    ids=["nt_xent", "nt_xent_chunked", "nt_logistic", "triplet", "contrastive", "queue", "batch", "cosine"],
)
def test_losses_are_float32_under_autocast(loss, dtype):
    """Logits in half precision change the gradient by some per cent at T = 0.07; a mask of 1e9 is inf in fp16."""
    z = torch.randn(128, 128).to(dtype).float()  # what a head gives under autocast
    reference, low = z.clone().requires_grad_(), z.to(dtype).requires_grad_()
    loss(reference).backward()
    with torch.autocast("cpu", dtype):
        value = loss(low)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert (low.grad.float() - reference.grad).norm() < 0.01 * reference.grad.norm()
