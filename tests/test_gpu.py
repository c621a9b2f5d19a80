"""What only a GPU can show; left out where there is none."""

import pytest
import pytorch_lightning as pl
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
METHODS = ["simclr", "moco", "moco_v1", "moco_v3", "byol", "simsiam", "supervised"]


class NoSynchronisation(pl.Callback):
    """Between two logging points nothing may wait for the device."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 3:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 18:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_device(session, method):
    run = session(
        f"method={method}", "trainer=gpu", "trainer.log_every_n_steps=1000", "monitor.every=0", "compile=false"
    )
    run.trainer.callbacks.insert(0, NoSynchronisation())
    try:
        run.fit()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_views_and_first_loss_are_those_of_a_cpu(session, method):
    losses = []
    for trainer in ("cpu", "gpu"):
        run = session(
            f"method={method}", f"trainer={trainer}", "trainer.precision=32-true", "compile=false", folder=trainer
        )
        device = run.loading.device
        run.method.to(device)
        batch = run.method.on_after_batch_transfer(next(iter(run.loader)), 0)
        losses.append((run.method.loss(batch.views).item(), [v.cpu() for v in batch.views]))
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-3)
    for one, other in zip(losses[0][1], losses[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_compiled_bf16_learns(session):
    run = session("trainer=gpu", "compile=true", "epochs=2")
    run.fit()
    assert run.trainer.callback_metrics["loss"] < -0.1
