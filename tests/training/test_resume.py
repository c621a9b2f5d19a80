"""A resumed run continues as if it had never stopped."""

import json

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from runs import STEPS, differences, interrupt, rows_of

from siamese.checkpoints.reading import load
from siamese.errors import UserError


class StopAfter(pl.Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


def test_run_stopped_after_an_epoch_resumes_to_the_same_weights(session, tmp_path):
    """The online probe, too; every method is tried in tests/methods/test_guarantees.py."""
    whole = session("method=byol", "epochs=4", folder="whole")
    whole.fit()
    part = session("method=byol", "epochs=4", folder="part")
    part.trainer.callbacks.insert(0, StopAfter(2))
    part.fit()
    rest = session("method=byol", "epochs=4", "resume=true", folder="part")
    rest.fit()
    assert rest.trainer.global_step == whole.trainer.global_step
    for key, value in whole.method.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, rest.method.state_dict()[key]), key
    assert torch.equal(whole.online.head[1].weight, rest.online.head[1].weight)
    steps = [int(r["step"]) for r in rows_of(tmp_path / "part" / "metrics.csv")]
    assert steps == sorted(steps)  # the log of the first part is kept


def test_moved_images_are_found_and_another_number_is_refused(session, tmp_path, photos):
    common = ("data=folder", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small", "epochs=2",
              "data.on_error=skip", "data.resident=false", "data.workers=0")  # fmt: skip
    (photos / "0.png").write_bytes(b"no image")
    interrupt(session(*common, f"data.path={photos}"), 15)
    moved = photos.rename(tmp_path / "moved")
    again = session(*common, f"data.path={moved}", "resume=true")
    again.fit()
    assert str(photos / "0.png") in again.loader.skipped  # met before the interruption
    table = session(*common, f"data.path={moved}", "resume=true")  # cut before its table, at the end of an epoch
    assert str(photos / "0.png") in table.loader.skipped
    Image.new("RGB", (20, 20)).save(moved / "more.png")
    with pytest.raises(UserError, match="started on 40 images, 41 are there now; check data.path"):
        session(*common, f"data.path={moved}", "resume=true", "epochs=3")


def test_streamed_images_resume_within_an_epoch(session, tmp_path, photos):
    common = ("data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "batch_size=4", "method=moco",
              "method.queue_size=8", "method.bn_splits=2", "data.resident=false", "data.workers=1", "backbone=small",
              "epochs=2")  # fmt: skip
    session(*common, folder="whole").fit()
    interrupt(session(*common, folder="part"), 13)
    session(*common, "resume=true", folder="part").fit()
    assert differences(*(load(tmp_path / f / "checkpoints" / "last.ckpt") for f in ("part", "whole"))) == []


def test_truncated_checkpoint_falls_back_to_the_previous_one(session, tmp_path):
    run = session("epochs=2")
    interrupt(run, 30)
    last = run.state.checkpoint
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.warns(UserWarning, match=r"last.ckpt: cannot be read.*continued from .*previous.ckpt instead"):
        again = session("epochs=2", "resume=true")
    assert again.resume_from.state["global_step"] == STEPS
    again.checkpoints.every_steps = 10
    again.fit()
    # The truncated file never becomes previous.ckpt.
    assert load(last.with_name("previous.ckpt"))["global_step"] > STEPS
    session("epochs=2", folder="whole").fit()
    assert differences(load(last), load(tmp_path / "whole" / "checkpoints" / "last.ckpt")) == []
    for file in (last, last.with_name("previous.ckpt")):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="may be truncated"):
        session("epochs=3", "resume=true")


def test_finished_run_resumes_with_more_epochs_only(session, tmp_path):
    run = session()
    run.fit()
    run.finish()
    with pytest.raises(UserError, match=f"run_dir={tmp_path}/run: .*finished its 1 epochs; give more epochs="):
        session("resume=true")
    longer = session("resume=true", "epochs=2")
    longer.fit()
    assert longer.trainer.global_step == 2 * STEPS


class Rates(pl.Callback):
    """The learning rate of every step."""

    def __init__(self):
        self.seen = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen[trainer.global_step] = optimizer.param_groups[0]["lr"]


def test_schedule_has_the_new_length_from_the_first_resumed_step(session):
    rates = []
    for runs in (("whole", [("epochs=2",)]), ("grown", [("epochs=1",), ("epochs=2", "resume=true")])):
        for overrides in runs[1]:
            run = session("optimizer=sgd", *overrides, folder=runs[0])
            run.trainer.callbacks.insert(0, Rates())
            run.fit()
        rates.append(run.trainer.callbacks[0].seen)
    steps = STEPS
    assert list(rates[1]) == list(range(steps, 2 * steps))
    assert rates[1] == {step: rates[0][step] for step in rates[1]}


def test_lengthened_run_without_closing_table_resumes_with_it(session, tmp_path):
    run = session()
    run.fit()
    run.finish()
    session("resume=true", "epochs=2").fit()  # and no finish
    again = session("resume=true", "epochs=2")
    again.fit()
    again.finish()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 2
    with pytest.raises(UserError, match="epochs=1: .* has trained 2 epochs already; give 2 or more"):
        session("resume=true", "epochs=1")


def test_run_without_closing_table_resumes_with_it(session, tmp_path):
    """All epochs are saved, but no summary says finished."""
    whole = session(folder="whole")
    whole.fit()
    session().fit()
    again = session("resume=true")
    again.fit()
    assert again.trainer.global_step == STEPS
    assert again.finish() == whole.finish()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"] is True


def test_resumed_run_keeps_its_wandb_id(session):
    run = session("epochs=2")
    interrupt(run, 30)
    assert session("epochs=2", "resume=true").run_id == run.run_id


def test_resumed_run_does_not_need_the_file_of_init_from(session, tmp_path):
    session(folder="first").fit()
    file = tmp_path / "first" / "checkpoints" / "last.ckpt"
    run = session("epochs=2", f"init_from={file}")
    interrupt(run, 30)
    file.unlink()
    again = session("epochs=2", f"init_from={file}", "resume=true")
    again.fit()
    again.finish()
    assert set(json.loads((tmp_path / "run" / "summary.json").read_text())["baselines"]) == {
        "raw_pixels",
        "random_init",
    }


def test_resume_auto_starts_a_run_without_checkpoint(session):
    run = session("resume=auto")
    assert run.resume_from is None
    run.fit()
    with pytest.raises(UserError, match="resume=maybe: not a possible value; give auto, true or false"):
        session("resume=maybe")


def test_run_without_checkpoint_starts_with_an_empty_log(session, tmp_path):
    """As after a kill in the first epoch, which leaves rows and perhaps half a line."""
    session("resume=auto", "trainer.log_every_n_steps=1")
    (tmp_path / "run" / "metrics.csv").write_text("step,loss\n1,2.5\n2,2.4\n3,")
    run = session("resume=auto", "trainer.log_every_n_steps=11")
    assert run.resume_from is None
    run.fit()
    assert [int(r["step"]) for r in rows_of(tmp_path / "run" / "metrics.csv") if r["loss"]] == [10, 21]


def test_a_run_that_another_process_continues_meanwhile_is_left_alone(session, config, tiny, tmp_path):
    from conftest import StartedRun

    common = (f"run_dir={tmp_path / 'run'}", "epochs=2")
    late = StartedRun(config(*tiny, *common, "resume=auto"))  # has seen no checkpoint
    interrupt(session("epochs=2"), 15)
    with pytest.raises(UserError, match=r"run: another process has continued this run meanwhile; start again"):
        late.start()
    late = StartedRun(config(*tiny, *common, "resume=true"))
    rows = (tmp_path / "run" / "metrics.csv").read_bytes()
    interrupt(session("epochs=2", "resume=true"), 9)
    later = (tmp_path / "run" / "metrics.csv").read_bytes()
    with pytest.raises(UserError, match="another process has continued this run meanwhile"):
        late.start()
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == later != rows


def test_resume_auto_leaves_a_finished_run_without_checkpoint_alone(session, tmp_path):
    run = session()
    run.fit()
    run.finish()
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        file.unlink()
    before = (tmp_path / "run" / "summary.json").read_bytes()
    with pytest.raises(UserError, match="holds a run that has finished, without its checkpoint; add overwrite=true"):
        session("resume=auto")
    assert (tmp_path / "run" / "summary.json").read_bytes() == before
