"""Online evaluation and the detection of collapse."""

import json

import pytest
import torch
from runs import interrupt

from siamese.errors import RunAborted
from siamese.methods import Batch


def test_online_evaluation_does_not_change_training(session):
    weights = []
    for every in (0, 1):
        run = session(f"monitor.every={every}", folder=str(every))
        run.fit()
        weights.append(run.method.backbone.state_dict())
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())


def test_held_out_labels_do_not_reach_the_online_probe(session, monkeypatch):
    run = session()
    seen = []
    original = run.method.on_after_batch_transfer
    monkeypatch.setattr(
        run.method,
        "on_after_batch_transfer",
        lambda b, i: (seen.append((b[0].clone(), b[1].clone())), original(b, i))[1],
    )
    run.fit()
    val = {tuple(x.flatten().tolist()) for x in run.data.val.images.pixels}
    hidden = sum(1 for images, labels in seen for x, y in zip(images, labels, strict=True) if y < 0)
    leaked = [
        y
        for images, labels in seen
        for x, y in zip(images, labels, strict=True)
        if y >= 0 and tuple(x.flatten().tolist()) in val
    ]
    assert hidden > 0
    assert not leaked


def test_online_probe_gradient_equals_autograd(session):
    run = session("monitor.every=5")
    run.fit()
    head, captured, labels = (
        run.online.head,
        torch.randn(8, run.method.backbone.feature_dim),
        torch.tensor([0, 1, 2, -1] * 2),
    )
    weight = head[1].weight.detach().clone().requires_grad_()
    mean, var = captured.mean(0), captured.var(0, correction=0)
    logits = (captured - mean) / (var + head[0].eps).sqrt() @ weight.T + head[1].bias.detach()
    torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1).backward()
    run.online.captured = captured
    run.online.optimizer = torch.optim.SGD(head.parameters(), lr=0)
    run.online.on_train_batch_end(run.trainer, run.method, None, Batch([], labels), 0)
    torch.testing.assert_close(head[1].weight.grad, weight.grad)


def test_online_probe_survives_a_skipped_step(session):
    """A forward pass that is not finite, as by bad weights of one step, reaches neither head nor statistics."""
    run, count = session("epochs=1", "on_nonfinite=skip"), iter(range(1000))
    run.method.backbone.register_forward_hook(lambda m, i, out: out * float("nan") if next(count) in (8, 9) else out)
    run.fit()
    assert run.state.skipped_steps >= 1
    assert all(x.isfinite().all() for x in run.online.head.state_dict().values())


@pytest.mark.parametrize("how", ["warn", "stop"])
def test_collapse_is_reported(session, tmp_path, how):
    """BYOL without predictor and without target, which collapses (arXiv:2006.07733, table 5)."""
    run = session("method=byol", "epochs=4", "backbone.widths=[16,32]", f"on_collapse={how}", "monitor.every=4")
    method = run.method

    def loss(views):
        z1, z2 = (method.projector(method.backbone(x)) for x in views)
        method.projection = z1.detach()
        return 2 - 2 * torch.nn.functional.cosine_similarity(z1, z2).mean()

    method.loss = loss
    if how == "stop":
        with pytest.raises(RunAborted, match="has collapsed.*usual causes: a target without momentum"):
            run.fit()
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"] is False
    else:
        with pytest.warns(UserWarning, match="has collapsed.*usual causes: a target without momentum"):
            run.fit()
    assert run.state.collapsed_at < 4  # when it happens, not when the monitor is due


def test_collapse_is_detected_without_online_evaluation(session):
    run = session("method=byol", "epochs=2", "on_collapse=stop", "monitor.every=0")
    original = run.method.loss

    def loss(views):
        value = original(views)
        run.method.projection = torch.ones_like(run.method.projection)
        return value

    run.method.loss = loss
    with pytest.raises(RunAborted, match="epoch 1: the representation has collapsed"):
        run.fit()


def test_healthy_run_is_not_reported_as_collapsed(session):
    run = session("method=byol", "epochs=2", "backbone.widths=[16,32]")
    run.fit()  # a warning is an error here
    assert run.state.collapsed_at is None


def test_collapse_is_remembered_after_an_interruption(session):
    run = session("epochs=2")
    run.state.collapsed_at = 1
    interrupt(run, 30)
    again = session("epochs=2", "resume=true")
    again.fit()
    assert again.state.collapsed_at == 1
