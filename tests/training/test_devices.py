"""Settings that depend on the device."""

import importlib.util

import pytest
import torch

from siamese.environment import cpu_has_amx
from siamese.errors import UserError
from siamese.training import devices
from siamese.training.devices import check_devices, precision_note, resolve_auto, resolve_compile, work_of_a_step


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


@pytest.mark.parametrize(
    ("asked", "bf16", "threads", "says"),
    [
        (
            "32-true",
            True,
            2,
            "precision 32-true (bf16-mixed is faster on this processor, for one run at a time)",
        ),
        ("32-true", True, 1, "precision 32-true"),  # small networks gain nothing
        ("32-true", False, 2, "precision 32-true"),
        ("bf16-mixed", True, 2, "precision bf16-mixed"),
    ],
)
def test_a_processor_with_bf16_is_told_of(config, monkeypatch, asked, bf16, threads, says):
    monkeypatch.setattr(devices, "cpu_has_amx", lambda: bf16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    note = precision_note(config(f"trainer.precision={asked}", "trainer=cpu"))
    assert note.startswith(says) if "(" in says else note == says


@pytest.mark.parametrize("has", [None, False, True])
def test_amx_is_asked_of_torch(monkeypatch, has):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)  # as in an older torch
    if has is not None:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has, raising=False)
    assert cpu_has_amx() is bool(has)


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


def test_networks_are_not_compiled_where_triton_cannot(config, monkeypatch):
    """As in a container without gcc. What was asked for is tried."""
    pytest.importorskip("triton")
    from siamese.augment import gpu

    def fail(device):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(gpu, "compile_one", fail)
    monkeypatch.setattr(devices, "on_gpu", lambda cfg: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    resolved, note = resolve_compile(config(), 10**6, [224])
    assert resolved.compile is False
    assert note == "networks not compiled (Triton cannot compile here (Failed to find C compiler); install gcc)"
    assert resolve_compile(config("compile=true"), 10**6, [224])[0].compile is True


def test_clipping_in_fp16_needs_an_optimiser_that_is_not_fused(config):
    given = ("optimizer=adamw", "trainer.precision=16-mixed", "+trainer.gradient_clip_val=3.0")
    with pytest.raises(UserError, match="gradient_clip_val=3.0: .* add optimizer.algorithm.fused=false"):
        check_devices(config(*given))
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        check_devices(config(*given, "optimizer.algorithm.fused=false", "trainer.accelerator=cpu"))


@pytest.mark.parametrize(("given", "says"), [("true", "networks compiled"), ("false", "networks not compiled")])
def test_a_length_decides_nothing_that_was_given(config, given, says):
    assert resolve_compile(config(f"compile={given}"), 1, [8])[1] == says
    assert resolve_compile(config(f"compile={given}"), 10**6, [224])[1] == says
