"""Memory format, allocator, cores."""

import subprocess
import sys

import pytest
import torch

from siamese import environment
from siamese.backbones import SmallResNet
from siamese.environment import channels_last


def is_channels_last(network):
    return network.layers[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_is_used_where_it_is_safe():
    assert is_channels_last(channels_last(SmallResNet([16, 32], 1)))
    assert not is_channels_last(channels_last(SmallResNet([4, 8], 1)))  # its shortcut would corrupt the heap on a CPU


BLOCKS = """
import sys, torch
from siamese.environment import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[7])
for _ in range(4):  # above glibc's own largest threshold, 32 MB; an aligned block may not fit where the first lay
    torch.ones(48 << 20, dtype=torch.uint8)
before = faults()
for _ in range(4):
    torch.ones(48 << 20, dtype=torch.uint8)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_block_is_reused():
    """Its pages are not mapped anew: few faults, instead of one for every 4 kB."""
    faults = {}
    for how in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", BLOCKS, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert faults["keep"] < faults["leave"] / 2  # one of the four may have had to find another place


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["/x/bin/siamese", "eval", "ckpt=a b"], "siamese eval 'ckpt=a b'"),
        (["/x/siamese/__main__.py", "list"], "siamese list"),
        (["/x/train.py", "seed=1"], "python train.py seed=1"),
    ],
)
def test_command_line(monkeypatch, words, told):
    monkeypatch.setattr("sys.argv", words)
    assert environment.command_line() == told


@pytest.mark.parametrize(
    ("allowed", "own", "work", "used"),
    [(1, None, 1e12, 1), (9, None, 1e12, 2), (1, "2", 1e12, 2), (9, None, 1.9e9, 1), (9, None, 2e9, 2), (9, "2", 0, 2)],
)
def test_threads_are_allowed_and_help(monkeypatch, allowed, own, work, used):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(environment, "_THREADS", 2)
    if own is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    monkeypatch.setattr(environment, "cores", lambda: allowed)
    try:
        environment.limit_threads(work)
        assert torch.get_num_threads() == used
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("device", "native", "half"), [("cpu", True, False), ("cuda", False, False), ("cuda", True, True)]
)
def test_autocast_is_for_gpus_with_bf16(monkeypatch, device, native, half):
    """On a CPU, evaluation protocols compute what they did without it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **kwargs: native)
    with environment.autocast(torch.device(device)):
        assert torch.is_autocast_enabled(device) is half
        assert not half or torch.get_autocast_dtype(device) == torch.bfloat16
