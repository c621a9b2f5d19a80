"""The labels of a checkpoint's data set lie in a CSV, which may have moved since."""

import csv

import pytest

from siamese.errors import UserError


@pytest.fixture
def trained(session, photos, here):
    """A run on 40 images whose labels lie in labels.csv; rows are written by the function that is returned."""

    def write(name, **changed):
        rows = [(f"{i}.png", "ab"[i % 2], "test" if i >= 30 else "train") for i in range(40)]
        with (here / name).open("w", newline="") as file:
            csv.writer(file).writerows((f, label, changed.get(f.removesuffix(".png"), part)) for f, label, part in rows)
        return name

    write("labels.csv")
    run = session("data=folder", f"data.path={photos}", "data.labels=labels.csv", "backbone=small", "data.crop=16",
                  "backbone.widths=[4,8]", "batch_size=8", "monitor.every=0", "data.workers=0")  # fmt: skip
    run.fit()
    (here / "labels.csv").unlink()
    return write


def test_a_csv_that_has_moved_is_named(trained, evaluation, here):
    file = here / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match="^data.labels=labels.csv: is neither folders, none nor a file"):
        evaluation(file, "eval=knn", "data.workers=0")
    results = evaluation(file, "eval=knn", "data.workers=0", f"data.labels={trained('moved.csv')}").run()
    assert results["results"]["folder"]["images"] == {"fit": 26, "val": 4, "test": 10}
    other = trained("other.csv", **{"3": "test"})
    with pytest.raises(UserError, match="^data=folder: its classes, labels or validation split have changed since"):
        evaluation(file, "eval=knn", "data.workers=0", f"data.labels={other}", folder="other")


def test_a_run_continues_with_a_csv_that_has_moved_and_not_with_another(trained, session, photos, here):
    common = ("data=folder", f"data.path={photos}", "backbone=small", "data.crop=16", "backbone.widths=[4,8]",
              "batch_size=8", "monitor.every=0", "data.workers=0", "resume=true", "epochs=2")  # fmt: skip
    session(*common, f"data.labels={trained('moved.csv')}").fit()
    other = trained("other.csv", **{"3": "test", "31": "train"})  # as many, other ones
    with pytest.raises(UserError, match="classes, labels or the validation split have changed since the run"):
        session(*common[:-1], "epochs=3", f"data.labels={other}")
