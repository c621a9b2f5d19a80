"""A run folder and results of 2026-11-24, written before the package was rearranged, still resume, evaluate, compare.

`kept/run_2026-11-24` is a run of three epochs that was killed in the second one; `final_backbone.pt` is the backbone
with which the same code ended it, and `results_2026-11-24.json` its evaluation of that.
"""

import json
import shutil

import processes
import pytest
import torch
from paths import ROOT
from rich.console import Console

from siamese.evaluation.compare import compare

KEPT = ROOT / "tests" / "kept"
RECIPE = ("method=moco", "epochs=3", "backbone.widths=[4,8]", "method.output_dim=8", "method.hidden_dim=8",
          "method.queue_size=128", "monitor.every=1", "probe.linear.epochs=2", "probe.knn.k=7", "trainer=cpu",
          "data.train_images=200", "batch_size=32")  # fmt: skip


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The run, resumed by train.py and evaluated by eval_linear.py."""
    import os

    folder = tmp_path_factory.mktemp("kept")
    shutil.copytree(KEPT / "run_2026-11-24", folder / "run")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "150"}

    def command(script, *arguments):
        done = processes.run([ROOT / script, *arguments], cwd=folder, env=environment,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = command("train.py", *RECIPE, "run_dir=run", "resume=true")
    evaluated = ("ckpt=run/checkpoints/last.ckpt", "run_dir=e", "eval.cache=null", "eval.linear.epochs=2",
                 "eval.protocols=[knn,linear,unlabelled]")  # fmt: skip
    command("eval_linear.py", *evaluated)
    return folder, said


def test_the_run_resumes_to_the_same_weights(resumed):
    folder, said = resumed
    assert "continued from run/checkpoints/last.ckpt, step 6" in said
    state = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 18
    for name, tensor in torch.load(KEPT / "final_backbone.pt", weights_only=True).items():
        torch.testing.assert_close(state["state_dict"][name], tensor, atol=1e-3, rtol=1e-3, msg=name)
    assert set(state["callbacks"]) == {"FiniteGradients", "Monitor"}  # the names of then
    for name, tensor in torch.load(KEPT / "final_online_probe.pt", weights_only=True).items():
        found = state["callbacks"]["Monitor"]["head"][name.removeprefix("head.")]
        torch.testing.assert_close(found, tensor, atol=1e-3, rtol=1e-3, msg=name)
    rows = (folder / "run/metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:3]] == ["6", "6"]  # those of the killed run stay
    summary = json.loads((folder / "run/summary.json").read_text())
    assert summary["finished"] and summary["steps"] == 18


def test_its_figures_are_those_of_then(resumed):
    folder, _ = resumed
    now, then = (json.loads(f.read_text()) for f in (folder / "e/results.json", KEPT / "results_2026-11-24.json"))
    assert now["recipe"] == then["recipe"]
    for row in ("raw_pixels", "random_init", "moco"):
        for protocol, figures in then["results"]["digits"]["rows"][row].items():
            found = now["results"]["digits"]["rows"][row][protocol]
            expected = {k: v for k, v in figures.items() if isinstance(v, float)}
            assert {k: found[k] for k in expected} == pytest.approx(expected, abs=0.02, rel=0.02), (row, protocol)


def test_results_of_then_are_compared_with_results_of_now(resumed, tmp_path):
    """Settings are equal although the package's classes have other names now."""
    folder, _ = resumed
    then = json.loads((KEPT / "results_2026-11-24.json").read_text()) | {"seed": 1, "ckpt": "x"}
    (tmp_path / "results.json").write_text(json.dumps(then))
    values = compare([str(folder / "e"), str(tmp_path)], Console(width=200))
    (row,) = values.values()
    assert {len(figures) for figures in row.values()} == {2}
