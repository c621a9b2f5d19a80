"""Images with several labels: train.py over two seeds, and eval_linear.py, as a user runs them."""

import json
import re
import statistics

from several_labels import write_folder


def test_two_seeds_from_folder_to_comparison(command, tiny, tmp_path):
    overrides, _ = write_folder(tmp_path / "d")
    done = command("train.py", "-m", "seed=0,1", *overrides, *tiny, "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    assert "top-1 %, or mAP % where an image may have several labels" in " ".join(done.stdout.split())
    trials = [json.loads(file.read_text()) for file in sorted((tmp_path / "sweep" / "trials").glob("*.json"))]
    values = [100 * trial["summary"]["linear_map"] for trial in trials]
    assert len(values) == 2
    half = 12.706 * statistics.stdev(values) / 2**0.5  # Student's t of one degree of freedom
    assert re.search(rf"{statistics.mean(values):.2f} ± {half:.1f}", done.stdout)
    folders = []
    for trial in trials:
        folders.append(f"e{trial['number']}")
        file = f"{trial['run_dir']}/checkpoints/last.ckpt"
        done = command("eval_linear.py", f"ckpt={file}", f"run_dir={folders[-1]}", "eval.protocols=[knn,logistic]",
                       "eval.logistic.l2s=[1e-2]")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "mean average precision (mAP) %" in " ".join(done.stdout.split())
    done = command("eval_linear.py", f"compare=[{','.join(folders)}]")
    assert done.returncode == 0, done.stderr
    assert "micro mAP" in done.stdout
    done = command("eval_linear.py", f"ckpt={file}", "run_dir=refused")
    assert done.returncode == 2 and not (tmp_path / "refused").exists()
    assert done.stderr.splitlines() == [
        "error: eval.protocols=[knn,linear]: data=folder has several labels an image, which linear cannot judge; "
        "give eval.protocols=[knn,logistic], eval=unlabelled or eval=all"
    ]
