"""The table of runs that lie in any folders."""

import json
import subprocess
import sys

import pytest
from pages.page_cases import write_run
from paths import ROOT

from siamese.errors import UserError
from siamese.sweep.__main__ import again
from siamese.sweep.gather import outcomes
from siamese.sweep.outcome import record

SUMMARY = {"linear_top1": 0.5, "knn_top1": 0.4, "finished": True, "seed": 0}


def sweep(folder, values, setting="method=moco"):
    for i, value in enumerate(values):
        record(folder, i, [setting, f"seed={i}"], folder / f"{i:02d}", {**SUMMARY, "linear_top1": value})
    return folder


def test_sweeps_of_two_machines_are_one_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a, b = sweep(tmp_path / "a", [0.5, 0.6]), sweep(tmp_path / "b", [0.9, 0.8], "method=byol")
    assert again([str(a), str(b), "out=both"]) == 0
    out = capsys.readouterr().out
    assert out.index("method=byol") < out.index("method=moco")
    lines = (tmp_path / "both" / "trials.csv").read_text().splitlines()
    assert len(lines) == 5


def test_folder_of_sweeps_is_searched_and_each_run_counts_once(tmp_path):
    sweep(tmp_path / "sweeps" / "a", [0.5])
    found = outcomes([str(tmp_path / "sweeps"), str(tmp_path / "sweeps" / "a")])
    assert len(found) == 1


def test_single_runs_are_named_by_what_differs(tmp_path):
    write_run(tmp_path / "x", {"optimizer": {"lr": 0.1, "weight_decay": 0.0}, "seed": 1})
    write_run(tmp_path / "y", {"optimizer": {"lr": 0.2, "weight_decay": 0.0}, "seed": 1})
    write_run(tmp_path / "z", summary={"finished": False, "steps": 12})
    found = {o.run_dir[-1]: o for o in outcomes([str(tmp_path)])}
    assert found["x"].settings == {
        "method": "simclr",
        "data": "digits",
        "backbone": "small",
        "optimizer.lr": "0.1",
        "seed": "1",
    }
    assert found["y"].settings["optimizer.lr"] == "0.2"
    assert (found["x"].error, found["z"].error) == (None, "not finished: step 12")


def test_failed_trial_stays_failed(tmp_path):
    record(tmp_path / "s", 0, ["method=moco"], None, None, ValueError("boom"))
    (one,) = outcomes([str(tmp_path / "s")])
    assert (one.error, one.summary) == ("ValueError: boom", None)
    assert "Traceback" not in one.error
    assert "ValueError: boom" in (tmp_path / "s" / "trials" / "0000.txt").read_text()


@pytest.mark.parametrize(("make", "what"), [
    (lambda p: None, "does not exist"),
    (lambda p: p.mkdir(), "holds no trial and no run"),
    (lambda p: p.write_text("x"), "is a file"),
])  # fmt: skip
def test_folder_without_runs_is_refused(tmp_path, make, what):
    make(tmp_path / "s")
    with pytest.raises(UserError, match=what):
        outcomes([str(tmp_path / "s")])


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"number": 0, "overrides": 3})])
def test_damaged_outcome_is_named(tmp_path, content):
    (tmp_path / "s" / "trials").mkdir(parents=True)
    (tmp_path / "s" / "trials" / "0000.json").write_text(content)
    with pytest.raises(UserError, match="0000.json: is not the outcome of a trial"):
        outcomes([str(tmp_path / "s")])


@pytest.mark.parametrize(("words", "code", "told"), [([], 2, "names no folder"), (["nowhere"], 2, "does not exist"),
                                                     (["--help"], 0, "python -m siamese.sweep")])  # fmt: skip
def test_command(tmp_path, words, code, told):
    done = subprocess.run([sys.executable, "-m", "siamese.sweep", *words], cwd=tmp_path, capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT / "ssl"), "PATH": ""}, timeout=60)  # fmt: skip
    assert done.returncode == code, done.stderr
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
