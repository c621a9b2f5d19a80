"""Hugging Face data sets on disk, in the layouts that `datasets` writes (compared by hand with its release 5.2)."""

import contextlib
import io
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from siamese.data.containers import tables
from siamese.data.containers.arrow import hugging_face, hugging_face_splits
from siamese.data.containers.source import share_classes
from siamese.errors import UserError

pa = pytest.importorskip("pyarrow")
import pyarrow.feather  # noqa: E402
import pyarrow.ipc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

DIGITS = load_digits()
DIGIT = [str(i) for i in range(10)]
NAMES = [f"digit {i}" for i in range(10)]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}


def encoded(i):
    out = io.BytesIO()
    Image.fromarray((DIGITS.images[i] * 15).astype(np.uint8)).save(out, "png")
    return out.getvalue()


PNG = [encoded(i) for i in range(60)]
TARGET = DIGITS.target[:60].tolist()


def table(first=0, last=60, features=FEATURES, **columns):
    cells = [{"bytes": PNG[i], "path": f"{i}.png"} for i in range(first, last)]
    own = {"image": pa.array(cells, IMAGE), "label": pa.array(TARGET[first:last], pa.int64())} | columns
    made = pa.table({k: v for k, v in own.items() if v is not None})
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def stream(file, rows, batch=7, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, rows.schema, **options) as writer:
        writer.write_table(rows, max_chunksize=batch)
    return file


def parquet(file, rows, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, file, **({"row_group_size": 13} | options))
    return file


def save(folder, *tables, split="train"):
    """As `Dataset.save_to_disk` does."""
    files = [f"data-{i:05d}-of-{len(tables):05d}.arrow" for i in range(len(tables))]
    for name, rows in zip(files, tables, strict=True):
        stream(folder / name, rows)
    state = {"_data_files": [{"filename": name} for name in files], "_split": split}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    return folder


def check(source, first=0, last=60, classes=NAMES):
    order = np.random.default_rng(0).permutation(last - first).tolist()
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert [one.read(i) for i in range(len(one))] == PNG[first:last]
        assert [one.read(i) for i in order] == [PNG[first + i] for i in order]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, range(len(source)))) == PNG[first:last]
    assert source.labels.tolist() == TARGET[first:last]
    assert source.classes == classes
    assert len({source.name(i) for i in range(len(source))}) == len(source) == last - first


def test_saved_data_sets(tmp_path):
    source = hugging_face(save(tmp_path / "one", table(0, 30), table(30, 60), split="all"))
    check(source)
    assert source.name(31) == "data-00001-of-00002.arrow:1"
    assert hugging_face_splits(tmp_path / "one") == ["all"]
    for split, first, last in (("train", 0, 40), ("test", 40, 60)):
        save(tmp_path / "both" / split, table(first, last), split=split)
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert hugging_face_splits(tmp_path / "both") == ["train", "test"]
    check(hugging_face(tmp_path / "both", "train"), 0, 40)
    check(hugging_face(tmp_path / "both", "test"), 40, 60)
    with pytest.raises(UserError, match="has 2 splits; choose one of train, test"):
        hugging_face(tmp_path / "both")
    with pytest.raises(UserError, match="there is no split 'val'; choose one of train, test"):
        hugging_face(tmp_path / "both", "val")


def test_the_names_of_dataset_info(tmp_path):
    folder = save(tmp_path, table().replace_schema_metadata(None))
    check(hugging_face(folder))


def hub(folder, readme=""):
    for i in range(3):
        parquet(folder / "data" / f"train-{i:05d}-of-00003.parquet", table(15 * i, 15 * i + 15))
    parquet(folder / "data" / "test-00000-of-00001.parquet", table(45, 60))
    if readme:
        (folder / "README.md").write_text(f"---\n{readme}\n---\n# Digits\n")
    return folder


README = """
dataset_info:
  features:
  - {name: image, dtype: image}
  - name: label
    dtype: {class_label: {names: {'0': a0, '1': a1, '2': a2, '3': a3, '4': a4, '5': a5, '6': a6, '7': a7, '8': a8,
      '9': a9, '10': a10}}}
configs:
- config_name: default
  data_files:
  - {split: fit, path: data/train-*}
  - {split: held, path: [data/test-*]}
"""


def test_parquet_as_on_the_hub(tmp_path):
    folder = hub(tmp_path)
    assert sorted(hugging_face_splits(folder)) == ["test", "train"]
    check(hugging_face(folder, "train"), 0, 45)
    check(hugging_face(folder, "test"), 45, 60)
    assert hugging_face(folder, "test").name(0) == "data/test-00000-of-00001.parquet:0"
    (folder / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match="2 of the 3 shards of train are there; the first missing one is number 1"):
        hugging_face(folder, "train")


def test_the_readme_of_the_hub(tmp_path):
    folder = hub(tmp_path, README)
    for file in (folder / "data").iterdir():
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    assert hugging_face_splits(folder) == ["fit", "held"]
    check(hugging_face(folder, "held"), 45, 60, [f"a{i}" for i in range(11)])
    for changed, says in (
        (README.replace("data/train-*", "../*"), "README.md names '../\\*'; it must lie in the folder"),
        (README.replace("data/train-*", "/data/*"), "must lie in the folder"),
        (README.replace("data/train-*", "data/x-*"), "no Parquet file of split 'fit'"),
        ("configs: [{config_name: a, data_files: a/*}, {config_name: b, data_files: b/*}]", "2 configurations: a, b"),
        ("a: [", "damaged YAML"),
    ):
        (folder / "README.md").write_text(f"---\n{changed}\n---\n")
        with pytest.raises(UserError, match=says):
            hugging_face_splits(folder)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["a.parquet", "b.parquet"], {"train"}), (["train.parquet", "digits-val.parquet"], {"train", "validation"}),
        (["train/0.parquet", "test/0.parquet"], {"train", "test"}), (["default/test/0000.parquet"], {"test"}),
        (["my_test_set-train.arrow", "my_test_set-extra.arrow", "cache-1f.arrow"], {"train", "extra"}),
        (["x-train-00000-of-00002.arrow", "x-train-00001-of-00002.arrow"], {"train"}),
        ([".hidden/test.parquet", "a.parquet"], {"train"}), ([], "holds no Parquet file and no Arrow"),
        (["a/train.parquet", "b/train.parquet"], "2 folders of tables: a, b"),
        (["a.parquet", "b.arrow"], "holds Parquet files and"),
        (["train.parquet", "b.parquet"], "the name of b.parquet tells no split"),
    ],
)  # fmt: skip
def test_splits_by_names(tmp_path, names, splits):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if isinstance(splits, set):
        assert set(hugging_face_splits(tmp_path)) == splits
    else:
        with pytest.raises(UserError, match=splits):
            hugging_face_splits(tmp_path)


def test_single_files_and_the_cache(tmp_path):
    check(hugging_face(parquet(tmp_path / "x.parquet", table())))
    check(hugging_face(stream(tmp_path / "x.arrow", table())))
    check(hugging_face(stream(tmp_path / "z.arrow", table(), options=pa.ipc.IpcWriteOptions(compression="lz4"))))
    pyarrow.feather.write_feather(table(), str(tmp_path / "f.arrow"), "uncompressed", chunksize=7)
    check(hugging_face(tmp_path / "f.arrow"))
    for i in range(2):
        stream(tmp_path / "cache" / f"x-train-{i:05d}-of-00002.arrow", table(30 * i, 30 * i + 30))
    check(hugging_face(tmp_path / "cache", "train"))
    with pytest.raises(UserError, match="is a file of the type '.csv'"):
        hugging_face((tmp_path / "x.arrow").rename(tmp_path / "x.csv"))


def test_plain_bytes_and_the_choice_of_the_column(tmp_path):
    plain = pa.array(PNG, pa.large_binary())
    check(hugging_face(parquet(tmp_path / "a.parquet", table(features={}, image=plain)), label="label"), classes=DIGIT)
    two = parquet(tmp_path / "b.parquet", table(features={}, mask=plain, text=pa.array(["x"] * 60)))
    with pytest.raises(
        UserError, match=r"data.image=null: .* hold images: image, mask; all columns: .*label \(int64\)"
    ):
        hugging_face(two)
    check(hugging_face(two, image="mask"), classes=DIGIT)
    with pytest.raises(UserError, match=r"data.image=text: this column is of type string, not .*: image, mask"):
        hugging_face(two, image="text")
    with pytest.raises(UserError, match=r"data.image=nothing: this column is missing"):
        hugging_face(two, image="nothing")
    audio = {"mask": {"_type": "Audio"}, "image": {"_type": "Value"}}
    check(hugging_face(parquet(tmp_path / "c.parquet", table(features=audio, mask=plain))), classes=DIGIT)
    check(hugging_face(parquet(tmp_path / "d.parquet", table(mask=plain))))  # described as an image


@pytest.mark.parametrize(
    ("column", "classes", "labels"),
    [
        (pa.array([5, None, 70, -1], pa.int16()), ["5", "70"], [0, -1, 1, -1]),
        (pa.array(["b", None, "a", "b"]), ["a", "b"], [1, -1, 0, 1]),
        (pa.array(["b", None, "a", "b"]).dictionary_encode(), ["a", "b"], [1, -1, 0, 1]),
        (pa.nulls(4), [], [-1] * 4),
        (None, [], [-1] * 4),
    ],
)
def test_kinds_of_labels(tmp_path, column, classes, labels):
    source = hugging_face(parquet(tmp_path / "x.parquet", table(0, 4, {}, label=column)))
    assert source.classes == classes
    assert source.labels.tolist() == labels
    assert source.read(3) == PNG[3]


@pytest.mark.parametrize(
    ("column", "features", "says"),
    [
        (pa.array([[1], [2]]), {}, "data.label=label: .*several labels an image are not supported here"),
        (pa.array([0.5, 1]), {}, "data.label=label: this column is of type double; columns .*: text; .*data.label=''"),
        (pa.array([3, 10]), FEATURES, "column 'label', row 1: the label '10' is not below 10"),
        (pa.array([3, -7]), {}, "row 1: the label '-7' is below -1"),
    ],
)
def test_labels_that_are_refused(tmp_path, column, features, says):
    rows = table(0, 2, features, label=column, text=pa.array(["x", "y"]))
    for file in (parquet(tmp_path / "x.parquet", rows), stream(tmp_path / "x.arrow", rows)):
        with pytest.raises(UserError, match=says):
            hugging_face(file)
        assert hugging_face(file, label="text").classes == ["x", "y"]
        assert hugging_face(file, label="").classes == []


def test_several_class_labels(tmp_path):
    features = FEATURES | {"coarse": {"_type": "ClassLabel", "names": ["even", "odd"]}}
    file = parquet(tmp_path / "x.parquet", table(features=features, coarse=pa.array([t % 2 for t in TARGET])))
    with pytest.raises(UserError, match="2 columns of class labels: label, coarse; give one as data.label="):
        hugging_face(file)
    assert hugging_face(file, label="coarse").labels.tolist() == [t % 2 for t in TARGET]


def test_splits_of_texts_share_their_classes(tmp_path):
    file = parquet(tmp_path / "a.parquet", table(0, 3, {}, label=pa.array(["a", "b", "c"])))
    other = parquet(tmp_path / "b.parquet", table(0, 2, {}, label=pa.array(["c", "b"])))
    train, test = hugging_face(file), hugging_face(other)
    share_classes(train, {"test": test})
    assert test.labels.tolist() == [2, 1]


@pytest.mark.parametrize("write", [stream, parquet])
def test_images_in_files_of_their_own(tmp_path, write):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "inner").mkdir()
    (folder / "inner" / "1.png").write_bytes(PNG[1])
    cells = [{"bytes": PNG[0], "path": "/etc/passwd"}, {"bytes": None, "path": "inner/1.png"}, None,
             {"bytes": None, "path": None}, {"bytes": None, "path": "inner/4.png"}]  # fmt: skip
    file = write(folder / ("x.arrow" if write is stream else "x.parquet"), table(0, 5, image=pa.array(cells, IMAGE)))
    source = pickle.loads(pickle.dumps(hugging_face(file)))
    assert [source.read(i) for i in (0, 1)] == PNG[:2]
    assert source.files == [file, folder / "inner" / "1.png"]
    for row, says in ((2, "has no image"), (3, "has no image"), (4, "no file 'inner/4.png'")):
        with pytest.raises((ValueError, OSError), match=f"^{file.name}:{row}.* {says}"):
            source.read(row)
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "inner" / "1.png").unlink()
    (folder / "inner" / "1.png").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="no file"):  # exchanged after the index was made
        source.read(1)
    for outside in ("../secret", str(tmp_path / "secret"), "inner/1.png", "a\0b", "."):
        write(file, table(0, 1, image=pa.array([{"bytes": None, "path": outside}], IMAGE)))
        with pytest.raises(UserError, match="the image of row 0 is the file .* outside of .*; save .* embedded"):
            hugging_face(file)


def test_an_image_file_of_the_second_table(tmp_path):
    (tmp_path / "1.png").write_bytes(PNG[1])
    parquet(tmp_path / "a.parquet", table(0, 1))
    parquet(tmp_path / "b.parquet", table(1, 2, image=pa.array([{"bytes": None, "path": "1.png"}], IMAGE)))
    source = hugging_face(tmp_path)
    assert [source.read(i) for i in range(2)] == PNG[:2]


@pytest.mark.parametrize("write", [stream, parquet])
def test_damaged_files(tmp_path, write):
    """Every cut is told, also that of whole batches of rows."""
    file = write(tmp_path / ("x.arrow" if write is stream else "x.parquet"), table())
    content = file.read_bytes()
    for length in [*range(0, len(content), len(content) // 50), len(content) - 1, len(content) - 8]:
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match=f"{file.name}.* cannot be read .*; copy or write it again") as raised:
            hugging_face(file)
        assert "\n" not in str(raised.value)
    for seed in range(150):  # flipped bytes: an error or other images, never a crash
        random = np.random.default_rng(seed)
        flipped = np.frombuffer(content, np.uint8).copy()
        flipped[random.integers(0, len(content), 20)] = random.integers(0, 256, 20)
        file.write_bytes(flipped.tobytes())
        try:
            source = hugging_face(file)
        except UserError:
            continue
        for i in range(len(source)):
            with contextlib.suppress(ValueError, OSError):
                source.read(i)


def test_folders_of_a_stranger(tmp_path):
    folder = save(tmp_path / "x", table())
    state = json.loads((folder / "state.json").read_text())
    for change, says in (
        ({"_data_files": [{"filename": "../y.arrow"}]}, "names '../y.arrow', which is not in it"),
        ({"_data_files": [{"filename": "y.arrow"}]}, "1 of 1 files of .* do not exist"),
        ({"_data_files": None}, "names no files"), ({"_data_files": []}, "0 of 0 files"),
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "indices file"),
    ):  # fmt: skip
        (folder / "state.json").write_text(json.dumps(state | change))
        with pytest.raises(UserError, match=says):
            hugging_face(folder)
    (folder / "state.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="state.json is damaged"):
        hugging_face(folder)
    (folder / "dataset_dict.json").write_text('{"splits": ["../x"]}')
    with pytest.raises(UserError, match="names '../x', which is not in it"):
        hugging_face(folder)


def test_files_of_several_data_sets(tmp_path):
    parquet(tmp_path / "a.parquet", table(0, 9))
    parquet(tmp_path / "b.parquet", table(0, 9, image=pa.array(["x"] * 9)))
    with pytest.raises(UserError, match="b.parquet has another column 'image' than a.parquet"):
        hugging_face(tmp_path)


def test_a_file_that_changes(tmp_path):
    source = hugging_face(parquet(tmp_path / "x.parquet", table()))
    source = pickle.loads(pickle.dumps(source))
    parquet(tmp_path / "x.parquet", table(10, 20))
    with pytest.raises(ValueError, match="has changed since it was indexed"):
        source.read(0)


def test_one_row_group_is_decoded_once_and_in_blocks(tmp_path, monkeypatch):
    """A row group as large as the file: rows are read in order with one pass and few rows in memory."""
    monkeypatch.setattr(tables, "BLOCK_BYTES", 1)
    source = hugging_face(parquet(tmp_path / "x.parquet", pa.concat_tables([table()] * 10), row_group_size=10_000))
    starts = []
    keep = tables.Table.keep
    monkeypatch.setattr(tables.Table, "keep", lambda s, at, v: (starts.append((at, len(v))), keep(s, at, v))[1])
    once = [(at, min(16, 600 - at)) for at in range(0, 600, 16)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, range(600))) == PNG * 10
    assert starts == once
    monkeypatch.setattr(tables, "KEPT_BYTES", 1)
    source = pickle.loads(pickle.dumps(source))
    assert [source.read(i) for i in range(600)] == PNG * 10
    assert starts == once * 2
    (opened,) = source._tables.values()
    assert len(opened.kept) == tables.LEAST_KEPT
    assert source.read(0) == PNG[0]  # from the start again
    assert starts[-1] == (0, 16)


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"^data=hf: needs pyarrow .*; pip install siamese-ssl\[hf\]$"):
        hugging_face(tmp_path)


def test_pyarrow_is_imported_at_the_first_use():
    code = "import sys, siamese.data.containers; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
