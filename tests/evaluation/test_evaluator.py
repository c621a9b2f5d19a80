"""eval_linear.py from end to end, inside one process."""

import hashlib
import json
import os
import re
import signal
import sys

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from siamese import cli
from siamese.checkpoints import reading
from siamese.errors import RunAborted, UserError
from siamese.evaluation import evaluator
from siamese.evaluation.build import shared_part
from siamese.options import protocols

SHORT = (
    "eval=all", "eval.linear.epochs=2", "eval.linear_crops.epochs=1", "eval.finetune.epochs=1",
    "eval.lowshot.seeds=[0,1]", "eval.lowshot.epochs=[1,1]", "eval.unlabelled.samples=200",
    "eval.unlabelled.view_images=50", "eval.unlabelled.views=3", "eval.logistic.l2s=[1e-3,1e-1]",
    "eval.finetune.lrs=[0.05,0.5]", "eval.lowshot.lrs=[0.03,0.3]",
)  # fmt: skip


def choices(node, path=""):
    """Everything that a results.json calls chosen, without the test figure of the choice."""
    out = {}
    for key, value in node.items():
        if key == "chosen":
            out[path] = value if isinstance(value, list) else {k: v for k, v in value.items() if k != "top1"}
        elif isinstance(value, dict):
            out |= choices(value, f"{path}/{key}")
    return out


def test_long_protocols_show_progress(trained, evaluation, capsys, ticking):
    made = evaluation(trained, "eval.protocols=[linear,finetune]", "eval.linear.epochs=2", "eval.finetune.epochs=1")
    ticking(20)
    made.run()
    out = capsys.readouterr().out
    assert "\ndigits, raw_pixels, linear, train_labeled split, features: 1 of 6 batches, 1 min left\n" in out
    assert "\ndigits, simsiam, linear, linear heads: 1 of 2 epochs, 20 s left\n" in out
    assert re.search(r"\ndigits, random_init, finetune, fine-tuning: 1 of \d+ steps, \d+ (s|min) left\n", out)


def test_every_protocol(trained, evaluation, tmp_path, capsys):
    made = evaluation(trained, *SHORT)
    before = {k: hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in made.rows[-1].network.state_dict().items()}
    results = made.run()
    after = {k: hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in made.rows[-1].network.state_dict().items()}
    assert before == after
    assert not any(m.training for m in made.rows[-1].network.modules())
    assert json.loads((tmp_path / "e" / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["schema"] == 2
    assert results["ckpt_sha256"] == hashlib.sha256(trained.read_bytes()).hexdigest()
    assert set(results["protocols"]) == set(protocols())
    rows = results["results"]["digits"]["rows"]
    assert set(rows) == {"raw_pixels", "random_init", "simsiam"}
    assert set(rows["simsiam"]) == set(rows["random_init"]) == set(protocols())
    assert set(rows["raw_pixels"]) == {"knn", "linear", "logistic", "lowshot"}
    for row in rows.values():
        for protocol in set(row) - {"lowshot", "unlabelled"}:
            assert 0 < row[protocol]["top1"] <= 1, protocol
    assert len(rows["simsiam"]["lowshot"]["10%"]["finetuned"]["values"]) == 2
    few = results["protocols"]["lowshot"]["settings"]
    assert few["lrs"] == [0.03, 0.3]
    assert not {"lrs", "epochs", "seed"} & set(few["finetune"])  # it has its own
    for row in ("random_init", "simsiam"):
        tuned = {share: found["finetuned"] for share, found in rows[row]["lowshot"].items()}
        assert tuned["1%"]["batch_size"] == 10  # of 256: so few are there
        assert [(c["lr"], c["rate"], c["by"]) for c in tuned["1%"]["chosen"]] == [(0.3, 0.3, "fixed")] * 2
        assert [c["by"] for c in tuned["10%"]["chosen"]] == ["cross_validation"] * 2
    said = "1% of the labels, fine-tuned: one label per class chooses nothing; lr 0.3 and 1 epochs, the middle of the"
    assert capsys.readouterr().out.count(said) == 1
    assert rows["simsiam"]["linear_crops"]["batch_size"] == rows["simsiam"]["finetune"]["batch_size"] == 256
    assert rows["simsiam"]["unlabelled"]["lidar"] > 1
    assert "projection_rank" not in rows["random_init"]["unlabelled"]
    assert results["linear_top1"] == rows["simsiam"]["linear"]["top1"]


def test_permuting_the_test_labels_changes_no_choice(trained, evaluation):
    found = []
    for permuted in (False, True):
        made = evaluation(trained, *SHORT, f"eval.cache={'null'}", folder=str(permuted))
        data, _ = made.data["digits"]
        if permuted:
            data.test.labels = data.test.labels[torch.randperm(len(data.test.labels))]
        found.append(made.run())
    chosen = [choices(f["results"]) for f in found]
    assert len(chosen[0]) > 12
    assert chosen[0] == chosen[1]
    assert found[0]["linear_top1"] != found[1]["linear_top1"]


def test_labels_that_are_unknown(session, evaluation, tmp_path):
    """Those of a published validation or test part are left out; where none is known, one line says so."""
    rng = np.random.default_rng(0)
    parts = {f"{p}_images": rng.integers(0, 256, (n, 8, 8), dtype=np.uint8) for p, n in (("train", 60), ("test", 30))}
    parts |= {"val_images": parts["test_images"], "train_labels": np.arange(60) % 3}
    labels = np.arange(30) % 3
    some = np.where(np.arange(30) < 12, labels, -1)
    file = tmp_path / "x.npz"
    np.savez(file, **parts, val_labels=some, test_labels=some)
    run = session("data=npz", f"data.path={file}", "data.crop=8", "batch_size=20", "backbone=small")
    run.fit()
    quick = ("eval.protocols=[knn,linear,lowshot]", "eval.lowshot.fine_tune=false", "eval.linear.epochs=1")
    found = evaluation(run.state.checkpoint, *quick).run()["results"]["npz"]
    assert found["images"] == {"fit": 60, "val": 12, "test": 12}
    assert found["split"] == {"val": "as published"}
    assert found["rows"]["simsiam"]["lowshot"]["10%"]["images"] == 6  # of 24 labels a class two
    for part, says in (
        ("val", "data=npz: no label of its validation split is known; remove that split"),
        ("test", "data=npz: has no labels or no test split with labels"),
    ):
        known = {"val_labels": labels, "test_labels": labels, f"{part}_labels": np.full(30, -1)}
        np.savez(file, **parts, **known)
        with pytest.raises(UserError, match=says):
            evaluation(run.state.checkpoint, folder="f")


def test_a_backbone_can_be_looked_at_without_labels(session, evaluation, tmp_path, photos):
    run = session(
        "data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small"
    )
    run.fit()
    with pytest.raises(
        UserError, match="no labels or no test split with labels; these protocols need both; eval=unlabelled"
    ):
        evaluation(run.state.checkpoint)
    results = evaluation(run.state.checkpoint, "eval=unlabelled", "eval.unlabelled.views=3").run()
    assert set(results["results"]["folder"]["rows"]) == {"random_init", "simsiam"}
    assert results["results"]["folder"]["rows"]["simsiam"]["unlabelled"]["samples"] == 40


def test_an_evaluation_in_the_folder_of_a_training_cannot_resume(trained, evaluation):
    with pytest.raises(UserError, match=r"run: already holds a run; add overwrite=true, or choose"):
        evaluation(trained, folder="run")


def test_features_that_are_not_finite(trained, evaluation, tmp_path):
    state = torch.load(trained, weights_only=True)
    for key, value in state["state_dict"].items():
        if key.startswith("backbone.") and value.is_floating_point():
            value.fill_(float("nan"))
    torch.save(state, trained)
    with pytest.raises(RunAborted, match="simsiam: features of the train_labeled split of digits hold NaN or infinity"):
        evaluation(trained).run()
    assert not (tmp_path / "e").exists()


def test_a_class_count_that_differs(trained, evaluation):
    state = torch.load(trained, weights_only=True)
    state[reading.KEY]["num_classes"] = 7
    torch.save(state, trained)
    with pytest.raises(UserError, match="has 10 classes now, 7 when the checkpoint was trained"):
        evaluation(trained)


def test_an_evaluation_that_is_asked_to_end_takes_its_half_written_files_away(trained, tmp_path, monkeypatch):
    import eval_linear

    def interrupted(*arguments):
        assert [f.name for f in (tmp_path / "e").iterdir()] == [".lock"]
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(evaluator, "_on", interrupted)
    monkeypatch.chdir(tmp_path)
    arguments = [f"ckpt={trained}", "run_dir=e"]
    monkeypatch.setattr(sys, "argv", ["eval_linear.py", *arguments])
    GlobalHydra.instance().clear()
    try:
        with pytest.raises(SystemExit) as ended:
            cli.run(eval_linear.main, "eval_linear")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert not (tmp_path / "e").exists()


# The cache


def test_every_protocol_on_features_in_files(trained, evaluation):
    """As with a million images: the figures are those of features in memory, but for float16."""
    short = [o for o in SHORT if "protocols" not in o and o != "eval=all"]
    wanted = ("eval=all", "eval.protocols=[knn,linear,logistic,lowshot]", "eval.lowshot.fine_tune=false", *short)
    memory, files = (
        evaluation(trained, *wanted, f"eval.in_memory_mb={mb}", folder=str(mb)).run()["results"]["digits"]["rows"]
        for mb in (4000, 0)
    )
    for protocol in ("knn", "linear", "logistic"):
        assert files["simsiam"][protocol]["top1"] == pytest.approx(memory["simsiam"][protocol]["top1"], abs=0.02)
    few = [rows["simsiam"]["lowshot"]["10%"]["linear"]["mean"] for rows in (memory, files)]
    assert few[0] == pytest.approx(few[1], abs=0.02)


# Seeds


def test_shared_part_of_two_ranges():
    assert shared_part([0, 255], [0, 4095]) == pytest.approx(255 / 4095)
    assert shared_part([0, 255], [0, 200]) == pytest.approx(200 / 255) and shared_part([0, 1], [5, 9]) < 0


def test_images_of_another_range_are_refused(config, evaluation, session, tmp_path):
    rng = np.random.default_rng(0)
    for name, high in (("own", 255), ("far", 1)):
        arrays = {f"{part}_images": (rng.random((40, 8, 8)) * high).astype(np.float32) for part in ("train", "test")}
        np.savez(tmp_path / f"{name}.npz", **arrays, train_labels=np.arange(40) % 2, test_labels=np.arange(40) % 2)
    run = session("data=npz", f"data.path={tmp_path / 'own.npz'}", "data.crop=8", "data.value_range=[0,255]",
                  "batch_size=8", "backbone=small", folder="own")  # fmt: skip
    run.fit()
    file = tmp_path / "own" / "checkpoints" / "last.ckpt"
    evaluation(file, "eval=knn")  # the range was given for these images
    with pytest.raises(UserError, match="with values in .*trained on"):
        evaluation(file, "eval=knn", f"eval.data=[npz:{tmp_path / 'far.npz'}]")
