"""The run folder: what it may hold, and the lock on it."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from siamese import run_dir
from siamese.errors import UserError
from siamese.training import Run, build, check


def test_overwriting_a_run_removes_its_own_files_only(config, here):
    folder = here / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("old")
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match=r"run_dir=run: already holds a run; add overwrite=true, or choose"):
        build(check(config("run_dir=run")))
    (folder / "checkpoints" / "last.ckpt").touch()
    for mine in ("checkpoints/epoch100_mine.ckpt", "wandb/notes", "tensorboard/mine", "views.png.bak"):
        (folder / mine).parent.mkdir(exist_ok=True)
        (folder / mine).write_text("kept")
    (folder / "tensorboard" / "events.out.tfevents.1.a").touch()
    with pytest.raises(UserError, match=r"run_dir=run: already holds a run; add resume=true or overwrite=true"):
        build(check(config("run_dir=run")))
    assert (folder / "config.yaml").read_text() == "old"
    run_dir.start(Path("run"), config("run_dir=run"), overwrite=True)
    assert (folder / "config.yaml").read_text() != "old"
    kept = [f.name for f in sorted(folder.rglob("*")) if f.is_file() and f.read_text() == "kept"]
    assert kept == ["epoch100_mine.ckpt", "mine.txt", "mine", "views.png.bak", "notes"]
    assert not (folder / "checkpoints" / "last.ckpt").exists()
    assert not list(folder.rglob("events.*"))


HOLDER = """
import os, signal, sys
from pathlib import Path
from siamese.run_dir import RunDirLock
lock = RunDirLock(Path("run"), resume=False, overwrite=False)
if os.fork() == 0:  # a worker that outlives its parent
    signal.pause()
print("held", flush=True)
signal.pause()
"""


def test_folder_locked_by_another_process_is_refused(config, here, monkeypatch):
    """The lock ends with its process, even if that is killed; a run that it wrote meanwhile is found."""
    session = Run(build(check(config("run_dir=run"))))
    other = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="run_dir=run: in use by another process; wait for it, or choose"):
            session.start()
        assert sorted(os.listdir("run")) == [".lock"]
        other.kill()
        other.wait()
        with run_dir.RunDirLock(Path("run"), resume=False, overwrite=False):
            pass
        assert os.listdir("run") == []
        with monkeypatch.context() as patch:  # the holder removes its file after we have opened it
            lock = fcntl.lockf
            patch.setattr(fcntl, "lockf", lambda *a: (os.unlink("run/.lock"), lock(*a)))
            with pytest.raises(UserError, match="in use by another process"):
                run_dir.RunDirLock(Path("run"), resume=False, overwrite=False)
        Path("run/results.json").touch()
        with pytest.raises(UserError, match="run_dir=run: already holds a run"):
            session.start()
        assert os.listdir("run") == ["results.json"]
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
        other.stdout.close()


@pytest.mark.parametrize("given", ["run_dir=/proc/x", "run_dir=file/x", "run_dir=file"])
def test_folder_that_cannot_be_created_is_refused(config, tiny, here, given):
    (here / "file").touch()
    with pytest.raises(UserError, match=f"^{given}: .*; (choose another folder|give a folder)$"):
        Run(build(check(config(*tiny, given)))).start()
    assert os.listdir() == ["file"]


@pytest.mark.parametrize("name", ["metrics.csv", "views.png", "config.tmp", "checkpoints/last.tmp", "results.json"])
def test_folder_with_a_file_of_a_runs_name_is_refused(config, tiny, here, name):
    (here / "mine" / name).parent.mkdir(parents=True)
    (here / "mine" / name).write_text("mine")
    with pytest.raises(UserError, match=r"^run_dir=mine: already holds a run; add .*overwrite=true"):
        build(check(config(*tiny, "run_dir=mine")))
    assert (here / "mine" / name).read_text() == "mine"


@pytest.mark.parametrize("link", ["views.png", "metrics.csv", "checkpoints", ".lock", "tensorboard"])
def test_links_in_a_run_folder_are_not_followed(config, tiny, here, link):
    (here / "run").mkdir()
    (here / "outside").mkdir()
    (here / "outside" / "last.ckpt").write_text("mine")
    (here / "run" / link).symlink_to(here / "outside")
    for more in ([], ["overwrite=true"]):
        with pytest.raises(UserError, match=r"^run_dir=run: "):
            Run(build(check(config(*tiny, "run_dir=run", *more)))).start()
    assert (here / "outside" / "last.ckpt").read_text() == "mine"
    assert os.listdir("outside") == ["last.ckpt"]


def test_directory_in_place_of_a_file_is_refused(config, tiny, here):
    (here / "run" / "config.yaml").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^run_dir=run: config.yaml in it was not written by a run"):
        build(check(config(*tiny, "run_dir=run", "overwrite=true")))
