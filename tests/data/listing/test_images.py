"""Which files of a folder are images, and their labels."""

import os

import pytest
import torch
from listing_cases import ROWS, names, refuse, tree, written

from siamese.data.listing import UNKNOWN, list_images

# Files; the classes, and the images of each class (of all, without classes).
SHAPES = {
    "classes": (
        ["b/0.png", "a/1.jpg", "a/x/0.bmp", "a-b/0.png", "a/x-y/0.gif", "c/notes.txt", "a/x.png/1.png"],
        {"a": ["a/1.jpg", "a/x/0.bmp", "a/x-y/0.gif", "a/x.png/1.png"], "a-b": ["a-b/0.png"], "b": ["b/0.png"]},
    ),
    "flat": (["b.png", "a.TIFF", "notes.txt", ".hidden.png"], {"": ["a.TIFF", "b.png"]}),
    "one folder": (["only/1.png", "only/deep/0.png"], {"": ["only/1.png", "only/deep/0.png"]}),
    "hidden": (
        ["a/0.png", "b/0.png", ".c/0.png", "__MACOSX/0.png", "a/.t/0.png", "b/__MACOSX/d/0.png", "a/._0.png"],
        {"a": ["a/0.png"], "b": ["b/0.png"]},
    ),
    "hidden beside": (["a/0.png", "b/0.png", "._stray.png"], {"a": ["a/0.png"], "b": ["b/0.png"]}),
    "nothing": (["a/notes.txt"], {}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_class_folders(tmp_path, shape):
    files, expected = SHAPES[shape]
    found = list_images(tree(tmp_path / "root", *files))
    assert (found.classes, found.parts) == ([c for c in expected if c], None)
    assert found.labels.dtype == torch.int64
    grouped = {}
    for name, label in zip(names(found), found.labels.tolist(), strict=True):
        grouped.setdefault(found.classes[label] if label >= 0 else "", []).append(name)
    assert {k: sorted(v) for k, v in grouped.items()} == {k: sorted(v) for k, v in expected.items()}


def test_links_to_folders_and_files(tmp_path):
    root = tree(tmp_path / "root", "a/0.png", "b/0.png")
    other = tree(tmp_path / "other", "1.png", "deep/2.png")
    (root / "c").symlink_to(other)
    (root / "a" / "inner").symlink_to(other)
    (root / "b" / "1.png").symlink_to(other / "1.png")
    (root / "b" / "gone.png").symlink_to(other / "gone.png")
    (root / "b" / "self.png").symlink_to("self.png")
    found = list_images(root)
    assert found.classes == ["a", "b", "c"]
    assert names(found) == ["a/0.png", "b/0.png", "b/1.png", "c/1.png", "c/deep/2.png"]
    assert found.labels.tolist() == [0, 1, 1, 2, 2]
    assert found.left_out == {"link to a folder": 1, "broken link": 2}


def test_loops_of_links_end(photos):
    for link, target in (("ant/up", ".."), ("loop", "."), ("out", ".."), ("twin", "ant")):
        (photos / link).symlink_to(target)
    found = list_images(photos, "none")
    assert names(found) == ["ant/0.png", "ant/1.JPG", "bee/0.png", "bee/1.npy"]
    assert found.left_out == {"link to a folder": 4}
    assert {"ant", "bee", "twin", "loop"} <= set(list_images(photos).classes)  # links in the folder itself


def test_a_tree_without_labels(photos):
    tree(photos, "stray.webp", "bee/deep/er/2.ppm", "bee/notes.md", "LICENSE")
    refuse(
        r"^data.path=.*photos: holds 1 images and folders of images; keep either class folders or a flat folder, or "
        r"give data.labels=none$",
        photos,
    )
    found = list_images(photos, "none")
    assert names(found) == ["ant/0.png", "ant/1.JPG", "bee/0.png", "bee/1.npy", "bee/deep/er/2.ppm", "stray.webp"]
    assert found.classes == [] and found.labels.tolist() == [-1] * 6
    assert found.left_out == {"no image format": 2}


def test_what_is_left_out_is_counted(photos):
    tree(photos, "Thumbs.db", "ant/desktop.ini", ".DS_Store", "ant/.x.png", ".git/a.png", "__MACOSX/a.png", "x.txt")
    assert list_images(photos).left_out == {
        "Thumbs.db, desktop.ini, .DS_Store": 3, "hidden": 2, "__MACOSX": 1, "no image format": 1,
    }  # fmt: skip


def test_a_folder_that_cannot_be_listed(tmp_path, photos, monkeypatch):
    refuse("^data.path=.*/nowhere: the folder .* cannot be listed .No such file", tmp_path / "nowhere")
    refuse("cannot be listed .Not a directory", photos / "ant" / "0.png")
    real = os.scandir

    def denied(where):
        if "bee" in str(where):
            raise PermissionError(13, "Permission denied")
        return real(where)

    monkeypatch.setattr(os, "scandir", denied)
    refuse("^data.path=.*photos: the folder .*/bee/ cannot be listed .Permission denied", photos)


GLOBS = [
    ("*.png", ["a/x.png", "b/a/y.png", "z.png"]),
    ("a/*", ["a/x.png"]),
    ("a/**", ["a/x.png"]),
    ("a/", ["a/x.png"]),
    ("./a/", ["a/x.png"]),
    ("**/a/*", ["a/x.png", "b/a/y.png"]),
    ("b/**/y.png", ["b/a/y.png"]),
    ("b/a/**/y.png", ["b/a/y.png"]),
    ("**/**/z.png", ["z.png"]),
    ("?/[xw].png", ["a/x.png"]),
    ("*.p*", ["a/x.png", "b/a/y.png", "z.png"]),
    ("*.[pP]*", ["a/x.png", "b/a/y.png", "ba/w.PPM", "z.png"]),
    ("*/*", ["a/x.png", "b/a/y.png", "ba/w.PPM"]),
]


@pytest.mark.parametrize(("glob", "kept"), GLOBS)
def test_globs(tmp_path, glob, kept):
    root = tree(tmp_path / "root", "a/x.png", "b/a/y.png", "ba/w.PPM", "z.png")
    every = ["a/x.png", "b/a/y.png", "ba/w.PPM", "z.png"]
    found = list_images(root, "none", include=[glob])
    assert names(found) == kept
    assert found.left_out == {"not named by data.include": 4 - len(kept)}
    if len(kept) < 4:
        found = list_images(root, "none", exclude=[glob])
        assert names(found) == [name for name in every if name not in kept]
        assert found.left_out == {"excluded by data.exclude": len(kept)}


def test_include_and_exclude_together(photos):
    found = list_images(photos, "folders", include=["*.png", "*.JPG"], exclude=["ant/0*", "nothing"])
    assert names(found) == ["ant/1.JPG", "bee/0.png"]
    assert found.left_out == {"not named by data.include": 1, "excluded by data.exclude": 1}
    assert list_images(photos, exclude=["nothing"]).left_out == {"excluded by data.exclude": 0}
    assert list_images(photos, exclude=["bee/"]).classes == []  # a single folder is not a class
    refuse(
        r"^data.include=\['ant/\*', 'cat/\*'\]: 'cat/\*' matches none of 4 images, the first is ant/0.png", photos,
        include=["ant/*", "cat/*"],
    )  # fmt: skip
    refuse(r"^data.exclude=\['\*'\]: leaves none of 4 images", photos, exclude=["*"])
    assert list_images(photos, include="*.png").left_out == {"not named by data.include": 2}  # type: ignore[arg-type]


def test_several_labels_make_a_multi_hot_row(photos, table):
    found = list_images(photos, table("ant/0.png,cat; dog\nbee/0.png,bird\nbee/1.npy,\n"))
    assert found.classes == ["bird", "cat", "dog"]
    assert found.labels.dtype == torch.uint8
    assert found.labels.tolist() == [[0, 1, 1], [UNKNOWN] * 3, [1, 0, 0], [UNKNOWN] * 3]
    kept = list_images(photos, table("ant/0.png,cat;dog\nbee/0.png,bird\nbee/1.npy,cat\n"), exclude=["ant/"])
    assert kept.classes == ["bird", "cat"] and kept.labels.tolist() == [[1, 0], [0, 1]]  # as the CSV, whatever remains


def test_parts(photos, table):
    rows = "file,label,split\nant/0.png,cat,Training\nant/1.JPG,dog,valid\nbee/0.png,,test\n"
    found = list_images(photos, table(rows))
    assert found.parts == ["train", "val", "test", "train"]  # a file without a row is for training
    assert found.labels.tolist() == [0, 1, -1, -1]
    for word, part in (("train", "train"), ("val", "val"), ("VALIDATION", "val"), (" test ", "test")):
        assert list_images(photos, table(rows.replace("valid", word))).parts[1] == part
    unlabelled = list_images(photos, table("ant/0.png,,train\nant/1.JPG,,test\n"))
    assert unlabelled.classes == [] and unlabelled.parts == ["train", "test", "train", "train"]
    refuse("line 3 has the part 'dev'; the parts are train, training", photos, table(rows.replace("valid", "dev")))
    refuse("line 3 has the part ''", photos, table(rows.replace("valid", "")))
    refuse("none of 4 images is in the part train", photos, table(ROWS.replace("\n", ",test\n")))


def test_labels_that_are_no_file(photos, tmp_path):
    refuse("^data.labels=folder: is neither folders, none nor a file; looked at /", photos, "folder")
    refuse("is neither folders, none nor a file", photos, str(tmp_path))
    refuse("^data.list=.*/none: cannot be read .No such file", photos, files=tmp_path / "none")
    refuse("^data.list=.*: cannot be read .Is a directory", photos, files=tmp_path)


@pytest.mark.parametrize(
    "content", ["bee/0.png\nant/1.JPG\n", "bee/0.png\r\n\r\n./ant/1.JPG", "photos/bee/0.png\nphotos/ant/1.JPG"]
)
def test_a_list_of_files(photos, table, tmp_path, content):
    found = list_images(photos, files=tmp_path / table(content, "list.txt"))
    assert names(found) == ["ant/1.JPG", "bee/0.png"]
    assert found.classes == ["ant", "bee"] and found.labels.tolist() == [0, 1]
    assert found.left_out == {"not in data.list": 2}
    found = list_images(photos, table(ROWS), files=tmp_path / table("bee/0.png\nant/1.JPG", "list"))
    assert found.labels.tolist() == [1, 0]


def test_many_files_ask_for_no_stat(photos, monkeypatch):
    """1.3 million files are listed in seconds: none is asked for more than the folder's own entry tells."""
    tree(photos, *(f"bee/{i}.png" for i in range(50)))
    if not all(entry.is_file() for entry in os.scandir(photos / "bee")):
        pytest.skip("this file system does not tell types")

    def stat(*args, **kwargs):
        raise AssertionError("stat")

    for function in ("stat", "lstat"):
        monkeypatch.setattr(os, function, stat)
    assert len(list_images(photos).files) == 53


def test_a_list_of_training_images_leaves_the_other_parts(tmp_path, photos):
    root = tree(tmp_path / "parts", "a.png", "b.png", "c.png", "d.png")
    table = written(tmp_path, "a.png,x,train\nb.png,y,train\nc.png,x,test\nd.png,y,val\n")
    listed = tmp_path / "list.txt"
    listed.write_text("a.png\n")
    found = list_images(root, str(table), files=listed)
    assert [f.name for f in found.files] == ["a.png", "c.png", "d.png"] and found.parts == ["train", "test", "val"]
