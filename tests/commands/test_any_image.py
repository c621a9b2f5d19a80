"""Images as strangers bring them: used rightly, or answered with one line, exit code 2 and nothing written."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from image_cases import COUNT, encoded, image, tree, truncated
from PIL import Image

from siamese.errors import UserError
from siamese.training import build, check

SMALL = ("data.size=24", "data.crop=16", "batch_size=4", "backbone=small", "data.workers=0", "data.val_fraction=0.2")
PLACES = {"streamed": "data.resident=false", "resident": "data.resident=true", "packed": "data.packed=packed"}


@pytest.fixture
def refused(config, here, tiny):
    """The message of a run that cannot be built; nothing was written."""

    def run(*overrides, data="folder"):
        before = sorted(here.rglob("*"))
        with pytest.raises(UserError) as error:
            build(check(config(*tiny, f"data={data}", *SMALL, "run_dir=refused", *overrides)))
        message = str(error.value)
        assert message.isprintable() and len(message) < 700
        assert sorted(here.rglob("*")) == before
        return message

    return run


@pytest.fixture
def skipped(session, here):
    """The files that a whole run has skipped."""

    def run(*overrides, data="folder"):
        made = session(f"data={data}", *SMALL, *overrides, "data.on_error=skip")
        made.fit()
        made.finish()
        names = sorted(os.path.basename(name) for name in made.loader.skipped)
        summary = json.loads((made.folder / "summary.json").read_text())
        assert summary["skipped_images"] == len(names)
        assert np.isfinite(summary["linear_top1"])
        return names

    return run


def changed(x, value, at=(3, 4, 0)):
    x[at] = value
    return x


# What stands in the place of the third image, and what is said of it.
BAD = {
    **{f"truncated {s}": ((s,), {"data": truncated(s)}, "cannot be decoded")
       for s in (".jpg", ".png", ".gif", ".webp", ".bmp", ".tif", ".npy", ".ppm")},
    "empty": ((".png",), {"data": b""}, "is empty (0 bytes)"),
    "text": ((".png",), {"data": b"hello"}, "is no image of a known format"),
    "bomb": ((".png",), {"data": encoded(".png", height=90, width=90)}, "90 x 90 = 8100 pixels are more than"),
    "NaN": ((".npy", 3, np.float32), {"array": changed(image(2, 3, np.float32), np.nan)}, "1 of 4752 values are NaN"),
    "infinity": ((".npy", 3, np.float32), {"array": changed(image(2, 3, np.float32), -np.inf)}, "1 of 4752 values"),
    "negative": ((".npy", 3, np.uint16), {"array": changed(image(2, 3, np.uint16).astype(np.int16), -7)},
                 "values from -7 to "),
    "too large": ((".npy", 3, np.uint16), {"array": changed(image(2, 3, np.uint16).astype(np.int32), 70_000)},
                  "to 70000; 0 to 65535"),
    "complex": ((".npy", 3, np.uint16), {"array": image(2).astype(np.complex64)}, "holds complex64"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_unreadable_image_is_refused_wherever_images_lie(refused, here, case):
    kind, odd, says = BAD[case]
    tree(here / "d", *kind, **odd)
    for place in PLACES.values():
        message = refused("data.path=d", place, "data.max_pixels=8000")
        assert message.startswith(f"data.path: {here / 'd' / 'a' / '02'}".replace(str(here) + "/", ""))
        assert says in message and message.endswith("remove it, or set data.on_error=skip")


@pytest.mark.parametrize(
    ("case", "place"),
    [("truncated .jpg", "streamed"), ("truncated .tif", "packed"), ("NaN", "resident"), ("bomb", "streamed"),
     ("negative", "packed"), ("empty", "resident")],
)  # fmt: skip
def test_unreadable_image_is_skipped_and_counted(skipped, here, case, place):
    kind, odd, _ = BAD[case]
    tree(here / "d", *kind, **odd)
    assert skipped("data.path=d", PLACES[place], "data.max_pixels=8000") == [f"02{kind[0]}"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["00", "04", "zz"])  # first, in the middle, last
def test_image_of_other_channels_or_depth(refused, skipped, here, place, name):
    tree(here / "d")
    file = here / "d" / "a" / f"{name}.png"
    file.unlink(missing_ok=True)
    file.with_suffix(".tif").write_bytes(encoded(".tif", 1, 4))
    message = refused("data.path=d", PLACES[place])
    assert message.startswith("data.path=d: holds images of several kinds")
    assert f"1 are uint8 of 4 channels (d/a/{name}.tif)" in message
    file.with_suffix(".tif").write_bytes(encoded(".tif", 1, 3, np.uint16))
    assert f"1 are uint16 of 3 channels (d/a/{name}.tif)" in refused("data.path=d", PLACES[place])
    if name == "04":
        assert skipped("data.path=d", PLACES[place]) == [f"{name}.tif"]


def test_image_of_another_kind_beyond_the_inspected_headers(refused, here):
    tree(here / "d", count=300)
    chosen = set(np.unique(np.linspace(0, 299, 256, dtype=int)).tolist())
    files = sorted((here / "d").rglob("*.png"))
    odd = files[next(i for i in range(299) if i not in chosen)]
    odd.write_bytes(encoded(".tif", 1, 4))
    for place in PLACES.values():
        message = refused("data.path=d", place)
        assert message.startswith(
            f"data.path: {odd.relative_to(here)}: cannot be decoded (has 4 channels, the others 3)"
        )


def test_images_of_all_shapes_are_used(skipped, here):
    tree(here / "d")
    for name, size in (("00", (1, 1)), ("02", (20_000, 10)), ("04", (10, 20_000)), ("06", (1, 50))):
        Image.fromarray(image(1, height=size[1], width=size[0])).save(here / "d" / "a" / f"{name}.png")
    assert skipped("data.path=d", "data.resident=false") == []


@pytest.mark.parametrize("odd", [(".tif", 4), (".npy", 3, np.uint16)])
@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_split_of_another_kind(refused, here, odd, part, on_error):
    tree(here / "d" / "train")
    tree(here / "d" / part, *odd)
    for place in PLACES.values():
        message = refused("data.path=d", place, f"data.on_error={on_error}")
        assert message.startswith(f"data.path=d/{part}: d/{part}/a/00{odd[0]} is ")
        assert message.endswith("the training images are uint8 of 3; convert one of the splits")


SETTINGS = [
    ("data.mean=[0.1,0.2,0.3]", "data.mean=[0.1, 0.2, 0.3]: is of 3 channels, the images have 13"),
    ("data.std=[0.1,0.2,0.3]", "data.std=[0.1, 0.2, 0.3]: is of 3 channels, the images have 13"),
    ("data.value_range=[[0,1],[0,1]]", "data.value_range=[[0, 1], [0, 1]]: is of 2 channels, the images have 13"),
    ("data.value_range=[5,5]", "data.value_range=[5,5]: not a possible value"),
    ("data.channels=3", "data.channels=3: the images have other numbers of channels: 13 (d/a/00.tif)"),
    ("backbone.channels=3", "backbone=small: takes 3 channels, the images have 13"),
    ("data.show=[3,2,13]", "data.show=[3,2,13]: the images have the channels 0 to 12"),
]


def test_settings_that_do_not_fit_the_images(refused, here):
    tree(here / "d", ".tif", 13, np.uint16)
    for setting, says in SETTINGS:
        assert refused("data.path=d", setting).startswith(says)


LISTED = [
    ("data.labels=l.csv", ["a/00.png,x", "b/01.png,y", "a/none.png,x"], "line 3: a/none.png is missing"),
    ("data.labels=l.csv", ["a/00.png,x", "b/01.png,y", "a/00.png,y"], "names the same file on the lines 1 and 3"),
    ("data.list=l.csv", ["a/00.png", "b/01.png", "a/00.png"], "names the same file on the lines 1 and 3"),
    ("data.list=l.csv", ["a/00.png", "q.png"], "line 2: q.png is missing"),
]


@pytest.mark.parametrize(("setting", "rows", "says"), LISTED)
def test_lists_and_labels_that_do_not_fit_the_files(refused, here, setting, rows, says):
    tree(here / "d")
    (here / "l.csv").write_text("\n".join(rows) + "\n")
    message = refused("data.path=d", setting)
    assert message.startswith(f"{setting}: ") and says in message


def test_file_without_a_label_is_trained_on_without_one(session, here):
    tree(here / "d")
    rows = [f"{'ab'[i % 2]}/{i:02}.png,{'xy'[i % 2]}" for i in range(COUNT - 2)]
    (here / "l.csv").write_text("\n".join(rows) + "\n")
    run = session("data=folder", *SMALL, "data.path=d", "data.labels=l.csv")
    assert len(run.split) == COUNT
    assert len(run.data.train_labeled) + len(run.data.val) == COUNT - 2


def shard(file, odd=None):
    """Twelve images with their classes; `odd` takes the place of the third image."""
    with tarfile.open(file, "w") as tar:
        for i in range(COUNT):
            data = odd if odd is not None and i == 2 else encoded(".png", i)
            for name, content in ((f"{i:02}.png", data), (f"{i:02}.cls", str(i % 2).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_tar_with_a_broken_member(refused, skipped, here):
    for odd, says in ((b"junk", "is no image of a known format"), (truncated(".png"), "truncated")):
        shard(here / "w.tar", odd)
        message = refused("data.path=w.tar", "data.packed=p", data="webdataset")
        assert message.startswith("data.path: w.tar/02.png: cannot be decoded") and says in message
    assert skipped("data.path=w.tar", "data.packed=p", data="webdataset") == ["02.png"]
    shard(here / "w.tar", encoded(".tif", 1, 4))
    message = refused("data.path=w.tar", "data.packed=q", data="webdataset")
    assert "1 are uint8 of 4 channels (w.tar/02.png)" in message
    shard(here / "w.tar")
    (here / "w.tar").write_bytes((here / "w.tar").read_bytes()[:50_000])
    message = refused("data.path=w.tar", "data.packed=q", data="webdataset")
    assert "is cut" in message


def test_hf_column_of_another_type(refused, here):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def write(cells, kind, labels):
        (here / "h").mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": pa.array(cells, kind), "label": labels}), here / "h" / "train.parquet")

    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": encoded(".png", i), "path": None} for i in range(COUNT)]
    classes = [str(i % 2) for i in range(COUNT)]
    write(["x.png"] * COUNT, pa.string(), classes)
    assert refused("data.path=h", "data.image=image", data="hf").startswith(
        "data.image=image: this column is of type string"
    )
    write(cells, image_type, [0.5] * COUNT)
    assert refused("data.path=h", "data.label=label", data="hf").startswith(
        "data.label=label: this column is of type double"
    )
    write([*cells[:-1], {"bytes": b"junk", "path": None}], image_type, classes)
    assert "cannot be decoded (is no image of a known format" in refused("data.path=h", data="hf")


def test_all_images_unreadable(refused, here):
    for file in sorted(tree(here / "d").rglob("*.png")):
        file.write_bytes(file.read_bytes()[:200])  # the headers are whole
    for place in PLACES.values():
        assert "none of its 12 images can be read" in refused("data.path=d", place, "data.on_error=skip")


def test_evaluation_counts_what_it_skips(session, evaluation, here, capsys):
    for part in ("train", "test"):
        tree(here / "d" / part)
    own = ("data=folder", *SMALL, "data.path=d", "data.resident=false")
    session(*own).fit()
    (here / "d" / "test" / "a" / "02.png").write_bytes(truncated(".png"))
    file = here / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"data.path: d/test/a/02.png: cannot be decoded"):
        evaluation(file, "eval=knn", folder="stop").run()
    evaluation(file, "eval=knn", "data.on_error=skip", "data.resident=false", folder="skip").run()
    assert capsys.readouterr().out.count("skipped 1 unreadable images of the test split") == 1


def test_at_the_command_line(command, tmp_path):
    """One case of train.py and one of eval_linear.py as a user sees them."""
    tree(tmp_path / "d" / "train", ".tif", 13, np.uint16)
    tree(tmp_path / "d" / "test", ".tif", 13, np.uint16)
    own = ("method=simsiam", "epochs=1", "backbone.widths=[4,8]", "probe.linear.epochs=2", "trainer=cpu", *SMALL)
    refusal = command("train.py", *own, "data=folder", "data.path=d", "data.channels=4", "run_dir=r")
    assert refusal.returncode == 2 and refusal.stdout == "" and refusal.stderr.count("\n") == 1
    assert refusal.stderr.startswith("error: data.channels=4: ")
    assert os.listdir(tmp_path) == ["d"]
    done = command("train.py", *own, "data=folder", "data.path=d", "data.show=[3,2,1]", "run_dir=r")
    assert done.returncode == 0, done.stderr
    assert "data.channels=13" in done.stdout and "data.value_range=[[" in done.stdout
    judged = command("eval_linear.py", "ckpt=r/checkpoints/last.ckpt", "eval=knn", "run_dir=e")
    assert judged.returncode == 0, judged.stderr
    tree(tmp_path / "four" / "train", ".tif", 4), tree(tmp_path / "four" / "test", ".tif", 4)
    other = command("eval_linear.py", "ckpt=r/checkpoints/last.ckpt", "eval=knn", "data.path=four", "run_dir=f")
    assert other.returncode == 2 and other.stderr.count("\n") == 1, other.stderr
    assert "13" in other.stderr and not (tmp_path / "f").exists()
