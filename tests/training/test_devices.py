"""Settings that depend on the device."""

import importlib.util

import pytest
import torch

from siamese.training.devices import resolve_auto


def test_deterministic_is_passed_to_lightning(session, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, **_: asked.append(mode))
    session("deterministic=true")
    assert asked == [True]


@pytest.mark.parametrize(
    ("gpu", "devices", "compiled", "precision"),
    [(False, 1, False, "32-true"), (True, 1, True, "bf16-mixed"), (True, 8, False, "bf16-mixed")],
)
def test_auto_is_resolved_by_device(config, monkeypatch, gpu, devices, compiled, precision):
    cfg = config(f"trainer.devices={devices}")
    assert cfg.compile == cfg.trainer.precision == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **k: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "triton" or None)
    resolved = resolve_auto(cfg)
    assert resolved.compile is compiled
    assert resolved.trainer.precision == precision
    assert cfg.compile == cfg.trainer.precision == "auto"
    given = config("compile=false", "trainer.precision=32-true")
    assert resolve_auto(given) == given
