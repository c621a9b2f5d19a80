"""The folder of a sweep: chosen, locked, found again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from paths import ROOT

from siamese.errors import UserError
from siamese.sweep import folder


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """The config of a sweep, as Hydra's callback receives it."""
    monkeypatch.chdir(tmp_path)

    def make(*overrides, hydra=(), task=None):
        """`task`: settings with several values, which the composed config does not hold."""
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", overrides=["hydra.mode=MULTIRUN", *hydra, *overrides], return_hydra_config=True)
        cfg.hydra.overrides.task = [*overrides, *(task or ["seed=0,1"])]
        cfg.hydra.overrides.hydra = ["hydra.mode=MULTIRUN", *hydra]
        return cfg

    return make


HOLDS = """
import sys
from pathlib import Path
from pathlib import Path
from siamese.files import FolderLock
FolderLock(Path(sys.argv[1]), "x")
print("held", flush=True)
input()
"""  # in another process, since record locks do not exclude their own


def begun(config, finished=False):
    """The folder of a sweep that a process chose and left."""
    found = folder.choose(config)
    found.write(2, finished)
    found.lock.release()
    return found.path


def test_same_command_finds_its_interrupted_sweep(swept):
    first = begun(swept("method=moco"))
    again = folder.choose(swept("method=moco"))
    assert (again.path, again.continued, again.at_a_time) == (first, True, 2)
    again.lock.release()


@pytest.mark.parametrize("other", [{"task": ["seed=0,1,2"]}, {"hydra": ["hydra/sweeper=optuna"]}])
def test_other_command_is_another_sweep(swept, other):
    first = begun(swept("method=moco"))
    assert begun(swept("method=moco", **other)) != first


def test_launcher_and_length_of_a_search_may_change(swept):
    search = ["hydra/sweeper=optuna"]
    first = begun(swept("method=moco", hydra=search))
    assert begun(swept("method=moco", hydra=[*search, "hydra.sweeper.n_trials=50", "hydra/launcher=joblib"])) == first
    assert begun(swept("method=moco", hydra=[*search, "hydra.sweeper.sampler.seed=5"])) != first


def test_finished_sweep_is_not_continued(swept):
    first = begun(swept("method=moco"), finished=True)
    assert begun(swept("method=moco")) != first


def test_sweep_in_use_is_not_continued(swept):
    config = swept("method=moco")
    first = begun(config)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(first)], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        assert begun(config) != first
        other.communicate("\n")


def test_run_dir_is_the_folder_and_goes_on_when_finished(swept, tmp_path):
    config = swept("method=moco", "run_dir=here")
    assert begun(config, finished=True).resolve() == tmp_path / "here"
    again = folder.choose(config)
    assert again.continued
    again.lock.release()


def test_run_dir_of_another_sweep_is_refused(swept):
    path = begun(swept("method=moco", "run_dir=here"))
    (path / "trials").mkdir()
    (path / "trials" / "0000.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"run_dir=here: holds another sweep \(method=moco seed=0,1\); add overwrite=true"
    ):
        folder.choose(swept("method=byol", "run_dir=here"))


def test_overwrite_removes_the_outcomes_and_nothing_else(swept, tmp_path):
    path = begun(swept("method=moco", "run_dir=here"))
    (path / "trials").mkdir()
    (path / "trials" / "0000.json").write_text("{}")
    (path / "notes.txt").write_text("mine")
    new = folder.choose(swept("method=byol", "run_dir=here", "overwrite=true"))
    new.lock.release()
    assert not new.continued
    assert not (path / "trials" / "0000.json").exists()
    assert (path / "notes.txt").read_text() == "mine"


def test_what_overwrite_replaces_comes_back_if_no_trial_begins(swept, tmp_path):
    """Hydra finds a mistake in a swept setting only after the folder was chosen."""
    path = begun(swept("method=moco", "run_dir=here"), finished=True)
    (path / "trials").mkdir()
    files = {"trials/0000.json": "{}", "sweep.csv": "a", "conf/experiment/best.yaml": "b", "sweep.json": None}
    (path / "conf" / "experiment").mkdir(parents=True)
    for name, text in files.items():
        if text is not None:
            (path / name).write_text(text)
    before = {name: (path / name).read_bytes() for name in files}
    new = folder.choose(swept("method=byol", "run_dir=here", "overwrite=true"))
    new.write(1, False)
    new.undo()
    assert {name: (path / name).read_bytes() for name in files} == before
    assert not (path / folder.REPLACED).exists()
    again = folder.choose(swept("method=byol", "run_dir=here", "overwrite=true"))
    assert (path / folder.REPLACED / "trials" / "0000.json").exists()
    folder.forget_replaced(path)  # a trial has begun
    again.undo()
    assert not (path / "sweep.csv").exists() and not (path / "trials" / "0000.json").exists()


def test_edited_option_among_the_swept_ones_is_another_sweep(swept, tmp_path, monkeypatch):
    (tmp_path / "own" / "method").mkdir(parents=True)
    monkeypatch.setattr(folder, "roots", lambda: [tmp_path / "own"])
    option = tmp_path / "own" / "method" / "moco.yaml"
    option.write_text("momentum: 0.9\n")
    task = ["method=simclr,moco"]
    path = begun(swept("run_dir=here", task=task))
    (path / "trials").mkdir()
    (path / "trials" / "0000.json").write_text("{}")
    assert begun(swept("run_dir=here", task=task)) == path
    option.write_text("momentum: 0.99\n")
    with pytest.raises(UserError, match="holds this sweep, but conf/ or the installed version has changed"):
        folder.choose(swept("run_dir=here", task=task))


@pytest.mark.parametrize(
    ("content", "what"), [("config.yaml", "already holds a run"), ("notes.txt", "holds other files")]
)
def test_folder_of_something_else_is_refused(swept, tmp_path, content, what):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / content).write_text("x")
    with pytest.raises(UserError, match=f"run_dir=here: {what}; choose another folder"):
        folder.choose(swept("run_dir=here"))


def test_several_run_dirs_are_refused(swept):
    with pytest.raises(UserError, match="run_dir=a,b: a sweep has one run_dir"):
        folder.choose(swept(task=["run_dir=a,b"]))
    with pytest.raises(UserError, match="a sweep has one run_dir"):
        folder.choose(swept("run_dir=y_${seed}", task=["seed=0,1"]))
    with pytest.raises(UserError, match=r"hydra.sweep.dir=x: run_dir=here says the same; give only one"):
        folder.choose(swept("run_dir=here", hydra=["hydra.sweep.dir=x"]))


@pytest.mark.parametrize(("given", "told"), [
    ("overwrite=no", "overwrite=no: is not a possible value"),
    ("resume=true", "resume=true overwrite=true: exclude each other"),
    ("epochs=-1", "epochs=-1: "),
])  # fmt: skip
def test_mistake_beside_overwrite_removes_nothing(swept, given, told):
    path = begun(swept("method=moco", "run_dir=here"), finished=True)
    (path / "trials").mkdir()
    (path / "trials" / "0000.json").write_text("{}")
    words = [given] if given.startswith("overwrite") else [given, "overwrite=true"]
    with pytest.raises(UserError, match=told):
        folder.choose(swept("method=moco", "run_dir=here", *words))
    assert (path / "trials" / "0000.json").exists()


def test_folder_without_a_trial_is_taken_over(swept):
    """As a mistake in the settings leaves it, if the process was killed there."""
    first = begun(swept("method=moco", "run_dir=here"))
    assert begun(swept("method=byol", "run_dir=here")) == first


def test_edited_conf_is_another_sweep(swept, tmp_path):
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    where = [f"hydra.searchpath=[file://{tmp_path / 'own'}]"]
    (own / "mine.yaml").write_text("# @package _global_\nepochs: 3\n")
    path = begun(swept("experiment=mine", "run_dir=here", hydra=where))
    (path / "trials").mkdir()
    (path / "trials" / "0000.json").write_text("{}")
    assert begun(swept("experiment=mine", "run_dir=here", hydra=where)) == path
    (own / "mine.yaml").write_text("# @package _global_\nepochs: 4\n")
    with pytest.raises(UserError, match="holds this sweep, but conf/ or the installed version has changed"):
        folder.choose(swept("experiment=mine", "run_dir=here", hydra=where))


def test_sweep_of_an_edited_conf_is_named_where_a_new_one_starts(swept, tmp_path):
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    where = [f"hydra.searchpath=[file://{tmp_path / 'own'}]"]
    (own / "mine.yaml").write_text("# @package _global_\nepochs: 3\n")
    done = begun(swept("experiment=mine", hydra=where), finished=True)
    first = begun(swept("experiment=mine", hydra=where))
    (own / "mine.yaml").write_text("# @package _global_\nepochs: 4\n")
    new = folder.choose(swept("experiment=mine", hydra=where))
    assert new.path not in (done, first)
    assert (new.outdated, new.continued) == (first, False)
    assert folder.choose(swept("method=moco")).outdated is None  # another command
    new.lock.release()


def test_glob_over_options_is_one_sweep(swept):
    """Hydra reads it where it runs, as the callback does."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        names = folder._swept_options(["method=glob(sim*)", "seed=0,1", "optimizer.lr=0.1,0.2"])
    assert sorted(Path(name).name for name in names) == ["simclr.yaml", "simsiam.yaml"]


def test_longer_search_goes_on_from_a_finished_one(swept):
    search = ["hydra/sweeper=optuna"]
    first = begun(swept("method=moco", hydra=search), finished=True)
    assert begun(swept("method=moco", hydra=search), finished=True) != first
    longer = swept("method=moco", hydra=[*search, "hydra.sweeper.n_trials=500"])
    assert folder.choose(longer).continued


def test_start_without_a_trial_is_undone(swept, tmp_path):
    config = swept("run_dir=here")
    made = folder.choose(config)
    made.write(1, False)
    made.undo()
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"overrides": "x", "sweeper": [], "at_a_time": 1})])
def test_damaged_record_is_no_sweep(swept, tmp_path, content):
    path = tmp_path / "outputs" / "sweeps" / "2026"
    path.mkdir(parents=True)
    (path / "sweep.json").write_text(content)
    assert begun(swept("method=moco")).resolve() != path
