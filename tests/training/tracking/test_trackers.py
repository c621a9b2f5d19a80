"""What wandb, TensorBoard and MLflow get of a run, read back from their files and compared with metrics.csv."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import yaml
from PIL import Image
from runs import STEPS, interrupt, rows_of
from tracker_files import mlflow_client, tensorboard_reader, wandb_history, wandb_records, wandb_run, wandb_runs

from siamese.checkpoints.reading import KEY, load

ALL = ("logger=[wandb,tensorboard,mlflow]", "callbacks=lr_monitor", "epochs=2", "trainer.log_every_n_steps=3")
LATER = ("resume=true", "epochs=3")
CLOSING = ("knn_top1", "linear_top1", "linear_top1_1_label", "linear_top1_10_labels")


class FailAt(pl.Callback):
    """Ends the run at batch `at`, behind its checkpoint."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.at:
            raise RuntimeError("killed")


def complete(run):
    run.fit()
    run.run.finish()
    run.run.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run in four sittings: ended by a signal, by a crash behind its checkpoint, complete, and an epoch more."""
    from conftest import TINY, StartedRun
    from hydra import compose, initialize_config_dir
    from paths import ROOT

    where = tmp_path_factory.mktemp("tracked") / "run"

    def started(*overrides):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", overrides=[*TINY, *ALL, f"run_dir={where}", *overrides])
        made = StartedRun(cfg)
        made.start()
        return made

    run = started()
    interrupt(run, at=10)
    run.run.close()
    run = started("resume=true")
    run.trainer.callbacks.insert(0, FailAt(STEPS + 9))  # the checkpoint is the first epoch's
    with pytest.raises(RuntimeError, match="killed"):
        run.fit()
    run.run.close()
    complete(started("resume=true"))
    complete(started(*LATER))
    return where


def expected(folder):
    """(step, name) -> value of metrics.csv. The closing table repeats figures of the last evaluation."""
    out = {}
    for row in rows_of(folder / "metrics.csv"):
        for name, value in row.items():
            if name not in ("step", "epoch") and value:
                out.setdefault((int(row["step"]), name), float(value))
    return out


def timeless(values):
    """Without figures that depend on the clock: the crashed sitting's are not those of its repetition."""
    return {key: value for key, value in values.items() if key[1] != "images_per_second"}


def test_rows_to_compare(folder):
    found = expected(folder)
    losses = [step for step, name in found if name == "loss"]
    assert losses == sorted(set(losses)) and len(losses) == 3 * STEPS // 3
    assert {name for _, name in found} >= {
        "loss",
        "lr",
        "lr-AdamW/pg1",
        "online_linear_top1",
        "images_per_second",
        *CLOSING,
    }


def test_wandb_has_each_row_once(folder):
    rows = [row for file in wandb_runs(folder) for row in wandb_history(file)]
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))
    found = {}
    for row in rows:
        for name, value in row.items():
            if not name.startswith("_") and name not in ("epoch", "trainer/global_step", "views", "closing_table"):
                found.setdefault((row["trainer/global_step"], name), value)
    assert timeless(found) == timeless(expected(folder))
    epochs = [row["epoch"] for row in rows]
    assert epochs == sorted(epochs)
    losses = [row for row in rows if "loss" in row]
    assert all(math.isclose(row["epoch"] * STEPS, row["trainer/global_step"] + 1) for row in losses)


def test_wandb_is_one_run_with_config_tags_picture_and_table(folder):
    files = wandb_runs(folder)
    runs = [wandb_run(file) for file in files]
    run_id = load(folder / "checkpoints" / "last.ckpt")[KEY]["run_id"]
    assert len(runs) == 4 and {run.run_id for run in runs} == {run_id}
    assert list(runs[0].tags) == ["simsiam", "digits", "small"]
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update if item.key != "_wandb"}
    told = yaml.safe_load((folder / "config.yaml").read_text())
    assert {k: v for k, v in config.items() if k not in ("epochs", "resume")} == {
        k: v for k, v in told.items() if k not in ("epochs", "resume")
    }
    metric = [r.metric for r in wandb_records(files[0]) if r.WhichOneof("record_type") == "metric"]
    assert [m.step_metric for m in metric if m.glob_name == "*"][-1] == "epoch"
    (picture,) = folder.glob("wandb/*/files/media/images/views*.png")
    with Image.open(picture) as sent, Image.open(folder / "views.png") as made:
        np.testing.assert_array_equal(np.asarray(sent), np.asarray(made))
    last = files[-1].parent / "files" / wandb_history(files[-1])[-1]["closing_table"]["path"]
    table = json.loads(last.read_text())
    check_table(table["columns"], table["data"], folder)


def check_table(columns, rows, folder):
    summary = json.loads((folder / "summary.json").read_text())
    told = {**summary["baselines"], "simsiam": summary}
    assert [row[0] for row in rows] == ["raw_pixels", "random_init", "simsiam"]
    assert columns[0] == "features" and set(CLOSING) < set(columns)
    for name, *values in rows:
        assert [float(v) for v in values] == [told[name][key] for key in columns[1:]]


def test_tensorboard_shows_each_step_once(folder):
    reader = tensorboard_reader(folder)
    wanted = expected(folder)
    names = {name for _, name in wanted}
    assert names | {"epoch"} == set(reader.Tags()["scalars"])
    for name in sorted(names):
        points = reader.Scalars(name)
        steps = [p.step for p in points]
        assert steps == sorted(set(steps)), name
        assert steps == [step for step, one in wanted if one == name], name
        values = [wanted[step, name] for step in steps]
        np.testing.assert_allclose([p.value for p in points], values, rtol=1e-6, err_msg=name)
    for point in reader.Scalars("epoch"):
        assert math.isclose(point.value * STEPS, point.step, rel_tol=1e-6, abs_tol=1e-6)


def test_tensorboard_has_config_picture_and_table(folder):
    reader = tensorboard_reader(folder)
    config = reader.Tensors("config/text_summary")
    texts = [event.tensor_proto.string_val[0].decode() for event in config]
    told = yaml.safe_load((folder / "config.yaml").read_text())
    assert yaml.safe_load(texts[-1].strip("`").removeprefix("yaml")) == told
    (picture,) = reader.Images("views")
    with Image.open(folder / "views.png") as image:
        assert (picture.width, picture.height) == image.size
    table = reader.Tensors("closing_table/text_summary")[-1].tensor_proto.string_val[0].decode()
    columns, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    check_table(columns, rows, folder)
    assert "_hparams_/session_start_info" in reader.summary_metadata
    assert yaml.safe_load((folder / "tensorboard" / "hparams.yaml").read_text()) == told


def test_mlflow_has_each_step_once(folder):
    pytest.importorskip("mlflow")
    client = mlflow_client(folder)
    (experiment,) = client.search_experiments(filter_string="name = 'siamese'")
    (run,) = client.search_runs([experiment.experiment_id])
    found = {
        (point.step, name): point.value
        for name in run.data.metrics if name != "epoch"
        for point in client.get_metric_history(run.info.run_id, name)
    }  # fmt: skip
    assert timeless(found) == timeless(expected(folder))
    for name in run.data.metrics:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        assert len(steps) == len(set(steps)), name


def test_mlflow_has_config_tags_picture_and_table(folder):
    pytest.importorskip("mlflow")
    client = mlflow_client(folder)
    (run,) = client.search_runs([client.get_experiment_by_name("siamese").experiment_id])
    assert run.info.status == "FINISHED"
    assert {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.runName")} == {
        "siamese.run_id": load(folder / "checkpoints" / "last.ckpt")[KEY]["run_id"],
        "method": "simsiam", "data": "digits", "backbone": "small",
    }  # fmt: skip
    assert run.data.params["method/name"] == "simsiam" and run.data.params["batch_size"] == "64"
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert artifacts.is_relative_to(folder / "mlflow" / "artifacts")
    told = yaml.safe_load((folder / "config.yaml").read_text())
    assert yaml.safe_load((artifacts / "config.yaml").read_text()) == told
    assert (artifacts / "views.png").is_file()
    with (artifacts / "closing_table.csv").open(newline="") as stream:
        columns, *rows = csv.reader(stream)
    check_table(columns, rows, folder)
