"""A run is resumed exactly or not at all: other recipes and damaged states are refused, and nothing is written."""

import math

import pytest
import torch
from runs import interrupt

from siamese.errors import UserError
from siamese.training import Run, build, check


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("method=byol", "method.name=byol (was simsiam)"),
        ("optimizer.lr=0.5", "optimizer.lr=0.5 (was 0.006)"),
        ("trainer.precision=bf16-mixed", "trainer.precision=bf16-mixed (was 32-true)"),
        ("augment.flip_p=0.5", "augment.flip_p=0.5 (was 0.0)"),
        ("seed=3", "seed=3 (was 0)"),
        ("+trainer.gradient_clip_val=0.1", "trainer.gradient_clip_val=0.1 (was missing)"),
    ],
)
def test_changed_recipe_is_refused(session, tmp_path, changed, says):
    session("method=simsiam").fit()
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(UserError, match="started with another recipe: ") as error:
        session("method=simsiam", changed, "resume=true")
    assert says in str(error.value)
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_accumulation_and_split_must_not_change_within_an_epoch(session):
    common = ("trainer.accumulate_grad_batches=2", "epochs=2")
    interrupt(session(*common), 13)
    with pytest.raises(UserError, match=r"accumulate_grad_batches=1 \(was 2\)"):
        session("resume=true", "epochs=2")
    with pytest.raises(UserError, match=r"data.split_seed=3 \(was 10\)"):
        session("resume=true", *common, "data.split_seed=3")
    session("resume=true", *common, "data.workers=1", "data.resident=true").fit()


@pytest.fixture
def stopped(session, tmp_path):
    """A run of one epoch, and how to go on with its changed checkpoint."""
    run = session("method=moco", "method.queue_size=64")
    run.fit()
    run.close()
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    whole = torch.load(file, weights_only=True)
    (tmp_path / "run" / "checkpoints" / "previous.ckpt").unlink(missing_ok=True)
    return file, whole


DAMAGES = {
    "random states": [lambda s: s["siamese"].update(random={}), lambda s: s["siamese"].update(random=None),
                      lambda s: s["siamese"].update(random={"torch": "x", "views": "y"}),
                      lambda s: s["siamese"].update(random={"torch": torch.zeros(3), "views": torch.zeros(3)})],
    "optimizer_states": [lambda s: s.pop("optimizer_states"), lambda s: s.update(optimizer_states=[]),
                         lambda s: s.update(optimizer_states=[{"state": {}}])],
    "lr_schedulers": [lambda s: s.pop("lr_schedulers"), lambda s: s.update(lr_schedulers=[{"x": 1}])],
    "callbacks": [lambda s: s.pop("callbacks"), lambda s: s.update(callbacks=None)],
    "global_step": [lambda s: s.pop("global_step"), lambda s: s.update(global_step=-5),
                    lambda s: s.update(global_step="x")],
    "pytorch-lightning_version": [lambda s: s.pop("pytorch-lightning_version")],
    "images": [lambda s: s["siamese"].update(images="many")],
    "queue": [lambda s: s["state_dict"].pop("queue"), lambda s: s["state_dict"].update(queue=torch.zeros(2, 2)),
              lambda s: s["state_dict"].update(queue="x")],
    "tensors": [lambda s: s.update(state_dict={}), lambda s: s["state_dict"].update(more=torch.zeros(1))],
    "training state": [lambda s: s.pop("loops"), lambda s: s.update(loops={"fit_loop": 3}),
                       lambda s: s["loops"]["fit_loop"]["epoch_progress"]["current"].update(processed=None),
                       lambda s: s["loops"]["fit_loop"]["epoch_progress"]["current"].update(processed=-1)],
    "config": [lambda s: s["siamese"].update(config={1: {2: 3}}), lambda s: s["siamese"]["config"].update(seed="${x}")],
}  # fmt: skip


def test_damaged_training_state_is_refused(stopped, config, tiny, tmp_path):
    file, whole = stopped
    settings = [o for o in tiny if not o.startswith("epochs=")]
    go_on = [*settings, "method=moco", "method.queue_size=64", f"run_dir={tmp_path / 'run'}", "resume=true", "epochs=2"]
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "run").rglob("*") if f != file}
    for part, changes in DAMAGES.items():
        for change in changes:
            torch.save(whole, file)
            state = torch.load(file, weights_only=True)
            change(state)
            torch.save(state, file)
            with pytest.raises(UserError, match=f"^resume=true run_dir=.*{part}") as error:
                build(check(config(*go_on)))
            assert "\n" not in str(error.value)
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "run").rglob("*") if f != file} == before
    torch.save(whole, file)
    run = Run(build(check(config(*go_on))))
    run.start()
    run.fit()
    assert math.isfinite(run.finish())
    run.close()
