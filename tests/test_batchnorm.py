"""BatchNorm over parts of a batch and over several processes (with real processes: test_distributed.py)."""

import copy

import pytest
import timm
import torch
from torch import nn

from siamese import batchnorm, distributed, factory
from siamese.batchnorm import SplitBatchNorm, SyncBatchNorm, convert_batchnorm
from siamese.errors import UserError


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 5, 5)])
def test_split_batchnorm_equals_batchnorm_of_each_part(shape):
    x = torch.randn(*shape, dtype=torch.float64)
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    plain, split = kind(6).double(), kind(6).double()
    with torch.no_grad():
        plain.weight.uniform_(0.5, 2)
    split.load_state_dict(plain.state_dict())
    convert_batchnorm(split, SplitBatchNorm)
    split.splits = 4
    means = []
    expected = []
    for part in x.chunk(4):
        one = kind(6).double()
        one.load_state_dict(plain.state_dict())
        expected.append(one(part))
        means.append(one.running_mean)
    torch.testing.assert_close(split(x), torch.cat(expected))
    torch.testing.assert_close(split.running_mean, torch.stack(means).mean(0))
    assert (split(x) - plain(x)).abs().max() > 0.05
    split.eval()
    plain.load_state_dict(split.state_dict())
    plain.eval()
    torch.testing.assert_close(split(x), plain(x))
    with pytest.raises(ValueError, match="4 parts"):
        split.train()(x[:6])


LAYOUTS = [((8, 6), None), ((8, 6, 5, 5), torch.contiguous_format), ((8, 6, 5, 5), torch.channels_last)]


def halves(shape, layout):
    """A bf16 batch that asks for gradients, the gradient that comes back, and a float32 BatchNorm."""
    x, grad = (torch.randn(*shape).to(torch.bfloat16) for _ in range(2))
    if layout is not None:
        x, grad = x.to(memory_format=layout), grad.to(memory_format=layout)
    norm = nn.BatchNorm1d(6) if len(shape) == 2 else nn.BatchNorm2d(6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    return x.requires_grad_(), grad, norm


@pytest.mark.parametrize(("shape", "layout"), LAYOUTS)
def test_split_batchnorm_keeps_dtype_and_memory_format(shape, layout):
    """As BatchNorm on each part has them: bf16 in and out, channels-last in and out, statistics in float32."""
    x, grad, plain = halves(shape, layout)
    split = copy.deepcopy(plain)
    convert_batchnorm(split, SplitBatchNorm)
    split.splits = 4
    with torch.autocast("cpu", torch.bfloat16):
        y = split(x)
    y.backward(grad)
    reference = x.detach().clone().requires_grad_()
    means = []
    for i, part in enumerate(reference.chunk(4)):
        one = copy.deepcopy(plain)
        expected = one(part)
        expected.backward(grad.chunk(4)[i])
        means.append(one.running_mean)
        torch.testing.assert_close(y.chunk(4)[i], expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(x.grad.float(), reference.grad.float(), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(split.running_mean, torch.stack(means).mean(0))
    for out in (y, x.grad):
        assert out.dtype == torch.bfloat16
        assert layout is None or out.is_contiguous(memory_format=layout)
    assert split.weight.grad.dtype == split.running_mean.dtype == torch.float32


@pytest.mark.parametrize(("shape", "layout"), LAYOUTS)
def test_sync_batchnorm_keeps_dtype_and_memory_format(monkeypatch, shape, layout):
    """A second rank that holds the same images leaves the statistics as they are, but for the unbiased variance."""
    x, grad, plain = halves(shape, layout)
    sync = copy.deepcopy(plain)
    convert_batchnorm(sync, SyncBatchNorm)
    for module in (batchnorm, distributed):
        monkeypatch.setattr(module, "world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda t: t.mul_(2))
    with torch.autocast("cpu", torch.bfloat16):
        y = sync(x)
    y.backward(grad)
    reference = x.detach().clone().float().requires_grad_()
    expected = plain(reference)
    expected.backward(grad.float())
    torch.testing.assert_close(y.float(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(x.grad.float(), reference.grad, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(sync.running_mean, plain.running_mean, rtol=1e-5, atol=1e-7)
    n = x.numel() // 6
    variance = (plain.running_var - 0.9) * (n - 1) / n * 2 * n / (2 * n - 1) + 0.9
    torch.testing.assert_close(sync.running_var, variance, rtol=1e-5, atol=1e-7)
    for out in (y, x.grad):
        assert out.dtype == torch.bfloat16
        assert layout is None or out.is_contiguous(memory_format=layout)


def test_sync_batchnorm_of_one_process_equals_batchnorm():
    x = torch.randn(8, 6, 5, 5)
    plain, sync = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
    convert_batchnorm(sync, SyncBatchNorm)
    assert torch.equal(plain(x), sync(x))


def test_splits_must_divide_the_micro_batch(config):
    cfg = config("method=moco", "method.bn_splits=3")
    method = factory.method(cfg, factory.backbone(cfg), None)
    method.check(4096, 12)
    with pytest.raises(UserError, match="bn_splits=3"):
        method.check(4096, 16)


def test_batchnorm_with_activation_is_refused():
    """As a plain one, timm's BatchNormAct2d would silently lose its activation."""
    network = timm.create_model("efficientnet_b0", num_classes=0)
    with pytest.raises(UserError, match="BatchNormAct2d"):
        convert_batchnorm(network, SyncBatchNorm)
    convert_batchnorm(timm.create_model("resnet18", num_classes=0), SyncBatchNorm)
