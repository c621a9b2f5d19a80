"""A run on images with several labels: mean average precision in place of top-1."""

import json

import numpy as np
import pytest
import torch
from several_labels import NAMES, write_folder
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from siamese.errors import UserError
from siamese.probes.multilabel import MultilabelGrid
from siamese.training.probe import closing_figures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("several") / "d")


@pytest.fixture
def run(session, folder):
    def make(*overrides, **options):
        return session(*folder[0], *overrides, **options)

    return make


def test_summary_and_table_show_map(run, tmp_path, capsys):
    made = run()
    made.fit()
    value = made.finish()
    said = " ".join(capsys.readouterr().out.split())
    assert "no online probe, which takes one label" in said
    assert "kNN mAP %" in said and "linear mAP %" in said and "top-1" not in said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert value == summary["linear_map"]
    for row in (summary, *summary["baselines"].values()):
        assert not [key for key in row if "top1" in key]
        assert 0 < row["knn_map"] <= 1 and 0 < row["linear_map"] <= 1
    header, *_ = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert "knn_map" in header and "linear_map" in header and "top1" not in header
    assert made.online.head is None
    state = torch.load(made.state.checkpoint, weights_only=True)
    assert state["siamese"]["num_classes"] == len(NAMES)


def test_closing_figures_equal_scikit_learn(run, folder):
    """Of raw pixels, on the files and labels as the CSV has them."""
    made = run("probe.multilabel.l2s=[1e-2]", "probe.multilabel.max_iter=2000", "probe.multilabel.tolerance=1e-6")
    pixels, targets, files = folder[1]["train"]
    names = {part: {f.name for f in getattr(made.data, part).images.names()} for part in ("train_labeled", "val")}
    train, val = (np.array([file in names[part] for file in files]) for part in ("train_labeled", "val"))
    assert not (train & val).any() and (train | val).all()
    x, y, on, truth = pixels[train], targets[train], pixels[val], targets[val]
    figures = closing_figures(made.baselines["raw_pixels"], made.probe, made.grid, made.several)
    weights = lambda d: np.exp((1 - d) / 0.1)  # noqa: E731
    scores = KNeighborsRegressor(20, metric="cosine", weights=weights).fit(x, y.astype(float)).predict(on)
    assert figures["knn_map"] == pytest.approx(average_precision_score(truth, scores, average="macro"), abs=1e-6)
    scale = StandardScaler().fit(x)
    scale.scale_ = np.where(x.std(0, ddof=1) > 0, x.std(0, ddof=1), 1)
    heads = [LogisticRegression(C=1 / (1e-2 * len(x)), max_iter=5000, tol=1e-8).fit(scale.transform(x), c) for c in y.T]
    logits = np.stack([head.decision_function(scale.transform(on)) for head in heads], 1)
    assert figures["linear_map"] == pytest.approx(average_precision_score(truth, logits, average="macro"), abs=2e-3)


def test_validation_labels_reach_no_probe_that_trains(run, monkeypatch):
    made = run()
    solved, solve = [], MultilabelGrid.solve
    monkeypatch.setattr(MultilabelGrid, "solve", lambda *a, **k: solved.append(solve(*a, **k)) or solved[-1])
    features = made.baselines["raw_pixels"]
    figures = closing_figures(features, made.probe, made.grid, made.several)
    as_they_are = [s.weight for s in solved]
    solved.clear()
    features["val"].y = 1 - features["val"].y
    other = closing_figures(features, made.probe, made.grid, made.several)
    assert other["linear_map"] != figures["linear_map"]
    assert all(torch.equal(a, s.weight) for a, s in zip(as_they_are, solved, strict=True))
    # What a method is given has no label of a validation image.
    names = {f.name for f in made.data.val.images.names()}
    hidden = torch.tensor([f.name in names for f in made.split.images.names()])
    assert hidden.sum() == len(made.data.val) > 0
    assert (made.loader.labels[hidden] == 255).all()
    assert (made.loader.labels[~hidden] != 255).all(1).sum() == len(made.data.train_labeled)


def test_supervised_is_refused(run, tmp_path):
    says = "method=supervised: data=folder has several labels an image, this method takes one"
    with pytest.raises(UserError, match=says):
        run("method=supervised", folder="s")
    assert not (tmp_path / "s").exists()
