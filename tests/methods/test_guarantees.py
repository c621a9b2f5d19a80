"""What every method of conf/method promises; a new one is tried without an edit."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from method_cases import CLASSES, METHODS, NoWaits, make, settings, views
from runs import differences
from torch import nn

from siamese.checkpoints.reading import load
from siamese.methods import Method

FEW = ("data.train_images=300",)  # 4 steps an epoch


pytestmark = pytest.mark.filterwarnings("ignore:epoch .. the representation has collapsed")  # of 8 features


class Killed(Exception):
    """Stands for SIGKILL: nothing is saved after the last checkpoint."""


class KillAt(pl.Callback):
    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.at:
            raise Killed


def arguments(method, batch):
    return (batch, torch.arange(len(batch[0])) % 3) if method.uses_labels else (batch,)


@pytest.mark.parametrize("name", METHODS)
def test_killed_run_resumes_bit_by_bit(session, tmp_path, name):
    """With every state: target, queue, centre, prototypes, teacher, optimiser, random numbers."""
    common = (f"method={name}", *settings(name), *FEW, "epochs=2", "checkpoint.every_steps=2", "monitor.every=0")
    session(*common, folder="whole").fit()
    part = session(*common, folder="part")
    part.trainer.callbacks.insert(0, KillAt(7))
    with pytest.raises(Killed):
        part.fit()
    assert load(tmp_path / "part" / "checkpoints" / "last.ckpt")["global_step"] == 6  # within the second epoch
    session(*common, "resume=true", folder="part").fit()
    assert differences(*(load(tmp_path / f / "checkpoints" / "last.ckpt") for f in ("part", "whole"))) == []


@pytest.mark.parametrize("name", METHODS)
def test_accumulated_micro_batches_are_one_step(session, name):
    """Queues and centres receive the images of the whole batch."""
    run = session(f"method={name}", *settings(name), *FEW, "trainer.accumulate_grad_batches=2", "monitor.every=0")
    run.fit()
    assert run.trainer.global_step == len(run.split) // 64
    assert all(b.isfinite().all() for b in run.method.buffers() if b.is_floating_point())


@pytest.mark.parametrize("name", METHODS)
def test_loss_is_float32_under_autocast(config, name):
    """bf16 networks move the loss a little; the loss itself is not rounded."""
    method = make(config, name)
    batch = views(32, name)
    twin = copy.deepcopy(method)
    torch.manual_seed(1)
    expected = twin.loss(*arguments(method, batch))
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method.loss(*arguments(method, batch))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.1, abs=0.05)
    found.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_step_has_no_sizes_that_depend_on_values(config, name):
    """On a GPU the host would wait for these; tests/test_gpu.py looks there."""
    method, batch = make(config, name), views(6, name)
    with NoWaits():
        method.loss(*arguments(method, batch)).backward()
        method.after_step(0, 10)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler about its own doing
@pytest.mark.parametrize("name", METHODS)
def test_compiled_networks_give_the_same_loss(config, name, monkeypatch):
    method = make(config, name)
    batch, twin = views(6, name), copy.deepcopy(method)
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: original(self, backend="eager"))
    method.compile_networks()
    losses = []
    for one in (method, twin):
        torch.manual_seed(1)
        losses.append(one.loss(*arguments(method, batch)))
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    for a, b in zip(method.parameters(), twin.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
    torch.compiler.reset()


@pytest.mark.parametrize("name", METHODS)
def test_skipped_step_changes_no_tensor_but_running_statistics(config, name):
    """`drop_step` forgets what a step of NaN would bring into queues and centres."""
    method = make(config, name)
    method.loss(*arguments(method, views(6, name)))
    method.after_step(0, 10)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    before = {k: v.clone() for k, v in method.state_dict().items() if isinstance(v, torch.Tensor)}
    method.loss(*arguments(method, [x * float("nan") for x in views(6, name)]))
    method.drop_step()
    after = method.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items() if not k.endswith(statistics))
    method.loss(*arguments(method, views(6, name)))
    assert not [k for k, v in vars(method).items() if isinstance(v, list) and len(v) > len(views(6, name))]


@pytest.mark.parametrize("name", METHODS)
def test_collapse_is_explained(config, name):
    """By its own causes; and the projection is what collapses."""
    assert CLASSES[name].collapse_causes != Method.collapse_causes
    method = make(config, name)
    method.loss(*arguments(method, views(6, name)))
    assert method.projection.ndim == 2
    assert len(method.projection) % 6 == 0
    assert not method.projection.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_state_after_loading_gives_the_same_loss(config, name):
    """Everything that the loss depends on is in the state dict."""
    method = make(config, name)
    for step in range(2):
        method.step = step
        method.loss(*arguments(method, views(6, name)))
        method.after_step(step, 10)
    other = make(config, name)
    other.load_state_dict(method.state_dict())
    batch, losses = views(6, name), []
    for one in (method, other):
        one.step = 2
        torch.manual_seed(1)
        losses.append(one.loss(*arguments(method, batch)))
    assert torch.equal(*losses)
