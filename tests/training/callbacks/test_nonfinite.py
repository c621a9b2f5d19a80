"""Losses and gradients that are not finite."""

import json
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from runs import STEPS

from siamese.checkpoints.reading import load
from siamese.errors import RunAborted


def poison(method, at):
    """Make the loss of step `at` infinite."""
    original = method.loss
    count = iter(range(10**6))
    method.loss = lambda views: original(views) * (float("inf") if next(count) == at else 1.0)


def test_nonfinite_gradient_stops_the_run(session):
    run = session("epochs=2")
    poison(run.method, 25)
    with pytest.raises(RunAborted, match=r"step 25: .*learning rate 0\.\d+.*last.ckpt of step 22.*on_nonfinite=skip"):
        run.fit()
    assert all(p.isfinite().all() for p in run.method.parameters())
    assert load(run.state.checkpoint)["global_step"] == 22


def test_nonfinite_last_forward_is_skipped_and_no_collapse(session):
    run = session("on_nonfinite=skip", "on_collapse=stop")
    original, count = run.method.loss, iter(range(100))

    def loss(views):
        value = original(views)
        if next(count) == STEPS - 1:
            run.method.projection = run.method.projection * float("nan")
            return value * float("nan")
        return value

    run.method.loss = loss
    run.fit()
    assert run.state.skipped_steps == 1
    assert run.state.collapsed_at is None


@pytest.mark.parametrize("method", ["moco", "byol"])
def test_skipped_step_changes_no_tensor(session, tmp_path, method):
    run = session(f"method={method}", "on_nonfinite=skip")
    poison(run.method, 5)
    seen = {}

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            tensors = dict(pl_module.named_parameters())
            if method == "moco":
                tensors["queue"] = pl_module.queue
            seen[batch_idx] = {k: v.detach().clone() for k, v in tensors.items()}

    run.trainer.callbacks.append(Watch())
    run.fit()
    assert all(torch.equal(seen[5][k], seen[4][k]) for k in seen[5])
    assert not all(torch.equal(seen[6][k], seen[5][k]) for k in seen[6])
    run.finish()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_steps"] == 1


def test_gradient_scaler_looks_at_every_micro_batch(session):
    """With accumulation the loss of the last one says nothing about the others."""
    run = session("on_nonfinite=skip")
    plugin = SimpleNamespace(scaler=torch.amp.GradScaler("cpu"))
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    waiting = SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: True))
    trainer = SimpleNamespace(precision_plugin=plugin, fit_loop=waiting)
    skipped = []
    for losses in ([1.0, 2.0], [float("nan"), 2.0], [1.0, float("inf")], [1.0, 2.0]):
        weight.grad = torch.ones(3)
        for loss in losses[:-1]:
            run.method.latest_loss = torch.tensor(loss)
            run.nonfinite.on_train_batch_end(trainer, run.method, None, None, 0)
        run.method.latest_loss, run.method.step_skipped = torch.tensor(losses[-1]), False
        run.nonfinite.on_before_optimizer_step(trainer, run.method, optimizer)
        skipped.append(run.method.step_skipped)
    assert skipped == [False, True, True, False]


@pytest.mark.parametrize("fused", [True, False])
def test_gradient_scaler_skips_the_step_too(session, fused):
    """As Lightning does in fp16: it unscales before the callback only where the optimiser cannot."""
    run = session("on_nonfinite=skip")
    scaler, weight = torch.amp.GradScaler("cpu", init_scale=8.0), torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))

    def step(loss):
        optimizer.zero_grad()
        run.method.latest_loss = loss.detach()
        scaler.scale(loss).backward()
        if not fused:
            scaler.unscale_(optimizer)
        run.nonfinite.on_before_optimizer_step(trainer, run.method, optimizer)
        scaler.step(optimizer)
        scaler.update()
        return weight.detach().clone()

    first = step(weight.sum())
    assert not torch.equal(first, torch.ones(3))
    assert torch.equal(step(weight.sum() + torch.inf), first)  # its gradients are finite
    assert torch.equal(step(weight.sum() * torch.inf), first)
    assert run.state.skipped_steps == 2
    assert not torch.equal(step(weight.sum()), first)
