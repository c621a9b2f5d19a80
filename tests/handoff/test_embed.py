"""siamese embed: features in files, interrupted and continued; neighbours and near-duplicates."""

import csv
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from siamese.errors import UserError
from siamese.handoff import embed as module
from siamese.handoff import neighbours
from siamese.options import CONF


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of train.py on digits, before its first step."""
    from conftest import TINY, StartedRun
    from hydra import compose

    folder = tmp_path_factory.mktemp("trained") / "r"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*TINY, "monitor.every=0", f"run_dir={folder}"])
    run = StartedRun(cfg)
    run.start()
    run.fit()
    run.close()
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def embed(config, tmp_path):
    """Embeds as inside of hydra.main, where other configs can be composed."""

    def run(*overrides, out="f.npz"):
        cfg = config(f"out={tmp_path / out}", *overrides, name="embed")
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return module.embed(cfg)

    return run


def by_hand(checkpoint):
    """Features of all digits by the checkpoint's network, images normalised as its config says."""
    state = torch.load(checkpoint, weights_only=True)
    cfg = state["siamese"]["config"]
    from siamese.backbones import small_resnet

    node = {k: v for k, v in cfg["backbone"].items() if not k.startswith("_")}
    network = small_resnet(**node).eval()
    network.load_state_dict({k[9:]: v for k, v in state["state_dict"].items() if k.startswith("backbone.")})
    pixels = torch.from_numpy(load_digits().images).float() / 16  # float64 in [0, 16]
    x = (pixels * 255).round().unsqueeze(1).repeat(1, 3, 1, 1) / 255
    mean, std = (torch.tensor(cfg["augment"][k]).view(-1, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        return network((x - mean) / std).numpy()


def read(file):
    """(features, files, splits, labels) of each format by its own library."""
    if file.suffix == ".parquet":
        t = pq.read_table(file)
        return np.array(t["features"].to_pylist(), np.float32), *(t[k].to_pylist() for k in ("file", "split", "label"))
    if file.suffix == ".npz":
        z = np.load(file)
        return z["features"], *(z[k].tolist() for k in ("files", "splits", "labels"))
    names = file if file.suffix == ".csv" else file.with_name(f"{file.name}.names.csv")
    with names.open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    x = np.load(file) if file.suffix == ".npy" else np.array([r[3:] for r in rows], np.float32)
    return x, *([r[i] for r in rows] for i in range(3))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "npz", "npy"])
def test_formats_hold_the_features_of_each_image(trained, embed, suffix):
    x, files, splits, labels = read(embed(f"ckpt={trained}", out=f"f.{suffix}"))
    expected, digits = by_hand(trained), load_digits().target
    # The order of the data set: train, then test; files are numbers within a split.
    assert (splits.count("train"), splits.count("test")) == (1438, 359)
    assert files == [str(i) for n in (1438, 359) for i in range(n)]
    order = [np.abs(expected - row).sum(1).argmin() for row in x[::50]]
    assert [str(digits[i]) for i in order] == labels[::50]
    np.testing.assert_allclose(x[::50], expected[order], rtol=1e-4, atol=1e-5)
    assert len(set(order)) == len(order)


def photographs(folder, count=30):
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i:02}.png")
    return folder


@pytest.mark.parametrize("resident", ["true", "false"])
def test_unreadable_images_are_left_out_and_listed(trained, embed, tmp_path, resident):
    folder = photographs(tmp_path / "photos")
    (folder / "b" / "07.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    given = (f"ckpt={trained}", "foreign=[data:folder]", f"data.path={folder}", f"data.resident={resident}",
             "data.workers=0", "batch_size=8")  # fmt: skip
    x, files, splits, labels = read(embed(*given))
    assert files == [f"{'ab'[i % 2]}/{i:02}.png" for i in sorted(range(30), key=lambda i: (i % 2, i)) if i != 7]
    assert labels == [name[0] for name in files]
    assert set(splits) == {"train"}
    assert np.isfinite(x).all() and len({row.tobytes() for row in x}) == 29
    assert (tmp_path / "f.npz.skipped.txt").read_text() == f"{folder}/b/07.png\n"
    about = json.loads((tmp_path / "f.npz.about.json").read_text())
    assert about["embedded"]["skipped"] == 1 and about["method"] == "simsiam"
    with pytest.raises(UserError, match="07.png: cannot be decoded"):
        embed(*given, "data.on_error=stop", out="g.npz")
    assert not list(tmp_path.glob("g.npz*"))


def test_interrupted_command_goes_on(trained, embed, tmp_path, monkeypatch):
    whole = embed(f"ckpt={trained}", "batch_size=100", out="whole.parquet").read_bytes()
    calls = []
    advance = module.Progress.advance

    def counted(self, count):
        calls.append(count)
        advance(self, count)
        if len(calls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.Progress, "advance", counted)
    with pytest.raises(KeyboardInterrupt):
        embed(f"ckpt={trained}", "batch_size=100", out="part.parquet")
    assert not (tmp_path / "part.parquet").exists()
    embed(f"ckpt={trained}", "batch_size=100", out="part.parquet")
    assert len(calls) == 3 + 16  # the batch that was being counted is not repeated; 15 + 4 in all
    assert not (tmp_path / "part.parquet.partial").exists()
    first, second = (pq.read_table(tmp_path / f"{n}.parquet") for n in ("whole", "part"))
    assert first.equals(second) and len(whole) > 0


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_command_interrupted_between_its_files_goes_on(trained, embed, tmp_path, monkeypatch, moved):
    """All files are whole or absent, and the command that is given again finds nothing in its way."""
    replace, done = os.replace, []

    def stop(source, target):
        if ".partial" in str(source) and "made" in str(source):
            if len(done) == moved:
                raise KeyboardInterrupt
            done.append(target)
        replace(source, target)

    given = (f"ckpt={trained}", "neighbours=true", "queries=3", "nearest=4")
    with monkeypatch.context() as patched:
        patched.setattr(module.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            embed(*given, out="features.npy")
    assert not (tmp_path / "features.npy").exists()
    x, *_ = read(embed(*given, out="features.npy"))
    whole, *_ = read(embed(*given, out="whole.npy"))
    assert np.array_equal(x, whole)
    assert not (tmp_path / "features.npy.partial").exists()
    names = {f.name.removeprefix("features") for f in tmp_path.glob("features.npy.*")}
    assert names == {f.name.removeprefix("whole") for f in tmp_path.glob("whole.npy.*")}


def test_replaced_file_leaves_nothing_of_the_older_one(trained, embed, tmp_path):
    embed(f"ckpt={trained}", "neighbours=true", "queries=3", "nearest=4")
    assert (tmp_path / "f.npz.neighbours.html").is_file()
    embed(f"ckpt={trained}", "overwrite=true")
    assert not (tmp_path / "f.npz.neighbours.html").exists()
    assert (tmp_path / "f.npz.about.json").is_file()


def test_other_images_start_anew(trained, embed, tmp_path, monkeypatch):
    def stop(self, count):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module.Progress, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            embed(f"ckpt={trained}", "batch_size=100")
    x, *_ = read(embed(f"ckpt={trained}", "batch_size=64"))
    y, *_ = read(embed(f"ckpt={trained}", "batch_size=64", out="g.npz"))
    assert np.array_equal(x, y)


def test_neighbours_and_near_duplicates_are_written(trained, embed, tmp_path):
    embed(f"ckpt={trained}", "neighbours=true", "duplicates=0.999", "queries=3", "nearest=4")
    with Image.open(tmp_path / "f.npz.neighbours.png") as picture:
        assert picture.size[0] > 5 * neighbours.TILE and picture.size[1] > 3 * neighbours.TILE
    page = (tmp_path / "f.npz.neighbours.html").read_text()
    assert page.count("<figure>") == 3 * 5 and page.count("data:image/") == 3 * 5 and "://" not in page
    x, files, splits, _ = read(tmp_path / "f.npz")
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    similar = np.triu(x @ x.T, 1)
    with (tmp_path / "f.npz.duplicates.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = [f"{s}: {f}" for s, f in zip(splits, files, strict=True)]
    expected = {(names[i], names[j]) for i, j in zip(*np.nonzero(similar >= 0.999 + 1e-6), strict=True)}
    assert expected <= {(r["first"], r["second"]) for r in rows}
    values = [float(r["similarity"]) for r in rows]
    assert values == sorted(values, reverse=True) and (not values or min(values) >= 0.9989)


def test_single_image_has_no_neighbours(trained, embed, tmp_path):
    folder = photographs(tmp_path / "photos", 1)
    given = (f"ckpt={trained}", "foreign=[data:folder,data.labels:none]", f"data.path={folder}", "neighbours=true")
    x, *_ = read(embed(*given))
    assert len(x) == 1 and not (tmp_path / "f.npz.neighbours.png").exists()


def test_nearest_and_pairs_equal_scikit_learn(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    x = torch.nn.functional.normalize(torch.randn(40, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    queries = torch.tensor([3, 0, 39])
    similarity, rows = neighbours.nearest(x, queries, 4)
    distance, expected = NearestNeighbors(n_neighbors=5, metric="cosine").fit(x.numpy()).kneighbors(x[queries].numpy())
    assert rows.tolist() == expected[:, 1:].tolist()
    np.testing.assert_allclose(similarity.numpy(), 1 - distance[:, 1:], atol=1e-5)
    pairs = neighbours.near_duplicates(x, 0.7)
    whole = (x @ x.T).numpy()
    assert {(i, j) for _, i, j in pairs} == {(i, j) for i in range(40) for j in range(i + 1, 40) if whole[i, j] >= 0.7}
    assert [s for s, *_ in pairs] == sorted((s for s, *_ in pairs), reverse=True)


def test_third_party_checkpoint(embed, tmp_path):
    import torchvision

    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "r.pth")
    folder = photographs(tmp_path / "photos", 6)
    given = ("foreign=[backbone:resnet18,data:folder,data.crop:32]", f"data.path={folder}")
    x, *_ = read(embed(f"ckpt={tmp_path / 'r.pth'}", *given))
    assert x.shape == (6, 512)
    with pytest.raises(UserError, match="name its backbone"):
        embed(f"ckpt={tmp_path / 'r.pth'}", out="g.npz")


def test_mistakes(trained, embed, tmp_path, monkeypatch):
    (tmp_path / "f.csv").mkdir()
    for given, told in (
        (["out=null"], "out=null: no file was given"),
        ([f"out={tmp_path}/f.txt"], "names no format; end it in .parquet"),
        ([f"out={tmp_path}/none/f.csv"], "none is not a folder; make it first"),
        ([f"out={tmp_path}/f.csv"], "f.csv: is a folder"),
        (["duplicates=2"], "duplicates=2: not a possible value"),
        (["ckpt=timm:resnet1"], "ckpt=timm:resnet1: timm has no published weights of this name"),
        (["ckpt=null"], "ckpt=: no checkpoint was given"),
    ):
        with pytest.raises(UserError, match=told):
            embed(f"ckpt={trained}", *given)
    (tmp_path / "f.npz").write_text("mine")
    with pytest.raises(UserError, match="is there already; add overwrite=true"):
        embed(f"ckpt={trained}")
    assert (tmp_path / "f.npz").read_text() == "mine"
    (tmp_path / "h.npz.about.json").write_text("mine")
    with pytest.raises(UserError, match="h.npz.about.json is there already; add overwrite=true"):
        embed(f"ckpt={trained}", out="h.npz")
    (tmp_path / "h.npz.about.json").unlink()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'siamese-ssl\[parquet\]'"):
        embed(f"ckpt={trained}", out="g.parquet")
    assert {f for f in os.listdir(tmp_path) if not f.startswith("r")} == {"f.npz", "f.csv"}


def test_no_readable_image(trained, embed, tmp_path):
    folder = photographs(tmp_path / "photos", 4)
    given = (f"ckpt={trained}", "foreign=[data:folder]", f"data.path={folder}", "data.resident=false", "data.workers=0")
    whole = [file.read_bytes() for file in sorted(folder.rglob("*.png"))]
    for file, content in zip(sorted(folder.rglob("*.png")), whole, strict=True):
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="none of its 4 images can be read"):
        embed(*given)
    assert not (tmp_path / "f.npz").exists()


def test_command(command, trained, tmp_path):
    """As a user types it, with the groups of train.py."""
    photographs(tmp_path / "photos", 8)
    words = ["embed", f"ckpt={trained}", "data=folder", "data.path=photos", "out=f.csv", "data.workers=0"]
    done = command("ssl/siamese/__main__.py", *words)
    assert done.returncode == 0, done.stderr
    assert "features: f.csv, 8 images x 8 (train)" in done.stdout
    again = command("ssl/siamese/__main__.py", *words)
    assert (again.returncode, again.stderr) == (
        2,
        "error: out=f.csv: is there already; add overwrite=true, or choose another file\n",
    )
