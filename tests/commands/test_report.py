"""siamese report, and what eval_linear.py adds to the report of a run."""

import fcntl
import hashlib
import json
import os
import stat
import sys

import pytest
from pages.page_cases import Page, stored_gallery, write_run
from paths import ROOT

from siamese import files
from siamese.commands import report
from siamese.errors import UserError
from siamese.run_dir import RunDirLock


def results(folder, ckpt, sha256, top1=0.5):
    rows = {"raw_pixels": {"knn": {"top1": 0.25}}, "simclr": {
        "knn": {"top1": top1, "k": 20, "grid": [{"top1": 0.99}], "chosen": {"top1": 0.98}},
        "lowshot": {"1%": {"images": 10, "linear": {"mean": 0.125, "interval95": 0.0625, "values": [0.77]}}},
        "unlabelled": {"lidar": 7.5, "samples": 1438},
        "logistic": {"map": 0.375, "micro_map": 0.4375},
    }}  # fmt: skip
    folder.mkdir(parents=True)
    content = {"schema": 2, "ckpt": str(ckpt), "ckpt_sha256": sha256, "method": "simclr", "device": "cpu",
               "seconds": 2.5, "command": "python eval_linear.py ckpt=a",
               "results": {"digits": {"images": {"test": 359}, "rows": rows}}}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(content))


def with_checkpoint(folder, content=b"weights", **rest):
    run = write_run(folder, **rest)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_bytes(content)
    return run, hashlib.sha256(content).hexdigest()


def test_one_run_gets_its_report_anew(here, capsys):
    run = write_run(here / "r", stored=stored_gallery())
    report.main(["r"])
    assert capsys.readouterr().out == "report: r/report.html\n"
    first = (run / "report.html").read_text()
    assert len(Page(first).lines("loss")) == 1
    report.main(["r"])
    report.main(["r", "out=other.html"])
    assert (here / "other.html").read_text() == first
    assert sorted(os.listdir(run)) == ["config.yaml", "metrics.csv", "report.html", "report.json", "summary.json"]
    assert stat.S_IMODE((run / "report.html").stat().st_mode) == stat.S_IMODE((run / "config.yaml").stat().st_mode)


def test_evaluations_of_the_checkpoint_are_shown(here):
    run, sha256 = with_checkpoint(here / "r")
    results(run / "evaluation" / "a", "x", sha256)
    results(here / "given", run / "checkpoints" / "last.ckpt", "of before", top1=0.625)
    results(here / "foreign", "elsewhere.ckpt", "another", top1=0.875)
    report.main(["r", "given", "foreign"])
    text = Page((run / "report.html").read_text()).text
    for told in (
        "50.00",
        "25.00",
        "12.50 ± 6.25",
        "7.5",
        "37.50",
        "43.75",
        "62.50",
        "of an earlier checkpoint",
        "few labels",
    ):
        assert told in text, told
    for hidden in ("87.50", "99.00", "98.00", "77.00", "1438"):
        assert hidden not in text, hidden
    report.main(["r"])
    assert "62.50" not in (run / "report.html").read_text()
    (run / "evaluation" / "a" / "results.json").write_text('{"schema": 2, "results": {"digits": 3}}')
    with pytest.raises(UserError, match="results.json: is damaged"):
        report.main(["r"])


def test_several_runs_and_folders_of_them(here):
    for name in ("sweep/00", "sweep/01", "x/y/z"):
        write_run(here / name, {"seed": len(name)}, stored=stored_gallery())
    write_run(here / "sweep/notes").joinpath("config.yaml").unlink()
    report.main(["sweep", "x", "sweep/01"])
    page = Page((here / "report.html").read_text())
    assert len(page.lines("loss")) == 3
    report.main(["sweep", "out=two.html"])
    assert len(Page((here / "two.html").read_text()).lines("loss")) == 2


def test_sweep_of_hydra(here):
    """Its trials name their run folders from where it was started; failed ones are named."""
    trials = here / "outputs" / "sweeps" / "now" / "trials"
    trials.mkdir(parents=True)
    for i in range(2):
        where = f"outputs/digits/simclr/now_{i}"
        write_run(here / where)
        trial = {"number": i, "overrides": [f"seed={i}"], "run_dir": where, "error": None}
        (trials / f"000{i}.json").write_text(json.dumps(trial))
    failed = {"number": 2, "overrides": ["seed=<2>"], "run_dir": None, "error": "boom"}
    (trials / "0002.json").write_text(json.dumps(failed))
    (here / "elsewhere").mkdir()
    for folder in (here, here / "elsewhere"):
        os.chdir(folder)
        report.main([str(trials.parent)])
        page = Page((folder / "report.html").read_text())
        assert len(page.lines("loss")) == 2
        assert "failed: seed=<2>: boom" in page.text
    (here / "outputs/digits/simclr/now_1/config.yaml").unlink()
    with pytest.raises(UserError, match="its run .*now_1 is not there"):
        report.main([str(trials.parent)])


MISTAKES = {
    "siamese report: names no run": [], "file: is a file": ["file"], "none: does not exist": ["none"],
    "empty: is no run": ["empty"], "names no run, only evaluations": ["e"], "out=: names no file": ["r", "out="],
    "out=: is given several times": ["r", "out=a", "out=b"], "ouy=a: is no setting": ["r", "ouy=a"],
    "out=no/a.html: there is no folder no": ["r", "out=no/a.html"], "out=empty: is a folder": ["r", "out=empty"],
    "out=file: exists and is no report": ["r", "out=file"],
    "out=xxx.*: cannot be a path": ["r", "out=" + 300 * "x"],
    "out=r/config.yaml: exists and is no report": ["r", "out=r/config.yaml"],
    "bad/summary.json: is damaged": ["r", "bad"], "holds 41 runs, more than 40": ["many"],
}  # fmt: skip


@pytest.mark.parametrize("told", MISTAKES)
def test_mistakes(here, told):
    write_run(here / "r")
    write_run(here / "bad").joinpath("summary.json").write_text("{")
    (here / "empty").mkdir()
    (here / "file").touch()
    results(here / "e", "x", "y")
    if "many" in MISTAKES[told]:
        for i in range(41):
            write_run(here / "many" / str(i))
    before = sorted(str(f) for f in here.rglob("*"))
    with pytest.raises(UserError, match=told) as error:
        report.main(MISTAKES[told])
    assert "\n" not in str(error.value)
    assert sorted(str(f) for f in here.rglob("*")) == before


def test_exit_code(here, command):
    write_run(here / "r").joinpath("report.json").write_text("[]")
    script = here / "command.py"
    script.write_text("from siamese.__main__ import main\nmain()\n")
    done = command(script, "report", "r")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: r/report.json: is damaged (it holds a list)")
    assert str(ROOT) in sys.path


def test_running_and_killed_runs(here):
    run = write_run(here / "r", stored={**stored_gallery(), "state": "running"})
    report.main(["r"])
    assert "ended without a word" in (run / "report.html").read_text()
    (run / ".lock").touch()
    assert not files.in_use(run)
    reading, writing = os.pipe()
    done_reading, done = os.pipe()
    child = os.fork()
    if child == 0:  # a record lock is another process's
        lock = os.open(run / ".lock", os.O_RDWR)
        fcntl.lockf(lock, fcntl.LOCK_EX)
        os.write(writing, b"x")
        os.read(done_reading, 1)
        os._exit(0)
    os.read(reading, 1)
    try:
        report.main(["r"])
        assert "running, epoch 4 of 4" in (run / "report.html").read_text()
    finally:
        os.write(done, b"x")
        os.waitpid(child, 0)


def test_evaluation_is_added_to_the_report_of_its_run(session, evaluation, tmp_path, capsys):
    run = session("method=simsiam")
    run.fit()
    run.finish()
    run.close()
    file = run.state.checkpoint
    for _ in range(2):
        evaluation(file, "eval=knn", "overwrite=true").run()
    folder = tmp_path / "run"
    assert f"added to {folder}/report.html" in capsys.readouterr().out
    (stored,) = json.loads((folder / "report.json").read_text())["evaluations"]
    top1 = json.loads((tmp_path / "e" / "results.json").read_text())["knn_top1"]
    assert f"{100 * top1:.2f}" in Page((folder / "report.html").read_text()).text
    assert stored["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not (folder / ".lock").exists()
    again = session("method=simsiam", "resume=true", "epochs=2")
    assert "of a checkpoint before the run was continued" in again.page.stored.evaluations[0].told
    again.close()
    (folder / "report.json").unlink()  # of a run without reports
    evaluation(file, "eval=knn", "overwrite=true").run()
    assert not (folder / "report.json").exists()


def test_run_in_use_gets_no_evaluation(tmp_path, monkeypatch):
    from siamese.evaluation import evaluator

    run, sha256 = with_checkpoint(tmp_path / "r", stored=stored_gallery())
    results(tmp_path / "e", "x", sha256)
    monkeypatch.setattr(RunDirLock, "_locked", lambda self: False)
    told = evaluator.add_to_run(run / "checkpoints" / "last.ckpt", tmp_path / "e")
    assert told.startswith("not added to the report of the run: ") and "in use by another process" in told
    assert not (run / "report.html").exists()
