import hashlib
import json

import numpy as np
import pytest
import torch

from siamese import factory
from siamese.errors import UserError


@pytest.mark.parametrize("method", ["simsiam", "moco"])
def test_the_projectors_rank_is_that_of_its_output(session, evaluation, method):
    """RankMe as in its paper, on what the trained method itself puts out."""
    run = session(f"method={method}")
    run.fit()
    judged = evaluation(run.state.checkpoint, "eval=unlabelled", "eval.unlabelled.samples=5000").run()
    trained = run.method.eval().cpu()
    part = run.data.pretrain
    x = factory.clean_view(run.cfg)(part.images.pixels)
    with torch.no_grad():
        z = trained.projector(trained.backbone(x)).double()
    s = torch.linalg.svdvals(z)
    p = s / s.sum()
    expected = torch.exp(-(p * (p + 1e-7).log()).sum()).item()
    found = judged["results"]["digits"]["rows"][method]["unlabelled"]
    assert found["projection_rank"] == pytest.approx(expected, rel=1e-3)
    assert found["projection_lidar"] > 1
    assert found["feature_rank"] != pytest.approx(expected, rel=1e-3)


def test_other_data_and_a_supervised_row(trained, evaluation, session, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 12, 12), dtype=np.uint8)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    labelled = session("method=supervised", folder="labelled")
    labelled.fit()
    other = f"npz:{tmp_path / 'x.npz'}"
    common = ("eval=knn", f"eval.supervised={labelled.state.checkpoint}")
    results = evaluation(trained, *common, f"eval.data=['{other}']").run()["results"]
    assert list(results) == ["digits", "npz"]
    assert results["npz"]["classes"] == 3
    assert list(results["digits"]["rows"]) == ["raw_pixels", "random_init", "supervised", "simsiam"]
    assert results["npz"]["rows"]["simsiam"]["knn"]["chosen"]["k"] <= 60
    np.savez(tmp_path / "y.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    two = evaluation(trained, "eval=knn", f"eval.data=['{other}','npz:{tmp_path / 'y.npz'}']", folder="two").run()
    assert list(two["results"]) == ["digits", "npz", f"npz:{tmp_path / 'y.npz'}"]
    with pytest.raises(UserError, match="the checkpoint itself is of method=supervised"):
        evaluation(labelled.state.checkpoint, "eval=knn", f"eval.supervised={labelled.state.checkpoint}", folder="f")
    with pytest.raises(UserError, match="is judged already"):
        evaluation(trained, "eval=knn", f"eval.data=['{other}','{other}','{other}']", folder="f")
    for item, says in (
        ("digits", "is judged already"), ("npz", "data.path=null"), ("nothing", "eval.data=.nothing."),
        (f"npz:{tmp_path / 'no.npz'}", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            evaluation(trained, "eval=knn", f"eval.data=['{item}']", folder="f")
    with pytest.raises(UserError, match="is of method=simsiam on digits; give a checkpoint of method=supervised"):
        evaluation(trained, "eval=knn", f"eval.supervised={trained}", folder="f")
    split = session("method=supervised", "data.split_seed=3", "data.train_images=500", folder="other_split")
    split.fit()
    told = (
        r"was trained on other labels: data.split_seed=3 \(here 10\), data.train_images=500 \(here None\), 10 classes"
    )
    with pytest.raises(UserError, match=told):
        evaluation(trained, "eval=knn", f"eval.supervised={split.state.checkpoint}", folder="f")
    assert not (tmp_path / "f").exists()
    saved = json.loads((tmp_path / "e" / "results.json").read_text())
    assert saved["supervised"]["ckpt_sha256"] == hashlib.sha256(labelled.state.checkpoint.read_bytes()).hexdigest()
    assert saved["supervised"]["seed"] == labelled.cfg.seed
    assert saved["results"]["npz"]["path"] == str(tmp_path / "x.npz")
    assert saved["results"]["digits"]["view"] == {
        "size": 8, "center": 1.0, "interpolation": "bilinear", "mean": [0.306] * 3, "std": [0.376] * 3,
    }  # fmt: skip
    assert saved["results"]["digits"]["split"] == {"val_fraction": 0.1, "split_seed": 10}
