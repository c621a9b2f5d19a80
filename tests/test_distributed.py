"""Two processes give what one gives (tests/equality.py trains both)."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from equality import CASES
from torch import nn

from siamese import distributed
from siamese.distributed import SplitBatchNorm, SyncBatchNorm, convert_batchnorm, is_first
from siamese.errors import UserError

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Results of two processes and of one: (rank 0, rank 1, one)."""
    folder = tmp_path_factory.mktemp("equality")
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "equality.py"), str(folder)],
            env={**os.environ, "RANK": str(rank), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent / "ssl")},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    return [torch.load(folder / f"{name}.pt") for name in ("two-0", "two-1", "one")]


def close(ours, expected, tolerance):
    assert ours.keys() == expected.keys()
    for name in ours:
        torch.testing.assert_close(
            ours[name], expected[name], atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_does(trained, case):
    first, second, one = (t[case] for t in trained)
    for ours in (first, second):
        assert ours["losses"][0] == pytest.approx(one["losses"][0], abs=1e-10)
        assert ours["losses"] == pytest.approx(one["losses"], abs=1e-8)
        close(ours["gradients"], one["gradients"], 1e-10)
        close(ours["parameters"], one["parameters"], 1e-9)
    assert max(g.abs().max() for g in first["gradients"].values()) > 1e-6  # not all zero


@pytest.mark.parametrize("case", CASES)
def test_figures_of_the_projection_are_those_of_one_process(trained, case):
    first, second, one = (t[case]["figures"] for t in trained)
    assert first == second == pytest.approx(one, rel=1e-6)
    assert first[0] > 0 and first[1] > 1  # spread and rank of a projection that has not collapsed


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith("moco") or c == "moco_v3"])
def test_running_statistics_are_those_of_the_joint_batch(trained, case):
    first, second, one = (t[case]["buffers"] for t in trained)
    close(first, one, 1e-9)
    close(second, one, 1e-9)


@pytest.mark.parametrize("case", ["moco", "moco_v1", "moco-symmetric"])
def test_queues_hold_the_keys_of_all_ranks(trained, case):
    first, second, one = (t[case]["buffers"]["queue"] for t in trained)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, atol=1e-9, rtol=0)
    # Room for three steps' keys: five steps have wrapped, and every column is a unit key.
    torch.testing.assert_close(first.norm(dim=0), torch.ones(first.shape[1], dtype=torch.float64))


def test_the_online_probe_takes_the_joint_step(trained):
    first, second, one = (t["probe"] for t in trained)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 5, 5)])
def test_split_batchnorm_is_batchnorm_on_each_part(shape):
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
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
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


def test_sync_batchnorm_alone_is_batchnorm():
    x = torch.randn(8, 6, 5, 5)
    plain, sync = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
    convert_batchnorm(sync, SyncBatchNorm)
    assert torch.equal(plain(x), sync(x))


def test_splits_that_do_not_divide_the_batch_are_refused(config):
    from siamese import build

    cfg = config("method=moco", "method.bn_splits=3")
    method = build.method(cfg, build.backbone(cfg), None)
    method.check(4096, 12)
    with pytest.raises(UserError, match="bn_splits=3"):
        method.check(4096, 16)


def test_a_batchnorm_with_an_activation_is_refused(config):
    """Made a plain one, timm's BatchNormAct2d would lose its activation without a word."""
    import timm

    network = timm.create_model("efficientnet_b0", num_classes=0)
    with pytest.raises(UserError, match="BatchNormAct2d"):
        convert_batchnorm(network, SyncBatchNorm)
    convert_batchnorm(timm.create_model("resnet18", num_classes=0), SyncBatchNorm)


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
    ],
)
def test_who_speaks_before_a_process_group_is_up(monkeypatch, environment, first):
    for key in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert is_first() is first
