"""The projector of Barlow Twins and VICReg."""

from torch import nn


def expander(inputs: int, hidden: int, output: int, layers: int) -> nn.Sequential:
    """`layers` times Linear without bias, BN and ReLU between; the last Linear is bare (Barlow Twins, main.py)."""
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        inputs = hidden
    return nn.Sequential(*parts, nn.Linear(inputs, output, bias=False))
