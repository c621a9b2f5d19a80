"""What is built before anything is written: splits, networks, weights to start from."""

import importlib.util
import json

import pytest
import torch
from runs import TWO_PROCESSES

from siamese.batchnorm import SyncBatchNorm
from siamese.errors import UserError


def test_supervised_split_excludes_held_out_images(session):
    run = session("method=supervised")
    assert len(run.split) == len(run.data.train_labeled)
    assert (run.split.labels >= 0).all()


@pytest.mark.parametrize(("method", "synchronised"), [("simsiam", True), ("simclr", True), ("moco", False)])
def test_batchnorm_is_synchronized_only_if_the_method_asks(session, method, synchronised):
    run = session(f"method={method}", *TWO_PROCESSES)
    norms = [m for m in run.method.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(m, SyncBatchNorm) == synchronised for m in norms)


def _finished(session, tmp_path):
    run = session("method=byol", folder="fresh")
    run.fit()
    run.finish()
    return json.loads((tmp_path / "fresh" / "summary.json").read_text())["baselines"]


def test_init_from_loads_backbone_and_adds_a_baseline(session, tmp_path):
    """From a checkpoint of ours and from a plain state dict; into the target network, too."""
    first = session("method=simsiam")
    first.fit()
    file = first.state.checkpoint
    plain = tmp_path / "backbone.pt"
    torch.save(first.method.backbone.state_dict(), plain)
    for given, kind in ((file, "train.py's own"), (plain, "plain state dict")):
        run = session("method=byol", f"init_from={given}", "overwrite=true", folder="started")
        assert run.started_from.startswith(kind)
        for network in (run.method.backbone, run.method.target[0]):
            state = network.state_dict()
            assert all(torch.equal(v, state[k]) for k, v in first.method.backbone.state_dict().items())
        assert run.trainer.global_step == 0
    run.fit()
    run.finish()
    summary = json.loads((tmp_path / "started" / "summary.json").read_text())
    assert set(summary["baselines"]) == {"raw_pixels", "random_init", "init_from"}
    assert summary["baselines"]["random_init"] == pytest.approx(_finished(session, tmp_path)["random_init"])
    with pytest.raises(UserError, match=r"init_from=.*does not fit the backbone.*backbone=resnet50"):
        session(f"init_from={plain}", "backbone.widths=[4,16]", folder="other")
    with pytest.raises(UserError, match="init_from=nowhere: is not a file"):
        session("init_from=nowhere", folder="other")


def test_device_statistics_of_a_cpu_need_psutil(session, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "psutil" else find(name, *more))
    with pytest.raises(UserError, match="callbacks.device_stats: on a CPU it needs psutil; pip install psutil"):
        session("callbacks=device_stats")
