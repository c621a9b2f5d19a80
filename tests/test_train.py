"""train.py and eval_linear.py as a user runs them, on a tiny network."""

import csv
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image

from siamese import build, checkpoint
from siamese.distributed import SyncBatchNorm
from siamese.errors import Stopped, UserError
from siamese.methods import Batch

ROOT = Path(__file__).resolve().parents[1]
METHODS = ["simclr", "moco", "moco_v1", "moco_v3", "byol", "simsiam", "supervised"]


def rows_of(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_folder_holds_what_is_promised(session, tmp_path, method):
    run = session(f"method={method}", "trainer.log_every_n_steps=5")
    run.fit()
    value = run.finish()
    folder = tmp_path / "run"
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("method", "data", "backbone", "epochs", "steps", "seconds", "train_seconds", "images_per_second",
                "peak_memory_mb", "knn_top1",
                "linear_top1", "baselines", "versions", "device", "finished"):  # fmt: skip
        assert key in summary
    assert summary["finished"] is True
    assert summary["linear_top1"] == value
    for row in (summary, summary["baselines"]["raw_pixels"], summary["baselines"]["random_init"]):
        assert 0 <= row["knn_top1"] <= 1
        assert 0 <= row["linear_top1"] <= 1
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["method"]["name"] == method
    assert "${" not in (folder / "config.yaml").read_text()
    rows = rows_of(folder / "metrics.csv")
    logged = [r for r in rows if r["loss"]]
    assert [int(r["step"]) for r in logged] == [4, 9, 14, 19][: len(logged)]
    assert len(logged) >= 3
    assert any(r["knn_top1"] for r in rows)
    assert any(r["images_per_second"] for r in rows)
    for column in ("projection_std", "feature_rank", "alpha_req", "uniformity", "alignment", "lidar"):
        assert any(r[column] for r in rows), column
    with Image.open(folder / "views.png") as picture:
        assert picture.size[0] > 300
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert any(k.startswith("backbone.") for k in state["state_dict"])
    assert state["global_step"] == summary["steps"]


def test_the_same_seed_gives_the_same_weights(session):
    weights = []
    for folder in ("a", "b"):
        run = session(folder=folder)
        run.fit()
        weights.append(run.method.state_dict())
    for key, value in weights[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, weights[1][key]), key
    other = session("seed=1", folder="c")
    other.fit()
    assert not torch.equal(other.method.backbone.layers[0].weight, weights[0]["backbone.layers.0.weight"])


def test_deterministic_is_lightnings(session, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, **_: asked.append(mode))
    session("deterministic=true")
    assert asked == [True]


def test_monitors_and_pictures_change_nothing_in_the_run(session):
    weights = []
    for every in (0, 1):
        run = session(f"monitor.every={every}", folder=str(every))
        run.fit()
        weights.append(run.method.backbone.state_dict())
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())


def test_accumulation_counts_optimiser_steps(session, monkeypatch):
    """EMA and queue move once an optimiser step, not once a micro-batch."""
    run = session("method=moco", "batch_size=64", "trainer.accumulate_grad_batches=2", "monitor.every=0")
    calls = []
    after_step = run.method.after_step
    monkeypatch.setattr(run.method, "after_step", lambda *a: (calls.append(a), after_step(*a)))
    before = run.method.queue.clone()
    run.fit()
    steps = run.trainer.global_step
    assert steps == 1438 // 64
    assert [c[0] for c in calls] == list(range(steps))
    assert {c[1] for c in calls} == {steps}
    changed = (run.method.queue != before).any(0).sum()
    assert changed == steps * 64


def test_target_stays_in_training_mode(session):
    run = session("method=byol")
    run.fit()
    assert all(m.training for m in run.method.target.modules())


def test_held_out_labels_do_not_train_the_online_probe(session, monkeypatch):
    run = session()
    seen = []
    original = run.method.on_after_batch_transfer
    monkeypatch.setattr(
        run.method,
        "on_after_batch_transfer",
        lambda b, i: (seen.append((b[0].clone(), b[1].clone())), original(b, i))[1],
    )
    run.fit()
    val = {tuple(x.flatten().tolist()) for x in run.data.val.images}
    hidden = sum(1 for images, labels in seen for x, y in zip(images, labels, strict=True) if y < 0)
    leaked = [
        y
        for images, labels in seen
        for x, y in zip(images, labels, strict=True)
        if y >= 0 and tuple(x.flatten().tolist()) in val
    ]
    assert hidden > 0
    assert not leaked


def test_the_online_probe_takes_autograds_gradient(session):
    run = session("monitor.every=5")
    run.fit()
    head, captured, labels = (
        run.monitor.head,
        torch.randn(8, run.method.backbone.feature_dim),
        torch.tensor([0, 1, 2, -1] * 2),
    )
    weight = head[1].weight.detach().clone().requires_grad_()
    mean, var = captured.mean(0), captured.var(0, correction=0)
    logits = (captured - mean) / (var + head[0].eps).sqrt() @ weight.T + head[1].bias.detach()
    torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1).backward()
    run.monitor.captured = captured
    run.monitor.optimizer = torch.optim.SGD(head.parameters(), lr=0)
    run.monitor.on_train_batch_end(run.trainer, run.method, None, Batch([], labels), 0)
    torch.testing.assert_close(head[1].weight.grad, weight.grad)


def test_supervised_does_not_see_held_out_images(session):
    run = session("method=supervised")
    assert len(run.train_part) == len(run.data.fit)
    assert (run.train_part.labels >= 0).all()


class StopAfter(pl.Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


def test_a_stopped_run_continues_to_the_same_weights(session, tmp_path):
    """Interrupted after its second epoch and continued: as if never stopped."""
    for method in ("simsiam", "moco", "byol"):
        whole = session(f"method={method}", "epochs=4", folder=f"{method}-whole")
        whole.fit()
        part = session(f"method={method}", "epochs=4", folder=f"{method}-part")
        part.trainer.callbacks.insert(0, StopAfter(2))
        part.fit()
        rest = session(f"method={method}", "epochs=4", "resume=true", folder=f"{method}-part")
        rest.fit()
        assert rest.trainer.global_step == whole.trainer.global_step
        for key, value in whole.method.state_dict().items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, rest.method.state_dict()[key]), (method, key)
        assert torch.equal(whole.monitor.head[1].weight, rest.monitor.head[1].weight)
        steps = [int(r["step"]) for r in rows_of(tmp_path / f"{method}-part" / "metrics.csv")]
        assert steps == sorted(steps)  # the log of the first part is kept


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
def test_resuming_another_recipe_is_refused(session, tmp_path, changed, says):
    session("method=simsiam").fit()
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(UserError, match="started with another recipe: ") as error:
        session("method=simsiam", changed, "resume=true")
    assert says in str(error.value)
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_a_run_that_starts_from_given_weights(session, tmp_path):
    """Ours, or a plain state dict; the target network starts from them too, and the table shows them."""
    first = session("method=simsiam")
    first.fit()
    file = first.checkpoints.file
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


def _finished(session, tmp_path):
    run = session("method=byol", folder="fresh")
    run.fit()
    run.finish()
    return json.loads((tmp_path / "fresh" / "summary.json").read_text())["baselines"]


@pytest.mark.parametrize("how", ["warn", "stop"])
def test_a_collapse_is_reported(session, tmp_path, how):
    """BYOL without predictor and without target, which collapses (arXiv:2006.07733, table 5)."""
    run = session("method=byol", "epochs=4", "backbone.widths=[16,32]", f"on_collapse={how}", "monitor.every=4")
    method = run.method

    def loss(views):
        z1, z2 = (method.projector(method.backbone(x)) for x in views)
        method.projection = z1.detach()
        return 2 - 2 * torch.nn.functional.cosine_similarity(z1, z2).mean()

    method.loss = loss
    if how == "stop":
        with pytest.raises(Stopped, match="has collapsed.*usual causes: a target without momentum"):
            run.fit()
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"] is False
    else:
        with pytest.warns(UserWarning, match="has collapsed.*usual causes: a target without momentum"):
            run.fit()
    assert run.monitor.collapsed_at < 4  # when it happens, not when the monitor is due


def test_a_collapse_is_seen_without_other_monitors(session):
    run = session("method=byol", "epochs=2", "on_collapse=stop", "monitor.every=0")
    original = run.method.loss

    def loss(views):
        value = original(views)
        run.method.projection = torch.ones_like(run.method.projection)
        return value

    run.method.loss = loss
    with pytest.raises(Stopped, match="epoch 1: the representation has collapsed"):
        run.fit()


@pytest.mark.parametrize(("method", "synchronised"), [("simsiam", True), ("simclr", True), ("moco", False)])
def test_two_processes_synchronise_the_batchnorm_that_asks_for_it(session, method, synchronised):
    run = session(f"method={method}", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    norms = [m for m in run.method.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(m, SyncBatchNorm) == synchronised for m in norms)


def test_a_healthy_run_is_not_called_collapsed(session):
    run = session("method=byol", "epochs=2", "backbone.widths=[16,32]")
    run.fit()  # a warning is an error here
    assert run.monitor.collapsed_at is None


def test_a_flat_folder_trains_without_labels(session, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.jpg")
    for resident in ("true", "false"):
        run = session(
            "data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "augment=small/simclr",
            "batch_size=8", "backbone=small", "method=simclr", f"data.resident={resident}", "data.workers=1",
            folder=resident,
        )  # fmt: skip
        run.fit()
        assert run.finish() > 1  # RankMe
        summary = json.loads((tmp_path / resident / "summary.json").read_text())
        assert "knn_top1" not in summary
        assert summary["feature_rank"] > 1


def test_the_two_commands(command, tiny, tmp_path):
    """`python train.py`, then `python eval_linear.py`; the backbone is not changed by its evaluation."""
    done = command("train.py", *tiny, "method=simsiam")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "raw_pixels" in done.stdout
    assert "resident on cpu" in done.stdout
    (folder,) = (tmp_path / "outputs" / "digits" / "simsiam").iterdir()
    file = folder / "checkpoints" / "last.ckpt"
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "views.png",
    ]
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    done = command("eval_linear.py", f"ckpt={file}", "eval.linear.epochs=2", "run_dir=e")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["results"]["digits"]["images"] == {"fit": 1295, "val": 143, "test": 359}
    assert results["ckpt_sha256"] == before == hashlib.sha256(file.read_bytes()).hexdigest()
    assert set(results["baselines"]) == {"raw_pixels", "random_init"}
    assert sorted(os.listdir(tmp_path)) == ["e", "outputs"]


def test_evaluation_changes_no_tensor_of_the_backbone(session, config, tmp_path):
    from siamese.evaluation.protocol import Evaluation

    run = session()
    run.fit()
    evaluation = Evaluation(
        config(f"ckpt={run.checkpoints.file}", f"run_dir={tmp_path / 'e'}", "eval.linear.epochs=2", name="eval_linear")
    )

    def hashes():
        state = evaluation.backbone.state_dict()
        return {k: hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in state.items()}

    before = hashes()
    assert len(before) > 10
    evaluation.run()
    assert hashes() == before
    assert not any(m.training for m in evaluation.backbone.modules())
    trained = checkpoint.backbone_state(checkpoint.load(run.checkpoints.file))
    assert all(torch.equal(v, evaluation.backbone.state_dict()[k]) for k, v in trained.items())


def test_training_never_touches_the_test_part(session):
    run = session()
    run.data.test = None
    run.fit()
    run.finish()


@pytest.mark.parametrize("logger", ["wandb", "tensorboard"])
def test_loggers(command, tiny, tmp_path, logger):
    done = command("train.py", *tiny, f"logger={logger}", "run_dir=r", WANDB_MODE="offline", WANDB_SILENT="true")
    assert done.returncode == 0, done.stderr
    names = [str(p) for p in (tmp_path / "r").rglob("*")]
    wanted = "offline-run" if logger == "wandb" else "tfevents"
    assert any(wanted in n for n in names)
    if logger == "wandb":
        run_id = torch.load(tmp_path / "r" / "checkpoints" / "last.ckpt", weights_only=True)[checkpoint.KEY]["run_id"]
        assert any(n.endswith(run_id) for n in names if "offline-run" in n)


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_continue(tiny, tmp_path):
    import signal
    import subprocess
    import sys
    import time

    root = Path(__file__).resolve().parents[1]
    arguments = [a for a in tiny if not a.startswith("epochs")]
    process = subprocess.Popen(
        [sys.executable, str(root / "train.py"), *arguments, "epochs=1000", "run_dir=r"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    file = tmp_path / "r" / "checkpoints" / "last.ckpt"
    for _ in range(600):
        if file.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "resume=true run_dir=r" in out
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["finished"] is False
    checkpoint.load(file)


def launched(arguments, folder, environments):
    """Starts a process an environment; returns (return code, stdout, stderr) of each."""
    base = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**base, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    return [(*p.communicate(timeout=120), p.returncode) for p in processes]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.mark.slow
def test_two_processes_count_each_others_unreadable_files(tiny, tmp_path, photos):
    bad = sorted(photos.rglob("*.png"))[::5]
    for file in bad:
        file.write_bytes(b"no image")
    arguments = [*tiny, "method=simsiam", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "epochs=2",
                 "data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small",
                 "data.resident=false", "data.workers=0", "data.on_error=skip", "run_dir=r"]  # fmt: skip
    ((_, err, code),) = launched([str(ROOT / "train.py"), *arguments], tmp_path, [{}])
    assert code == 0, err
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["skipped_images"] == len(bad)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun", "srun"])
def test_two_processes(tiny, tmp_path, launcher):
    """Started by Lightning, by torchrun, and with the variables that SLURM's srun sets; one run folder."""
    script = str(ROOT / "train.py")
    arguments = [*tiny, "method=simsiam", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "siamese", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
             "SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "localhost", "SLURM_NODELIST": "127.0.0.1",
             "SLURM_NNODES": "1", "MASTER_PORT": free_port(), "MASTER_ADDR": "127.0.0.1"}  # fmt: skip
    started = {
        "lightning": ([script], [{}]),
        "torchrun": (
            ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}", script],
            [{}],
        ),
        "srun": ([script], [{**slurm, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]),
    }  # fmt: skip
    command, environments = started[launcher]
    results = launched([*command, *arguments], tmp_path, environments)
    assert all(code == 0 for _, _, code in results), results
    assert sum(out.count("run folder:") for out, _, _ in results) == 1
    (folder,) = (tmp_path / "outputs" / "digits" / "simsiam").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"]
    assert summary["steps"] == 1438 // 64  # the batch is global


def test_a_batch_that_the_devices_do_not_divide(command, tiny):
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    done = command("train.py", *tiny, *two, "batch_size=63")
    assert done.returncode == 2
    assert "batch_size=63" in done.stderr


def test_half_precision(session):
    run = session("trainer.precision=bf16-mixed", "method=moco_v1")  # temperature 0.07
    seen = []
    original = run.method.loss
    run.method.loss = lambda views: (seen.append(original(views)), seen[-1])[1]
    run.fit()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in seen)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler about its own doing
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_the_fast_path_takes_the_plain_paths_steps(session, monkeypatch):
    """Compiled networks and views, channels last, images resident; against none of it. Same views, float32.

    By SGD at a low rate: where a gradient is rounding alone Adam makes whole steps of it, in either path others, and a
    high rate amplifies the rounding."""
    losses = {}
    common = ("method=simsiam", "batch_size=143", "epochs=1", "monitor.every=0", "trainer.log_every_n_steps=1",
              "backbone.widths=[16,32]", "optimizer=sgd", "optimizer.lr=0.03", "optimizer.warmup_epochs=0")  # fmt: skip
    fast = session(*common, "compile=true", "augment.compiled=true", folder="fast")
    fast.fit()
    monkeypatch.setattr("siamese.session.channels_last", lambda network: network)
    plain = session(*common, "compile=false", "augment.compiled=false", "data.resident=false", folder="plain")
    plain.fit()
    for run in (fast, plain):
        losses[run] = [float(row["loss"]) for row in rows_of(run.folder / "metrics.csv") if row["loss"]]
    assert len(losses[fast]) == 10
    assert losses[fast] == pytest.approx(losses[plain], abs=1e-5)
    weights = [next(run.method.backbone.parameters()) for run in (fast, plain)]
    assert weights[0].is_contiguous(memory_format=torch.channels_last)
    assert not weights[1].is_contiguous(memory_format=torch.channels_last)
    assert list(fast.method.state_dict()) == list(plain.method.state_dict())


@pytest.mark.parametrize(
    ("gpu", "devices", "compiled", "precision"),
    [(False, 1, False, "32-true"), (True, 1, True, "bf16-mixed"), (True, 8, False, "bf16-mixed")],
)
def test_what_auto_means(config, monkeypatch, gpu, devices, compiled, precision):
    cfg = config(f"trainer.devices={devices}")
    assert cfg.compile == cfg.trainer.precision == "auto"
    monkeypatch.setattr(build, "on_gpu", lambda cfg: gpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **k: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "triton" or None)
    build.choose(cfg)
    assert cfg.compile is compiled
    assert cfg.trainer.precision == precision
    given = config("compile=false", "trainer.precision=32-true")
    build.choose(given)
    assert given.compile is False
    assert given.trainer.precision == "32-true"


def test_accumulation_says_what_it_cannot_imitate(session, capsys):
    session("trainer.accumulate_grad_batches=2")
    assert "BatchNorm and negatives of a batch see one micro-batch each" in capsys.readouterr().out
