"""Stopped in any way and continued: the same training, bit by bit."""

import csv
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from siamese import checkpoint
from siamese.csv_log import CsvLog
from siamese.errors import Stopped, UserError

ROOT = Path(__file__).resolve().parents[1]


class SignalAt(pl.Callback):
    """Sends this process a signal while it trains batch `at`, counted over epochs."""

    def __init__(self, at, signum=signal.SIGTERM):
        self.at, self.signum, self.count = at, signum, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), self.signum)


def interrupt(run, at, signum=signal.SIGTERM):
    run.trainer.callbacks.insert(0, SignalAt(at, signum))
    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as stop:
        run.fit()
    assert stop.value.code == 128 + signum
    assert signal.getsignal(signum) == before


def state(file):
    return checkpoint.load(file)


def differing(ours, expected, path=""):
    """Where two checkpoints differ, times and folders left out."""
    if isinstance(expected, dict):
        keys = set(ours) ^ set(expected)
        out = [f"{path}.{k} only in one" for k in keys]
        for k in set(ours) & set(expected) - {"run_id", "run_dir", "resume", "overwrite", "train_seconds"}:
            out += differing(ours[k], expected[k], f"{path}.{k}")
        return out
    if isinstance(expected, (list, tuple)):
        if len(ours) != len(expected):
            return [f"{path}: lengths"]
        return [d for i, (a, b) in enumerate(zip(ours, expected, strict=True)) for d in differing(a, b, f"{path}[{i}]")]
    same = torch.equal(ours, expected) if isinstance(expected, torch.Tensor) else ours == expected
    return [] if same else [f"{path}: {str(ours)[:60]} instead of {str(expected)[:60]}"]


def losses(file):
    """The logged columns that do not depend on the clock."""
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        {k: v for k, v in row.items() if k != "images_per_second"} for row in rows if not row.get("images_per_second")
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=simsiam",),
        ("method=moco", "method.bn_splits=2"),
        ("method=byol", "trainer.accumulate_grad_batches=2"),
        ("method=simclr", "optimizer=lars", "optimizer.warmup_epochs=1"),
    ],
    ids=lambda o: o[0],
)
@pytest.mark.parametrize("at", [9, 22 + 22, 51])  # in mid-epoch, in an epoch's last batch, in the third epoch
def test_a_signal_saves_the_step_and_the_run_goes_on_bit_by_bit(session, tmp_path, overrides, at):
    common = (*overrides, "epochs=4", "trainer.log_every_n_steps=1", "monitor.every=2")
    whole = session(*common, folder="whole")
    whole.fit()
    part = session(*common, folder="part")
    interrupt(part, at, signal.SIGINT if at == 9 else signal.SIGTERM)
    assert json.loads((tmp_path / "part" / "summary.json").read_text())["finished"] is False
    spent = torch.load(tmp_path / "part" / "checkpoints" / "last.ckpt", weights_only=True)["progress"]
    again = session(*common, "resume=true", folder="part")
    again.fit()
    assert again.progress.images == whole.progress.images  # of all sittings
    assert again.progress.train_seconds > spent["train_seconds"] > 0
    folders = [tmp_path / name for name in ("part", "whole")]
    assert differing(*(state(f / "checkpoints" / "last.ckpt") for f in folders)) == []
    assert losses(folders[0] / "metrics.csv") == losses(folders[1] / "metrics.csv")


def test_moved_images_are_found_and_others_are_not_taken_for_them(session, tmp_path, photos):
    common = ("data=folder", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small", "epochs=2",
              "data.on_error=skip", "data.resident=false", "data.workers=0")  # fmt: skip
    (photos / "0.png").write_bytes(b"no image")
    interrupt(session(*common, f"data.path={photos}"), 15)
    moved = photos.rename(tmp_path / "moved")
    again = session(*common, f"data.path={moved}", "resume=true")
    again.fit()
    assert str(photos / "0.png") in again.loader.skipped  # met before the interruption
    Image.new("RGB", (20, 20)).save(moved / "more.png")
    with pytest.raises(UserError, match="started on 40 images, 41 are there now; check data.path"):
        session(*common, f"data.path={moved}", "resume=true", "epochs=3")


def test_streamed_images_go_on_where_they_were(session, tmp_path, photos):
    common = ("data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "batch_size=4", "method=moco",
              "method.queue_size=8", "method.bn_splits=2", "data.resident=false", "data.workers=1", "backbone=small",
              "epochs=2")  # fmt: skip
    session(*common, folder="whole").fit()
    interrupt(session(*common, folder="part"), 13)
    session(*common, "resume=true", folder="part").fit()
    assert differing(*(state(tmp_path / f / "checkpoints" / "last.ckpt") for f in ("part", "whole"))) == []


def start(arguments, folder, **environment):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process, condition):
    """Until it holds; a process that ends before has failed."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def written(file):
    """When it was, 0 for never."""
    return file.stat().st_mtime_ns if file.exists() else 0


def kill_all(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


KILLED = ("method=moco", "epochs=20", "backbone.widths=[4,8]", "monitor.every=5", "eval.linear.epochs=2",
          "trainer=cpu", "checkpoint.every_steps=7")  # fmt: skip


@pytest.mark.slow
def test_killed_ten_times_at_random_moments(tmp_path):
    """SIGKILL, whatever the process is doing, ten times over one run."""
    whole = start([*KILLED, "run_dir=whole"], tmp_path)
    file = tmp_path / "part" / "checkpoints" / "last.ckpt"
    dice, steps, kills = random.Random(0), [], 0
    part = start([*KILLED, "run_dir=part"], tmp_path)
    while kills < 10:
        before = written(file)
        wait_for(part, lambda before=before: written(file) != before)
        # Some steps further, or while a checkpoint is written; two more at most: a fast machine must not be done first.
        moment, seen = time.monotonic() + dice.uniform(0, 0.25), {written(file)}
        while time.monotonic() < moment and len(seen) < 3:
            time.sleep(0.001)
            seen.add(written(file))
        kill_all(part)
        kills += 1
        _, saved = checkpoint.newest(file.parent)
        steps.append(saved["global_step"])
        part = start([*KILLED, "run_dir=part", "resume=true"], tmp_path)
    _, err = part.communicate(timeout=120)
    assert part.returncode == 0, err
    assert whole.wait(timeout=120) == 0
    whole.communicate()
    assert steps == sorted(steps)
    assert len(set(steps)) >= 8  # it went on in between
    assert steps[-1] < 440
    assert differing(*(state(tmp_path / f / "checkpoints" / "last.ckpt") for f in ("part", "whole"))) == []


@pytest.mark.slow
def test_two_processes_go_on_bit_by_bit(tmp_path):
    """SIGTERM to the first process; then SIGKILL to both; each time continued."""
    two = [*KILLED, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "epochs=6"]
    whole = start([*two, "run_dir=whole"], tmp_path)
    _, err = whole.communicate(timeout=120)
    assert whole.returncode == 0, err
    file = tmp_path / "part" / "checkpoints" / "last.ckpt"
    part = start([*two, "run_dir=part"], tmp_path)
    wait_for(part, file.exists)
    part.send_signal(signal.SIGTERM)
    out, err = part.communicate(timeout=60)
    assert part.returncode == 128 + signal.SIGTERM, err
    assert "SIGTERM at step" in out
    before = written(file)
    part = start([*two, "run_dir=part", "resume=true"], tmp_path)
    wait_for(part, lambda: written(file) != before)
    kill_all(part)
    part = start([*two, "run_dir=part", "resume=auto"], tmp_path)
    _, err = part.communicate(timeout=120)
    assert part.returncode == 0, err
    assert differing(*(state(tmp_path / f / "checkpoints" / "last.ckpt") for f in ("part", "whole"))) == []


def test_slurms_warning_requeues_the_job(tmp_path, tiny):
    tools = tmp_path / "bin"
    tools.mkdir()
    scontrol = tools / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\n")
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IEXEC)
    arguments = [*tiny, "method=simsiam", "epochs=500", "run_dir=r", "resume=auto"]
    process = start(arguments, tmp_path, SLURM_JOB_ID="4711", PATH=f"{tools}:{os.environ['PATH']}")
    wait_for(process, (tmp_path / "r" / "checkpoints" / "last.ckpt").exists)
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR1, err
    assert "SLURM job 4711 is requeued" in out
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    step = state(tmp_path / "r" / "checkpoints" / "last.ckpt")["global_step"]
    again = start([*arguments[:-3], f"epochs={step // 22 + 2}", "run_dir=r", "resume=auto"], tmp_path)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"continued from r/checkpoints/last.ckpt, step {step}" in out


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(session, tmp_path):
    run = session("epochs=3", "checkpoint.every_steps=30")
    original = run.checkpoints.save

    def save(trainer):
        if trainer.global_step == 30:
            os.symlink("/dev/full", run.checkpoints.file.with_suffix(".tmp"))
        original(trainer)

    run.checkpoints.save = save
    with pytest.raises(Stopped, match=r"step 30: .*No space left.*last.ckpt of step 22 is kept.*resume=true"):
        run.fit()
    assert state(run.checkpoints.file)["global_step"] == 22
    assert os.path.exists("/dev/full")
    assert sorted(os.listdir(run.checkpoints.file.parent)) == ["last.ckpt"]


def test_a_disk_that_fills_in_the_middle_of_a_write(session):
    """The first bytes fit; torch then hides the disk's error behind one of its own."""
    run = session("epochs=2")
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        with pytest.raises(Stopped, match=r"step 22: .*cannot be written .*none is there yet"):
            run.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(run.checkpoints.file.parent) == []


def test_a_disk_that_refuses_a_row_of_the_log(session, tmp_path):
    run = session("epochs=2")
    log = run.trainer.loggers[0]
    original = log.log_metrics

    def log_metrics(metrics, step=None):
        if step is not None and step > 22:
            log.file = Path("/dev/full")
        original(metrics, step)

    log.log_metrics = log_metrics
    with pytest.raises(Stopped, match=r"step 29: /dev/full cannot be written .*No space left.*resume=true"):
        run.fit()
    assert state(run.checkpoints.file)["global_step"] == 22


@pytest.mark.slow
def test_two_processes_end_together_where_the_disk_refuses_the_first(tmp_path):
    """One line, exit code 1, and nobody waits for anybody."""
    command = [sys.executable, str(ROOT / "train.py"), *KILLED, "trainer=ddp", "trainer.accelerator=cpu",
               "trainer.devices=2", "run_dir=r"]  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", *command],
        cwd=tmp_path, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: step 7: the checkpoint r/checkpoints/last.ckpt cannot be written") == 1
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["finished"] is False


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_the_whole_group_does_not_kill_the_workers(tmp_path, tiny, photos, signum):
    """As SLURM and systemd send it."""
    process = start(
        [*tiny, "data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small",
         "method=simsiam", "data.resident=false", "data.workers=2", "epochs=500", "run_dir=r"], tmp_path,
    )  # fmt: skip
    wait_for(process, (tmp_path / "r" / "checkpoints" / "last.ckpt").exists)
    os.killpg(process.pid, signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, err
    assert "saved at step" in out


def test_a_signal_that_ends_the_workers_too_is_no_crash(tmp_path, tiny, photos):
    """As scancel may send it: to each process by itself, workers included."""
    process = start(
        [*tiny, "data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small",
         "method=simsiam", "data.resident=false", "data.workers=2", "epochs=500", "run_dir=r"], tmp_path,
    )  # fmt: skip
    wait_for(process, (tmp_path / "r" / "checkpoints" / "last.ckpt").exists)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) >= 2
    for pid in (process.pid, *map(int, workers)):
        os.kill(pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    assert "saved at step" in out


def test_a_truncated_checkpoint_falls_back_to_the_one_before(session, tmp_path):
    run = session("epochs=2")
    interrupt(run, 30)
    last = run.checkpoints.file
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.warns(UserWarning, match=r"last.ckpt: cannot be read.*continued from .*previous.ckpt instead"):
        again = session("epochs=2", "resume=true")
    assert again.state["global_step"] == 22
    again.checkpoints.every_steps = 10
    again.fit()
    assert (
        state(last.with_name("previous.ckpt"))["global_step"] > 22
    )  # not the truncated one, which was kept at no time
    session("epochs=2", folder="whole").fit()
    assert differing(state(last), state(tmp_path / "whole" / "checkpoints" / "last.ckpt")) == []
    for file in (last, last.with_name("previous.ckpt")):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="may be truncated"):
        session("epochs=3", "resume=true")


def test_resuming_a_finished_run(session, tmp_path):
    run = session()
    run.fit()
    run.finish()
    with pytest.raises(UserError, match=f"run_dir={tmp_path}/run: .*finished its 1 epochs; give more epochs="):
        session("resume=true")
    longer = session("resume=true", "epochs=2")
    longer.fit()
    assert longer.trainer.global_step == 2 * (1438 // 64)


class Rates(pl.Callback):
    """The learning rate of every step."""

    def __init__(self):
        self.seen = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen[trainer.global_step] = optimizer.param_groups[0]["lr"]


def test_the_schedule_follows_the_new_length_from_the_first_step(session):
    rates = []
    for runs in (("whole", [("epochs=2",)]), ("grown", [("epochs=1",), ("epochs=2", "resume=true")])):
        for overrides in runs[1]:
            run = session("optimizer=sgd", *overrides, folder=runs[0])
            run.trainer.callbacks.insert(0, Rates())
            run.fit()
        rates.append(run.trainer.callbacks[0].seen)
    steps = 1438 // 64
    assert list(rates[1]) == list(range(steps, 2 * steps))
    assert rates[1] == {step: rates[0][step] for step in rates[1]}


def test_a_lengthened_run_killed_before_its_table_makes_it_then(session, tmp_path):
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


def test_the_wandb_run_is_the_same(session):
    run = session("epochs=2")
    interrupt(run, 30)
    assert session("epochs=2", "resume=true").run_id == run.run_id


def test_a_run_that_started_from_given_weights_needs_them_no_more(session, tmp_path):
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


def test_the_configuration_survives_a_disk_that_refuses(session, tmp_path):
    run = session()
    run.fit()
    run.close()
    before = (tmp_path / "run" / "config.yaml").read_text()
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", sys.executable, str(ROOT / "train.py"), "run_dir=run",
         "resume=true", "epochs=2", "trainer=cpu", "backbone.widths=[4,8]"],
        cwd=tmp_path, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: run/config.yaml cannot be written")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "run" / "config.yaml").read_text() == before


@pytest.mark.slow
def test_a_process_of_two_that_is_killed(tmp_path):
    two = [*KILLED, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "epochs=50", "run_dir=r"]
    process = start(two, tmp_path)
    wait_for(process, (tmp_path / "r" / "checkpoints" / "last.ckpt").exists)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (second,) = (c for c in children if "train.py" in Path(f"/proc/{c}/cmdline").read_text())
    os.kill(int(second), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "another process is gone" in err
    assert "continue with resume=true run_dir=r" in err
    assert "Traceback" not in err


def test_killed_before_the_closing_table(session, tmp_path):
    """All epochs are saved, no summary says finished: the table is made then."""
    whole = session(folder="whole")
    whole.fit()
    session().fit()
    again = session("resume=true")
    again.fit()
    assert again.trainer.global_step == 1438 // 64
    assert again.finish() == whole.finish()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"] is True


def test_what_may_change_when_a_run_goes_on(session):
    common = ("trainer.accumulate_grad_batches=2", "epochs=2")
    interrupt(session(*common), 13)
    with pytest.raises(UserError, match=r"accumulate_grad_batches=1 \(was 2\)"):
        session("resume=true", "epochs=2")
    with pytest.raises(UserError, match=r"data.split_seed=3 \(was 10\)"):
        session("resume=true", *common, "data.split_seed=3")
    session("resume=true", *common, "data.workers=1", "data.resident=true").fit()


def test_rows_that_will_be_made_again_are_dropped(tmp_path):
    """Lightning numbers the loss of the step after S by S, and what is measured after step S too."""
    log = CsvLog(tmp_path / "metrics.csv")
    for step in (18, 19, 20):
        log.log_metrics({"loss": 0.1 * step}, step=step)
    log.log_metrics({"knn_top1": 0.5}, step=20)
    CsvLog(tmp_path / "metrics.csv", keep_to=20)
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        kept = [(int(row["step"]), bool(row["loss"])) for row in csv.DictReader(stream)]
    assert kept == [(18, True), (19, True), (20, False)]


def test_a_collapse_is_remembered_over_an_interruption(session):
    run = session("epochs=2")
    run.monitor.collapsed_at = 1
    interrupt(run, 30)
    again = session("epochs=2", "resume=true")
    again.fit()
    assert again.monitor.collapsed_at == 1


def test_auto_starts_where_there_is_nothing_to_continue(session):
    run = session("resume=auto")
    assert run.ckpt is None
    run.fit()
    with pytest.raises(UserError, match="resume=maybe: not a possible value; give auto, true or false"):
        session("resume=maybe")


def poison(method, at):
    """Make the loss of step `at` infinite."""
    original = method.loss
    count = iter(range(10**6))
    method.loss = lambda views: original(views) * (float("inf") if next(count) == at else 1.0)


def test_a_gradient_that_is_not_finite_stops_the_run(session):
    run = session("epochs=2")
    poison(run.method, 25)
    with pytest.raises(Stopped, match=r"step 25: .*learning rate 0\.\d+.*last.ckpt of step 22.*on_nonfinite=skip"):
        run.fit()
    assert all(p.isfinite().all() for p in run.method.parameters())
    assert state(run.checkpoints.file)["global_step"] == 22


def test_a_last_forward_pass_that_is_not_finite_is_no_crash_and_no_collapse(session):
    run = session("on_nonfinite=skip", "on_collapse=stop")
    original, count = run.method.loss, iter(range(100))

    def loss(views):
        value = original(views)
        if next(count) == 1438 // 64 - 1:
            run.method.projection = run.method.projection * float("nan")
            return value * float("nan")
        return value

    run.method.loss = loss
    run.fit()
    assert run.finite.skipped == 1
    assert run.monitor.collapsed_at is None


@pytest.mark.parametrize("method", ["moco", "byol"])
def test_a_step_that_is_skipped_changes_nothing(session, tmp_path, method):
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
