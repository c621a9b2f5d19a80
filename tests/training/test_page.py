"""The report of a run: while it trains, at its end, and when it ends early."""

import json
import signal
import sys

import pytest
import torch
from pages.page_cases import Page
from runs import interrupt, rows_of

from siamese import run_dir
from siamese.errors import RunAborted
from siamese.optim import lr_factor
from siamese.pages.stored import Stored
from siamese.probes import Features
from siamese.probes.plane import nearest, principal_plane, tsne_plane
from siamese.training import gallery
from siamese.training import run as whole


def stored_of(folder):
    return Stored.model_validate(json.loads((folder / "report.json").read_text()))


def page_of(folder):
    return Page((folder / "report.html").read_text())


def test_report_while_training_and_at_the_end(session, tmp_path, monkeypatch):
    run = session("epochs=2", "monitor.every=1", "trainer.log_every_n_steps=5")
    monkeypatch.setattr("siamese.training.page.SHARE", 10.0)
    pages = []
    write = run.page.write
    monkeypatch.setattr(run.page, "write", lambda: (write(), pages.append(page_of(tmp_path / "run"))))
    run.fit()
    assert ["running, epoch 1 of 2" in p.text for p in pages] == [True, False, False]
    assert "running, epoch 2 of 2" in pages[1].text
    assert all(p.all("meta", **{"http-equiv": "refresh", "content": "30"}) for p in pages)
    assert not any("Nearest neighbours" in p.text for p in pages)
    assert len(pages[1].lines("loss")[0]) == 4
    assert len(pages[2].lines("effective rank of the features (RankMe)")[0]) == 2
    run.finish()
    last, stored = page_of(tmp_path / "run"), stored_of(tmp_path / "run")
    assert stored.state == "finished"
    for told in ("finished", "Nearest neighbours", "Map of the features", "random_init", "Views"):
        assert told in last.text
    assert not last.all("meta", **{"http-equiv": "refresh"})
    assert len(stored.queries) == 8
    assert {len(side) for q in stored.queries for side in (q.before, q.after)} == {6}
    assert len({q.label for q in stored.queries}) == 8
    assert all(n.same == (n.label == q.label) for q in stored.queries for n in q.after)
    assert len(stored.map.after) == 143
    assert (tmp_path / "run" / "report.json").stat().st_size < 2_000_000
    assert "tmp" not in [f.suffix for f in (tmp_path / "run").iterdir()]


def test_neighbours_are_those_of_the_features(session, tmp_path):
    """Against a direct computation from the probe's own features and images."""
    run = session("epochs=1")
    run.fit()
    run.finish()
    stored = stored_of(tmp_path / "run")
    features = run.probe.features(run.method.backbone, torch.device("cpu"))
    bank, val = (torch.nn.functional.normalize(features[s].x.double(), dim=1) for s in ("train_labeled", "val"))
    similarity = val @ bank.T
    images = {s: loader.store.read_all().images for s, loader in run.probe.loaders.items()}
    tops = similarity.topk(6).values
    for query in stored.queries:
        shown = [n.similarity for n in query.after]
        rows = (tops - torch.tensor(shown, dtype=torch.float64)).abs().amax(1) < 2e-4
        (row,) = rows.nonzero().flatten().tolist()
        assert run.data.classes[int(features["val"].y[row])] == query.label
        best = int(similarity[row].argmax())
        expected = gallery.thumbnail(images["train_labeled"][best].expand(3, -1, -1).permute(1, 2, 0).numpy().copy())
        assert stored.pictures[query.after[0].picture] == expected


def test_gradual_pages_take_a_hundredth_of_the_time(session, monkeypatch):
    run = session("epochs=1")
    clock = [0.0]
    monkeypatch.setattr("siamese.training.page.time.perf_counter", lambda: clock[0])
    written = []
    monkeypatch.setattr("siamese.training.page.write_json", lambda *a: clock.__setitem__(0, clock[0] + 1))
    monkeypatch.setattr("siamese.training.page.write", lambda *a: written.append(clock[0]))
    for second in range(0, 1000, 5):
        clock[0] = max(clock[0], float(second))
        run.page.update(1, 1, evaluated=True)
    assert len(written) in (9, 10)
    run.page.cost = 0.01
    for second in range(2000, 2300, 5):
        clock[0], run.page.cost = float(second), 0.01
        run.page.update(1, 1, evaluated=False)
    assert len(written) <= 10 + 11  # every 30 s


def test_interrupted_run_says_so(session, tmp_path):
    run = session("epochs=3", "method=simsiam")
    interrupt(run, 30, signal.SIGTERM)
    stored = stored_of(tmp_path / "run")
    assert stored.state == "interrupted"
    assert "SIGTERM at step" in stored.message and "resume=true" in stored.message
    assert "interrupted after 1 of 3 epochs" in page_of(tmp_path / "run").text
    run.close()
    again = session("epochs=3", "method=simsiam", "resume=true")
    again.fit()
    again.finish()
    assert stored_of(tmp_path / "run").state == "finished"


def test_failed_run_says_so(session, tmp_path, monkeypatch):
    run = session("epochs=1")
    monkeypatch.setattr(run.method, "loss", lambda views: 1 / 0)
    monkeypatch.setattr(run.run, "start", lambda: None)
    monkeypatch.setattr("siamese.training.Run", lambda training: run.run)
    with pytest.raises(ZeroDivisionError):
        whole(run.training)
    assert "ZeroDivisionError" in stored_of(tmp_path / "run").message
    assert "failed after 0 of 1 epochs" in page_of(tmp_path / "run").text


def test_run_without_monitors_and_without_a_report(session, tmp_path):
    run = session("monitor.every=0")
    run.fit()
    run.finish()
    assert len(stored_of(tmp_path / "run").queries) == 8
    none = session("report=false", folder="none")
    none.fit()
    none.finish()
    assert not [f.name for f in (tmp_path / "none").iterdir() if f.name.startswith("report")]


def test_failing_report_does_not_end_the_run(session, tmp_path, monkeypatch, capsys):
    run = session()

    def full(*arguments):
        raise RunAborted("report.json cannot be written (No space left on device)")

    monkeypatch.setattr("siamese.training.page.write_json", full)
    monkeypatch.setattr(sys.modules["siamese.training.run"], "make_gallery", lambda *a: 1 / 0)
    run.fit()
    run.finish()
    assert capsys.readouterr().out.count("the report is not complete") == 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"]


def test_without_labels(session, tmp_path, photos):
    run = session("data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "augment=small/simclr",
                  "batch_size=8", "backbone=small", "method=simclr", "data.workers=0")  # fmt: skip
    run.fit()
    run.finish()
    stored = stored_of(tmp_path / "run")
    assert {n.same for q in stored.queries for n in q.after} == {None}
    assert all(n.picture != q.picture for q in stored.queries for n in (*q.before, *q.after))
    assert stored.map.groups is None and len(stored.map.after) == 40
    assert stored.of == "Among 40 training images."
    assert "no accuracy" in page_of(tmp_path / "run").text


def test_rate_is_the_one_of_its_step(session, tmp_path):
    """Against the schedule's formula; warm-up, and a group that keeps its rate, included."""
    run = session("method=simsiam", "epochs=2", "trainer.log_every_n_steps=4", "monitor.every=0")
    run.fit()
    recipe = run.plan.optimizer
    rows = [row for row in rows_of(tmp_path / "run" / "metrics.csv") if row["loss"]]
    assert len(rows) == 11
    peak, warmup = recipe.peak_lr(64), recipe.warmup(2)
    expected = [peak * lr_factor(int(row["step"]), run.method.steps_per_epoch, 2, warmup) for row in rows]
    assert [float(row["lr"]) for row in rows] == pytest.approx(expected, rel=1e-5)
    assert warmup and len(set(expected)) == 11


def test_overwriting_removes_the_report(config, here):
    folder = here / "run"
    folder.mkdir()
    for name in ("report.html", "report.json", "report.tmp", "report.pdf"):
        (folder / name).touch()
    run_dir.start(folder, config("run_dir=run"), overwrite=True)
    assert sorted(f.name for f in folder.iterdir()) == ["checkpoints", "config.yaml", "report.pdf"]


def test_unreadable_images_do_not_shift_the_neighbours(monkeypatch):
    class Loader:
        held = None
        skipped = frozenset({"b"})
        store = type("S", (), {"__len__": lambda self: 3, "names": lambda self: ["a", "b", "c"]})()

    assert gallery._places(Loader(), 2).tolist() == [0, 2]
    assert gallery._places(Loader(), 3).tolist() == [0, 1, 2]
    assert gallery._places(Loader(), 1) is None


def test_principal_plane_against_scikit_learn():
    from sklearn.decomposition import PCA

    x = torch.randn(60, 9, dtype=torch.float64) * torch.arange(1, 10)
    found, share = principal_plane(x)
    pca = PCA(2).fit(torch.nn.functional.normalize(x, dim=1).numpy())
    expected = torch.from_numpy(pca.transform(torch.nn.functional.normalize(x, dim=1).numpy()))
    torch.testing.assert_close(found.abs(), expected.abs())
    assert share == pytest.approx(pca.explained_variance_ratio_.sum())
    same, none = principal_plane(torch.ones(5, 3))
    assert same.abs().max() < 1e-6 and 0 <= none <= 1
    assert principal_plane(torch.randn(4, 1))[0].shape == (4, 2)


def test_tsne_keeps_groups_together():
    centres = torch.eye(4).repeat_interleave(20, 0)
    places = tsne_plane(centres + 0.05 * torch.randn(80, 4))
    nearest_one = (torch.cdist(places, places) + 1e9 * torch.eye(80)).argmin(1)
    assert (nearest_one // 20 == torch.arange(80) // 20).all()


def test_a_query_is_no_neighbour_of_itself():
    bank = Features(torch.randn(9, 5), torch.zeros(9, dtype=torch.int64))
    own = torch.tensor([3, 8])
    index, similarity = nearest(bank.x[own], bank, 20, own)
    assert index.shape == (2, 8)
    assert all(int(o) not in row for o, row in zip(own, index.tolist(), strict=True))
    assert (similarity.diff(dim=1) <= 0).all()
    assert nearest(bank.x[own], bank, 1)[0].flatten().tolist() == [3, 8]
