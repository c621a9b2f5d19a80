"""The group `logger`: mistakes, failures, secrets, the checkpoint as an artifact, groups of sweeps."""

import base64
import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
from runs import rows_of
from tracker_files import tensorboard_reader, wandb_records, wandb_run, wandb_runs

from siamese.errors import UserError
from siamese.training import build, check, tracking

KEY = "5ec4e7" * 6 + "abcd"  # of 40 characters, as wandb's are
NO_LOGIN = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "NETRC": "none", "WANDB_SILENT": "true"}


def test_wandb_without_an_account_is_one_line(command, tiny, tmp_path):
    home = {"HOME": str(tmp_path / "home"), "WANDB_CONFIG_DIR": str(tmp_path / "home")}
    done = command("train.py", *tiny, "logger=wandb", "run_dir=r", **NO_LOGIN, **home)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: logger=wandb: wandb has no account")
    assert "WANDB_MODE=offline" in done.stderr and "wandb login" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists() and not (tmp_path / "wandb").exists()


@pytest.mark.parametrize(
    ("logger", "package", "told"),
    [
        ("mlflow", "mlflow", r"^logger=mlflow: mlflow is not installed; pip install 'siamese-ssl\[mlflow\]'$"),
        ("mlflow", "alembic", r"^logger=mlflow: a local database needs alembic; pip install 'siamese-ssl\[mlflow\]'$"),
        ("wandb", "wandb", "^logger=wandb: wandb is not installed; pip install wandb$"),
    ],
)
def test_missing_package_is_one_line(config, monkeypatch, logger, package, told):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else find("json"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=told):
        tracking.check(config(f"logger={logger}"))


def test_checkpoint_with_a_secret_is_not_sent(config):
    with pytest.raises(
        UserError, match=r"^logger.wandb.log_model=true: the checkpoint holds logger.wandb.settings.api"
    ):
        tracking.check(config("logger=wandb", "logger.wandb.log_model=true", f"+logger.wandb.settings.api_key={KEY}"))


def test_server_that_refuses_ends_the_run_before_its_config(session, tmp_path, monkeypatch):
    import wandb

    def refuse(**arguments):
        raise wandb.Error("no such project\nat all")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=r"^logger=wandb: cannot be started \(no such project at all\); .*WANDB_MODE"):
        session("logger=wandb")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_tracker_that_fails_later_is_one_line_and_the_run_goes_on(session, tmp_path, capsys):
    run = session("logger=tensorboard")
    _, tracker = run.trainer.loggers
    monkey = tracker.logger.log_metrics

    def full(metrics, step=None):
        if "loss" in metrics:
            raise OSError(28, "No space left on device")
        monkey(metrics, step)

    tracker.logger.log_metrics = full
    run.fit()
    run.finish()
    run.run.close()
    out = capsys.readouterr().out
    assert out.count("logger=tensorboard failed ([Errno 28] No space left on device); the run goes on without it") == 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"]
    assert any(row["linear_top1"] for row in rows_of(tmp_path / "run" / "metrics.csv"))


def test_no_secret_is_written(command, tiny, tmp_path):
    """Neither of the environment, the command line nor the settings, and nothing about machine and user."""
    needs = [*("wandb", "tensorboard"), *(["mlflow"] if importlib.util.find_spec("mlflow") else [])]
    words = [f"+logger.wandb.settings.api_key={KEY}", f"logger=[{','.join(needs)}]", "run_dir=r"]
    environment = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MY_TOKEN": "hunter2-in-the-environment"}
    done = command("train.py", *tiny, *words, USER="sneaky-user", LOGNAME="sneaky-user", **environment)
    assert done.returncode == 0, done.stderr
    files = [f for name in needs for f in (tmp_path / "r" / name).rglob("*") if f.is_file() and not f.is_symlink()]
    assert len(files) >= 5
    for secret in (KEY, "hunter2-in-the-environment", "sneaky-user", "--cfg"):
        assert not [f for f in files if secret.encode() in f.read_bytes()], secret
    names = {f.name for f in files}
    assert not names & {"wandb-metadata.json", "requirements.txt", "output.log", "diff.patch", "conda-environment.yaml"}
    (file,) = wandb_runs(tmp_path / "r")
    kinds = {r.WhichOneof("record_type") for r in wandb_records(file)}
    assert not kinds & {"output", "output_raw", "environment"}, kinds
    config = {item.key: json.loads(item.value_json) for item in wandb_run(file).config.update}
    assert config["logger"]["wandb"]["settings"] == {"api_key": "(hidden)"}


def test_checkpoint_as_an_artifact(session, tmp_path):
    run = session("logger=wandb", "logger.wandb.log_model=true")
    run.fit()
    run.finish()
    run.run.close()
    (file,) = wandb_runs(tmp_path / "run")
    artifacts = [
        r.request.log_artifact.artifact if r.WhichOneof("record_type") == "request" else r.artifact
        for r in wandb_records(file) if r.WhichOneof("record_type") == "artifact"
    ]  # fmt: skip
    models = [a for a in artifacts if a.type == "model"]
    assert [a.name for a in models] == [f"model-{run.run_id}"]
    (entry,) = models[0].manifest.contents
    saved = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert entry.path == "last.ckpt"
    assert Path(entry.local_path).parent == file.parent  # and not in the user's own folder
    assert Path(entry.local_path).read_bytes() == saved.read_bytes()
    assert entry.digest == base64.b64encode(hashlib.md5(saved.read_bytes()).digest()).decode()


def test_sweep_is_a_group_with_tags(command, tiny, tmp_path):
    words = ("-m", *tiny, "seed=0,1", "monitor.every=0", "logger=[wandb,tensorboard]")
    done = command("train.py", *words, "run_dir=sweeps/rates", WANDB_MODE="offline", WANDB_SILENT="true")
    assert done.returncode == 0, done.stderr
    for trial, seed in (("00", "seed=0"), ("01", "seed=1")):
        (file,) = wandb_runs(tmp_path / "sweeps" / "rates" / trial)
        run = wandb_run(file)
        assert run.run_group == "rates"
        assert {"simsiam", "digits", "small", seed} <= set(run.tags)
        assert "linear_top1" in tensorboard_reader(tmp_path / "sweeps" / "rates" / trial).Tags()["scalars"]


def test_settings_of_ours_reach_the_trackers(config, tmp_path):
    plan = check(config(f"run_dir={tmp_path / 'r'}", "logger=wandb", "logger.wandb.tags=[a,b]", "logger.wandb.group=g",
                        "logger.wandb.name=n", "trainer=cpu"))  # fmt: skip
    training = build(plan)
    connected = tracking.connect(plan.cfg, tmp_path, training.run_id, 5, None, print)
    connected.close("finished")
    (file,) = wandb_runs(tmp_path)
    run = wandb_run(file)
    assert (list(run.tags), run.run_group, run.display_name, run.project) == (["a", "b"], "g", "n", "siamese")
