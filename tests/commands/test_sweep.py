"""train.py -m: launchers, interruptions, searches, failures."""

import contextlib
import csv
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml
from runs import SHORT, differences, kill_all, start, wait_for
from sweep.sweep_cases import files

from siamese.checkpoints.reading import load

TIMES = ("seconds", "train_seconds", "images_per_second", "peak_memory_mb")


def figures(folder):
    """What the trials of a sweep have reached, without times and memory."""
    return [{k: v for k, v in (t["summary"] or {}).items() if k not in TIMES} for t in files(folder)]


@pytest.mark.slow
def test_sweep_continues_after_a_failed_trial(command, tiny, tmp_path):
    done = command("train.py", "-m", *tiny, "method=simclr,moco", "seed=0,1", "method.temperature=-1,0.5")
    assert done.returncode == 1, done.stderr
    (folder,) = tmp_path.glob("outputs/sweeps/*")
    trials = files(folder)
    assert len(trials) == 8
    failed = [t for t in trials if t["error"]]
    assert len(failed) == 4
    assert all("method.temperature=-1" in t["error"] for t in failed)
    assert done.stdout.count("\nfailed: ") == 4
    assert sorted(p.name for p in folder.glob("0*")) == [f"{t['number']:02d}" for t in trials if not t["error"]]
    assert "mean ± half of the 95 % interval over seeds" in done.stdout
    assert len(list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))) == 4
    assert json.loads((folder / "sweep.json").read_text())["finished"] is False  # the next start tries them again


def test_trials_have_subfolders_of_run_dir(command, tiny, tmp_path):
    arguments = ("seed=0,1", "run_dir=here", "monitor.every=0")
    done = command("train.py", "-m", *tiny, *arguments)
    assert done.returncode == 0, done.stderr
    for trial in ("00", "01"):
        assert (tmp_path / "here" / trial / "checkpoints" / "last.ckpt").is_file()
    second = command("train.py", "-m", *tiny, *arguments)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count(": is done") == 2
    other = command("train.py", "-m", *tiny, "seed=0,1,2", "run_dir=here")
    assert other.returncode == 2
    assert other.stderr.startswith("error: run_dir=here: holds another sweep")


@pytest.mark.slow
def test_killed_sweep_goes_on_bit_by_bit(command, tmp_path):
    """By the same command, without a folder named; killed in the second of three trials."""
    trials = ("-m", *SHORT, "epochs=4", "seed=0,1,2")
    part = start(trials, tmp_path)
    wait_for(part, lambda: list(tmp_path.glob("outputs/sweeps/*/01/checkpoints/last.ckpt")))
    kill_all(part)
    done = command("train.py", *trials, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/sweeps/*")
    assert "it continues, 1 are done" in done.stdout
    assert done.stdout.count("is done\n") == 1
    whole = command("train.py", *trials, "run_dir=whole", OMP_NUM_THREADS="1")
    assert whole.returncode == 0, whole.stderr
    assert figures(folder) == figures(tmp_path / "whole")
    for number in ("00", "01", "02"):
        both = (load(f / number / "checkpoints" / "last.ckpt") for f in (folder, tmp_path / "whole"))
        assert differences(*both) == []


@pytest.mark.slow
def test_joblib_gives_the_figures_of_one_after_the_other(command, tiny, tmp_path):
    """With the threads of a trial fixed; else a trial alone takes them all, whose sums round differently."""
    trials = ("-m", *tiny, "seed=0,1", "method=moco")
    for folder, launcher in (("one", []), ("two", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])):
        done = command("train.py", *trials, *launcher, f"run_dir={folder}", OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
    assert "2 at a time" in done.stdout
    assert figures(tmp_path / "two") == figures(tmp_path / "one")
    logs = sorted((tmp_path / "two" / "trials").glob("*.log"))
    assert ["run folder: two/" in log.read_text() for log in logs] == [True, True]
    assert "run folder: two/" not in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl and /proc")
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_sweep_side_by_side_that_is_stopped_leaves_no_process(command, tmp_path, signum):
    """SIGKILL reaches the sweep alone, as the system's; then the trials save their last step. At a Ctrl-C joblib kills
    them, and they go on from their last checkpoint."""
    trials = ("-m", *SHORT, "seed=0,1", "epochs=200", "run_dir=s", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = start(trials, tmp_path)
    files = [tmp_path / "s" / number / "checkpoints" / "last.ckpt" for number in ("00", "01")]
    wait_for(process, lambda: all(f.exists() for f in files))
    (os.kill if signum == signal.SIGKILL else os.killpg)(process.pid, signum)
    process.communicate(timeout=60)
    assert process.returncode == (130 if signum == signal.SIGINT else -9)
    until = time.monotonic() + 30
    while (left := members(process.pid)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
    for file in files:
        load(file)
        if signum == signal.SIGKILL:
            assert json.loads((file.parents[1] / "summary.json").read_text())["finished"] is False


def members(group):
    """Processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_joblib_whose_worker_is_killed_says_how_to_go_on(command, tiny, tmp_path):
    """Through a callback that kills its process, as the system does where memory is short."""
    (tmp_path / "killer.py").write_text(
        "import os, signal\n"
        "from pytorch_lightning import Callback\n"
        "class Kill(Callback):\n"
        "    def on_train_epoch_start(self, trainer, module):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    trials = ("-m", *tiny, "seed=0,1", *joblib, "+callbacks.kill._target_=killer.Kill")
    done = command("train.py", *trials, PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert done.returncode == 1
    assert "the sweep has ended early (TerminatedWorkerError" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_submitit_runs_a_trial_on_two_devices(command, tiny, tmp_path):
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    small = [o for o in tiny if o != "trainer=cpu"]
    done = command("train.py", "-m", *small, *two, "hydra/launcher=submitit_local", "seed=0", "run_dir=s",
                   OMP_NUM_THREADS="1")  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    (trial,) = files(tmp_path / "s")
    alone = command("train.py", *small, *two, "run_dir=alone", OMP_NUM_THREADS="1")
    assert alone.returncode == 0, alone.stderr
    expected = json.loads((tmp_path / "alone" / "summary.json").read_text())
    for name in ("knn_top1", "linear_top1", "steps"):
        assert trial["summary"][name] == expected[name]


def test_several_devices_need_a_launcher_that_starts_them(command, tiny):
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    done = command("train.py", "-m", *tiny[:-1], *two, "seed=0")
    assert done.returncode == 1
    assert "trainer.devices=2: a sweep's launcher starts one process a trial" in done.stdout


@pytest.mark.slow
def test_search_goes_on_as_if_it_had_not_been_interrupted(command, tiny, tmp_path):
    search = ("-m", "sweep=simclr", *tiny, "epochs=3", "hydra.sweeper.n_trials=5", "run_dir=s", "method.hidden_dim=32",
              "hydra.sweeper.sampler.n_startup_trials=1", "callbacks.pruning.startup_trials=1")  # fmt: skip
    whole = command("train.py", *search, OMP_NUM_THREADS="1")
    assert whole.returncode == 0, whole.stderr
    before = files(tmp_path / "s")
    rates = [float(next(o for o in t["overrides"] if o.startswith("optimizer.lr=")).partition("=")[2]) for t in before]
    assert len(set(rates)) == 5
    assert all(0.001 <= rate <= 0.1 for rate in rates)
    best = max(t["summary"]["linear_top1"] for t in before)
    assert f"{100 * best:.2f}" in whole.stdout
    expected, table = figures(tmp_path / "s"), whole.stdout.partition("sweep: validation")[2]
    for number in (3, 4):  # as if the search had been killed after three trials
        (tmp_path / "s" / "trials" / f"{number:04d}.json").unlink()
        shutil.rmtree(tmp_path / "s" / f"{number:02d}")
    again = command("train.py", *search, OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is done\n") == 3
    assert figures(tmp_path / "s") == expected
    assert [t["overrides"] for t in files(tmp_path / "s")] == [t["overrides"] for t in before]
    assert table.partition("best: ")[2].splitlines()[0] in again.stdout
    line = next(line for line in again.stdout.splitlines() if line.startswith("train it: "))
    assert "experiment=best" in line


@pytest.mark.slow
def test_trial_that_now_has_other_settings_runs_anew(command, tiny, tmp_path):
    """A trial that failed succeeds at the next start, so the search proposes others for the later numbers; their run
    folders hold runs of the old ones."""
    search = ("-m", "sweep=simclr", *tiny, "hydra.sweeper.n_trials=3", "run_dir=s", "method.hidden_dim=32",
              "hydra.sweeper.sampler.n_startup_trials=1", "callbacks=none")  # fmt: skip
    (tmp_path / "s").mkdir()
    start = {"overrides": [], "sweeper": [], "trials": 1, "at_a_time": 1, "finished": False}
    (tmp_path / "s" / "sweep.json").write_text(json.dumps(start))
    (tmp_path / "s" / "00").write_text("in the way")
    first = command("train.py", *search, OMP_NUM_THREADS="1")
    assert first.returncode == 1, first.stderr
    (tmp_path / "s" / "00").unlink()
    second = command("train.py", *search, OMP_NUM_THREADS="1")
    assert second.returncode == 0, second.stderr
    for trial in files(tmp_path / "s"):
        ran = yaml.safe_load((tmp_path / "s" / f"{trial['number']:02d}" / "config.yaml").read_text())
        rate = next(o for o in trial["overrides"] if o.startswith("optimizer.lr="))
        assert float(rate.partition("=")[2]) == ran["optimizer"]["lr"]


def test_mistake_leaves_no_folder(command, tiny, tmp_path):
    for words in (["optimizer.lrr=0.1,0.2"], ["method=byol", "sweep=simclr"], ["mode=check", "seed=0,1"]):
        done = command("train.py", "-m", *tiny, *words, "run_dir=t")
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "t").exists()
        assert not (tmp_path / "outputs").exists()


def test_table_that_cannot_be_written_is_one_line(command, tiny, tmp_path):
    (tmp_path / "s" / "trials").mkdir(parents=True)
    start = {"overrides": [], "sweeper": [], "trials": 1, "at_a_time": 1, "finished": False}
    (tmp_path / "s" / "sweep.json").write_text(json.dumps(start))
    (tmp_path / "s" / "sweep.csv" / "x").mkdir(parents=True)
    done = command("train.py", "-m", *tiny, "optimizer.lr=-1,-2", "run_dir=s")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "sweep.csv" in done.stderr
    assert "Traceback" not in done.stderr


def test_search_whose_trials_all_fail_ends_with_one_line(command, tiny):
    done = command("train.py", "-m", "sweep=simclr", *tiny, "hydra.sweeper.n_trials=2", "batch_size=5000")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: every trial failed"
    assert done.stdout.count("\nfailed: ") == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("setting", ["hydra/launcher=joblib", "hydra/launcher=submitit_local", "hydra/sweeper=optuna",
                                     "sweep=simclr"])  # fmt: skip
def test_missing_extra_is_named(command, tiny, tmp_path, setting):
    """With the plugins hidden, as without the extra."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('hydra_plugins', 'optuna', 'submitit'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    paths = os.pathsep.join([str(tmp_path / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = command("train.py", "-m", *tiny, setting, "seed=0,1", PYTHONPATH=paths)
    assert done.returncode == 2, done.stderr
    assert "pip install siamese-ssl[sweep]" in done.stderr
    assert done.stderr.startswith(f"error: {setting}: ")
    assert not (tmp_path / "outputs").exists()


def test_pruning_without_a_search_is_refused(command, tiny, tmp_path):
    done = command("train.py", *tiny, "callbacks=pruning")
    assert done.returncode == 2
    assert "callbacks.pruning: only a trial of a search can be ended early" in done.stderr
    assert not (tmp_path / "outputs").exists()
