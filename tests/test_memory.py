import torch

from siamese.backbones import SmallResNet
from siamese.memory import channels_last, keep_freed_memory


def last(network):
    return network.layers[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_where_it_is_safe():
    assert last(channels_last(SmallResNet([16, 32], 1)))
    assert not last(channels_last(SmallResNet([4, 8], 1)))  # its shortcut would corrupt the heap on a CPU


def test_a_freed_block_is_reused():
    keep_freed_memory()
    a = torch.empty(48 << 20, dtype=torch.uint8)  # above glibc's largest threshold of its own, 32 MB
    address = a.data_ptr()
    del a
    assert torch.empty(48 << 20, dtype=torch.uint8).data_ptr() == address
