"""Training on a CUDA device."""

import pytest
import pytorch_lightning as pl
import torch
from method_cases import METHODS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class NoSynchronisation(pl.Callback):
    """Raises where the host waits for the device between two logging points."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 3:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 18:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", METHODS)
def test_step_does_not_wait_for_the_device(session, method):
    run = session(
        f"method={method}", "trainer=gpu", "trainer.log_every_n_steps=1000", "monitor.every=0", "compile=false"
    )
    run.trainer.callbacks.insert(0, NoSynchronisation())
    try:
        run.fit()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_views_and_first_loss_equal_those_of_a_cpu(session, method):
    losses = []
    for trainer in ("cpu", "gpu"):
        run = session(
            f"method={method}", f"trainer={trainer}", "trainer.precision=32-true", "compile=false", folder=trainer
        )
        device = run.loaders.device
        run.method.to(device)
        batch = run.method.on_after_batch_transfer(next(iter(run.loader)), 0)
        losses.append((run.method.loss(batch.views).item(), [v.cpu() for v in batch.views]))
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-3)
    for one, other in zip(losses[0][1], losses[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_compiled_bf16_run_lowers_the_loss(session):
    run = session("trainer=gpu", "compile=true", "epochs=2")
    run.fit()
    assert run.trainer.callback_metrics["loss"] < -0.1
