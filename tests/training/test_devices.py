"""Settings that depend on the device."""

import importlib.util

import pytest
import torch

from siamese.training.devices import resolve_auto, resolve_compile, work_of_a_step


def test_deterministic_is_passed_to_lightning(session, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, **_: asked.append(mode))
    session("deterministic=true")
    assert asked == [True]


@pytest.mark.parametrize(
    ("gpu", "devices", "compiled", "precision"),
    [(False, 1, False, "32-true"), (True, 1, "auto", "bf16-mixed"), (True, 8, False, "bf16-mixed")],
)
def test_auto_is_resolved_by_device(config, monkeypatch, gpu, devices, compiled, precision):
    cfg = config(f"trainer.devices={devices}")
    assert cfg.compile == cfg.trainer.precision == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **k: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "triton" or None)
    resolved = resolve_auto(cfg)
    assert resolved.compile == compiled  # "auto": decided once the length of the run is known
    assert resolved.trainer.precision == precision
    assert cfg.compile == cfg.trainer.precision == "auto"
    given = config("compile=false", "trainer.precision=32-true")
    assert resolve_auto(given) == given


def test_work_of_a_step_by_hand():
    """A convolution and BatchNorm, whose statistics it leaves: 8 x 8 places, 4 x 3 x 9 products and sums at each."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4))
    forward = 2 * 8 * 8 * 4 * 3 * 9
    assert work_of_a_step(network, 3, [8, 8, 4], images=5) == 3 * forward * 2.25 * 5
    assert network.training and network[1].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("epochs", "steps", "batch", "sizes", "compiled", "says"),
    [
        (36, 22, 64, [8, 8], False, "not compiled (792 steps and 6e+06 pixels in the run; compiled from 20,000 steps"),
        (200, 100, 64, [8, 8], True, "networks compiled (20,000 steps and 2e+08 pixels in the run"),  # many steps
        (10, 312, 4096, [224, 224], True, "networks compiled (3,120 steps and 1e+12 pixels in the run"),  # large ones
    ],
)
def test_networks_are_compiled_in_runs_that_are_long_enough(config, epochs, steps, batch, sizes, compiled, says):
    cfg = config(f"epochs={epochs}", f"batch_size={batch}")
    resolved, note = resolve_compile(cfg, steps, sizes)
    assert resolved.compile is compiled
    assert says in note
    assert cfg.compile == "auto"


@pytest.mark.parametrize(("given", "says"), [("true", "networks compiled"), ("false", "networks not compiled")])
def test_a_length_decides_nothing_that_was_given(config, given, says):
    assert resolve_compile(config(f"compile={given}"), 1, [8])[1] == says
    assert resolve_compile(config(f"compile={given}"), 10**6, [224])[1] == says
