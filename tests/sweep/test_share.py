"""How many trials run side by side, and what each takes."""

import os

import pytest
from omegaconf import OmegaConf
from sweep.test_folder import swept  # noqa: F401

from siamese import processors
from siamese.errors import UserError
from siamese.sweep import share


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Eight cores and no GPU; what a test changes in the environment is undone."""
    for name in (*share.THREADS, share.AT_A_TIME, share.GPUS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(share, "cores", lambda: 8)
    monkeypatch.setattr(share, "gpus", list)


JOBLIB, LOCAL, SLURM = (f"hydra/launcher={name}" for name in ("joblib", "submitit_local", "submitit_slurm"))


def overridden(config, name):
    return [o.partition("=")[2] for o in config.hydra.overrides.hydra if o.startswith(f"++{name}=")]


@pytest.mark.parametrize(("hydra", "task", "count"), [
    ([], ["seed=0,1,2"], 1),
    ([JOBLIB], ["seed=0,1,2"], 3),
    ([JOBLIB], ["seed=range(0,4)", "method=moco,byol,simclr"], 8),
    ([JOBLIB, "hydra.launcher.n_jobs=2"], ["seed=0,1,2"], 2),
    ([LOCAL], ["seed=0,1,2"], 3),
    ([SLURM], ["seed=range(0,300)"], 256),
    ([JOBLIB, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4"], ["optimizer.lr=interval(0.1,1)"], 4),
])  # fmt: skip
def test_trials_at_a_time(swept, hydra, task, count):  # noqa: F811
    assert share.at_a_time(swept(hydra=hydra, task=task)) == count


def test_threads_are_shared(swept):  # noqa: F811
    assert share.deal(swept(hydra=[JOBLIB], task=["seed=0,1,2"]), None) == 3
    assert [os.environ[name] for name in share.THREADS] == ["2"] * 3
    assert share.side_by_side() == 3


def test_threads_that_were_set_stay(swept):  # noqa: F811
    os.environ["OMP_NUM_THREADS"] = "1"
    share.deal(swept(hydra=[JOBLIB]), None)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_one_after_the_other_shares_nothing(swept):  # noqa: F811
    share.deal(swept(), None)
    assert "OMP_NUM_THREADS" not in os.environ
    assert share.side_by_side() == 1


def test_search_is_seeded_maximises_and_survives_failures(swept):  # noqa: F811
    config = swept("seed=7", hydra=["hydra/sweeper=optuna"])
    share.deal(config, None)
    sweeper = config.hydra.sweeper
    assert (sweeper.n_jobs, sweeper.max_failure_rate, sweeper.sampler.seed) == (1, 1.0, 7)
    assert str(sweeper.direction).endswith("maximize")
    assert overridden(config, "hydra.sweeper.n_jobs") == ["1"]


def test_search_keeps_what_was_typed_and_its_earlier_width(swept):  # noqa: F811
    typed = ["hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=3", "hydra.sweeper.direction=minimize", JOBLIB]
    config = swept(hydra=typed)
    assert share.deal(config, wanted=5) == 5
    assert (config.hydra.sweeper.n_jobs, config.hydra.sweeper.sampler.seed) == (5, 3)
    assert str(config.hydra.sweeper.direction).endswith("minimize")


def test_local_jobs_come_in_batches_and_are_not_ended_after_an_hour(swept):  # noqa: F811
    config = swept(hydra=[LOCAL], task=["seed=range(0,20)"])
    assert share.deal(config, None) == 8
    assert config.hydra.sweeper.max_batch_size == 8
    assert config.hydra.launcher.timeout_min == share.DAYS_30


def test_each_gpu_has_a_trial(swept, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(share, "gpus", lambda: ["0", "3"])
    monkeypatch.setattr(share, "_held", [])
    assert share.deal(swept(hydra=[JOBLIB], task=["seed=range(0,20)"]), None) == 2
    share.take_gpu(tmp_path)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    share.take_gpu(tmp_path)  # the next trial of this process keeps it
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    held, share._held[:] = list(share._held), []  # another process
    share.take_gpu(tmp_path)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    for file in [*held, *share._held]:
        file.close()


def in_a_job_of_submitit(monkeypatch):
    """submitit's local executor sets CUDA_VISIBLE_DEVICES to nothing where gpus_per_node is not given."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    monkeypatch.setattr(share, "gpus", processors.gpus)


def test_submitit_hides_no_gpu_from_a_trial(swept, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(share, "gpus", lambda: ["0", "3"])
    monkeypatch.setattr(share, "_held", [])
    assert share.deal(swept(hydra=[LOCAL], task=["seed=range(0,20)"]), None) == 2
    in_a_job_of_submitit(monkeypatch)
    share.take_gpu(tmp_path)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    share._held[0].close()


def test_submitit_hides_no_gpu_from_a_trial_on_several(swept, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(share, "gpus", lambda: ["0", "3"])
    assert share.deal(swept("trainer=ddp", "trainer.devices=2", hydra=[LOCAL]), None) == 1
    in_a_job_of_submitit(monkeypatch)
    share.take_gpu(tmp_path)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,3"


def test_a_sweep_without_gpus_gives_none(swept, monkeypatch, tmp_path):  # noqa: F811
    share.deal(swept(hydra=[LOCAL], task=["seed=range(0,20)"]), None)
    in_a_job_of_submitit(monkeypatch)
    share.take_gpu(tmp_path)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_trial_on_a_cpu_takes_cores_though_there_are_gpus(swept, monkeypatch):  # noqa: F811
    monkeypatch.setattr(share, "gpus", lambda: ["0", "3"])
    assert share.at_a_time(swept("trainer=cpu", hydra=[JOBLIB], task=["seed=range(0,20)"])) == 8


def test_several_devices_are_tasks_of_submitit(swept):  # noqa: F811
    config = swept("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", hydra=[LOCAL])
    assert share.deal(config, None) == 1
    assert config.hydra.launcher.tasks_per_node == 2
    with pytest.raises(UserError, match="tasks_per_node=3: trainer.devices=2 needs a task each"):
        share.deal(swept("trainer.devices=2", hydra=[SLURM, "hydra.launcher.tasks_per_node=3"]), None)


@pytest.mark.parametrize(("hydra", "told"), [
    ([JOBLIB, "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: is not a number of trials"),
    ([JOBLIB, "hydra.launcher.n_jobs=-2"], "hydra.launcher.n_jobs=-2: is not a number of trials"),
    (["hydra/sweeper=optuna", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: is not a number of trials"),
    (["hydra/sweeper=optuna", "hydra.sweeper.storage=sqlite:///x"], "hydra.sweeper.storage=sqlite:///x: the folder"),
])  # fmt: skip
def test_impossible_settings_are_refused(swept, hydra, told):  # noqa: F811
    with pytest.raises(UserError, match=told):
        share.check(swept(hydra=hydra))


def test_width_of_a_search_in_a_file_stays(swept):  # noqa: F811
    config = swept(hydra=["hydra/sweeper=optuna"])
    OmegaConf.set_readonly(config.hydra, False)
    config.hydra.sweeper.n_jobs, config.hydra.sweeper.max_failure_rate = 3, 0.5
    assert share.deal(config, None) == 3
    assert config.hydra.sweeper.max_failure_rate == 0.5


def test_loader_workers_share_the_cores(config):
    cfg = config()
    cfg.data.workers = 8
    os.environ[share.AT_A_TIME] = "4"
    share.loader_workers(cfg, ["method=moco"])
    assert cfg.data.workers == 2
    cfg.data.workers = 8
    share.loader_workers(cfg, ["data.workers=8"])
    assert cfg.data.workers == 8
