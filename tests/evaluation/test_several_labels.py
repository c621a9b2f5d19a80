"""eval_linear.py on images with several labels."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from several_labels import write_folder
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsRegressor

from siamese.data import DataSet
from siamese.errors import UserError
from siamese.evaluation.compare import compare
from siamese.options import protocols

SHORT = ("eval.unlabelled.samples=50", "eval.unlabelled.view_images=20", "eval.unlabelled.views=3",
         "eval.logistic.l2s=[1e-3,1e-2]", "eval.logistic.max_iter=3000", "eval.knn.ks=[1,5,50]",
         "eval.knn.temperatures=[0.5]")  # fmt: skip
ALL = ("eval=all", *SHORT)
FEW = ("eval.protocols=[knn,logistic]", *SHORT[3:])
ABLE = {"knn", "logistic", "unlabelled"}


@pytest.fixture
def trained(session, tmp_path):
    """Two checkpoints that differ in the seed, and the files."""
    overrides, parts = write_folder(tmp_path / "d")
    files = []
    for seed in (0, 1):
        run = session(*overrides, f"seed={seed}", folder=f"run{seed}")
        run.fit()
        run.close()
        files.append(run.state.checkpoint)
    return files, parts


def scores_of(x, y, on, l2):
    mean, std = x.mean(0), x.std(0, ddof=1)
    std[std == 0] = 1
    heads = [LogisticRegression(C=1 / (l2 * len(x)), max_iter=5000, tol=1e-8).fit((x - mean) / std, c) for c in y.T]
    return np.stack([head.decision_function((on - mean) / std) for head in heads], 1)


def test_two_seeds_through_all_protocols(trained, evaluation, tmp_path, capsys):
    (first, second), parts = trained
    results = evaluation(first, *ALL).run()
    said = " ".join(capsys.readouterr().out.split())
    unable = "linear, linear_crops, lowshot, finetune"
    assert f"folder has several labels an image, which {unable} cannot judge: left out" in said
    assert "mean average precision" in said and "micro mAP" in said
    assert json.loads((tmp_path / "e" / "results.json").read_text()) == json.loads(json.dumps(results))
    assert set(results["protocols"]) == ABLE and set(protocols()) > ABLE
    found = results["results"]["folder"]
    rows = found["rows"]
    assert results["schema"] == 2 and found["multilabel"] is True and found["classes"] == 4
    assert set(rows["simsiam"]) == ABLE and set(rows["raw_pixels"]) == {"knn", "logistic"}
    assert "top1" not in json.dumps({k: v for k, v in results.items() if k not in ("protocols", "command")})
    assert results["knn_map"] == rows["simsiam"]["knn"]["map"]
    assert results["logistic_map"] == rows["simsiam"]["logistic"]["map"]
    check_raw_pixels(rows["raw_pixels"], parts)
    evaluation(second, *FEW, folder="e1").run()
    evaluation(first, *FEW, folder="e0").run()
    values = compare([str(tmp_path / e) for e in ("e0", "e1")], Console(width=200))
    (row,) = values.values()
    assert set(row) == {f"folder {p} {m}" for p in ("knn", "logistic") for m in ("mAP", "micro mAP")}
    assert row["folder knn mAP"][0] == results["knn_map"] and len(row["folder knn mAP"]) == 2
    assert "top-1 % or mAP %" in capsys.readouterr().out


def check_raw_pixels(row, parts):
    """Macro and micro mAP by scikit-learn, on the files and labels as the CSV has them."""
    (x, y, _), (on, truth, _) = parts["train"], parts["test"]
    for entry in row["knn"]["grid"]:
        weights = lambda d, t=entry["temperature"]: np.exp((1 - d) / t)  # noqa: E731
        knn = KNeighborsRegressor(entry["k"], metric="cosine", weights=weights).fit(x, y.astype(float))
        scores = knn.predict(on)
        for key, average in (("map", "macro"), ("micro_map", "micro")):
            # Scores of equal neighbours may tie or not in float32.
            assert entry[key] == pytest.approx(average_precision_score(truth, scores, average=average), abs=5e-3), entry
    found = row["logistic"]
    scores = scores_of(x, y, on, found["chosen"]["l2"])
    assert found["converged"] and found["classes_left_out"] == row["knn"]["classes_left_out"] == 0
    for key, average in (("map", "macro"), ("micro_map", "micro")):
        assert found[key] == pytest.approx(average_precision_score(truth, scores, average=average), abs=2e-3)


def test_the_test_split_chooses_nothing_and_validation_does(trained, evaluation):
    (file, _), (parts) = trained
    chosen = []
    for permuted in (None, "test", "val"):
        made = evaluation(file, *FEW, "eval.cache=null", folder=str(permuted))
        data, _ = made.data["folder"]
        assert isinstance(data, DataSet) and data.multilabel
        if permuted:
            split = getattr(data, permuted)
            split.labels = split.labels[torch.arange(len(split)).flip(0)]
        row = made.run()["results"]["folder"]["rows"]["raw_pixels"]
        chosen.append([{k: v for k, v in row[p]["chosen"].items() if k not in ("map", "micro_map")} for p in row])
        if permuted is None:
            check_choice(row, data, parts["train"])
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]


def check_choice(row, data, train):
    """The strength with the best macro mAP on the validation split."""
    x, y, files = train
    names = {f.name for f in data.val.images.names()}
    val = np.array([file in names for file in files])
    found = [average_precision_score(y[val], scores_of(x[~val], y[~val], x[val], l2)) for l2 in (1e-2, 1e-3)]
    assert row["logistic"]["chosen"]["validation_map"] == pytest.approx(max(found), abs=2e-3)


def test_protocols_that_judge_one_label_are_refused(trained, evaluation, tmp_path):
    (file, _), _ = trained
    for asked, unable in (
        ("eval=as_trained", "linear"), ("eval=linear_crops", "linear_crops"), ("eval=lowshot", "lowshot"),
        ("eval=finetune", "finetune"), ("eval.protocols=[knn,finetune,linear]", "finetune, linear"),
    ):  # fmt: skip
        says = (
            rf"data=folder has several labels an image, which {unable} cannot judge; "
            r"give eval.protocols=\[knn,logistic\], eval=unlabelled or eval=all"
        )
        with pytest.raises(UserError, match=says):
            evaluation(file, asked, folder="refused")
        assert not (tmp_path / "refused").exists()
    made = evaluation(file, "eval=unlabelled", *SHORT[:3])
    assert set(made.run()["protocols"]) == {"unlabelled"}


def test_a_set_with_one_label_beside_one_with_several(trained, evaluation, tmp_path):
    (file, _), _ = trained
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=np.arange(60) % 2, test_images=images[:20],
             test_labels=np.arange(20) % 2)  # fmt: skip
    results = evaluation(
        file, *ALL, f"eval.data=[npz:{tmp_path / 'x.npz'}]", "eval.linear.epochs=1", "eval.linear_crops.epochs=1",
        "eval.finetune.epochs=1", "eval.lowshot.fractions=[0.5]", "eval.lowshot.epochs=[1]", "eval.lowshot.seeds=[0]",
        "eval.finetune.lrs=[0.05]",
    ).run()  # fmt: skip
    assert set(results["results"]["folder"]["rows"]["simsiam"]) == ABLE
    assert set(results["results"]["npz"]["rows"]["simsiam"]) == set(protocols()) == set(results["protocols"])
    assert "map" not in results["results"]["npz"]["rows"]["simsiam"]["knn"]
