"""Text files that name images: CSVs of labels, lists."""

import unicodedata

import pytest
import torch
from listing_cases import PHOTOS, ROWS, names, refuse, tree, written

from siamese.data.listing import list_images

FORMS = {
    "plain": ROWS,
    "header": "Filename,label\n" + ROWS,
    "tabs": ("path\tclass\n" + ROWS).replace(",", "\t"),
    "byte order mark": b"\xef\xbb\xbf" + ROWS.encode(),
    "byte order mark, header": b"\xef\xbb\xbffile,label\r\n" + ROWS.replace("\n", "\r\n").encode(),
    "windows": ROWS.replace("\n", "\r\n"),
    "old mac": ROWS.replace("\n", "\r"),
    "quoted": '"file","label"\n"ant/0.png","cat"\n"ant/1.JPG","dog"\n"bee/0.png", cat \n"bee/1.npy",""\n',
    "empty lines": "\n" + ROWS.replace("\n", "\n\n") + "   \n",
    "no last line end": ROWS.rstrip("\n"),
    "order": "".join(reversed(ROWS.splitlines(keepends=True))),
    "spellings": "./ant/0.png,cat\nbee/../ant/1.JPG,dog\nbee//0.png,cat\nbee\\1.npy,\n",
    "below the CSV's folder": ROWS.replace("ant/", "photos/ant/").replace("bee/", "photos/bee/"),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_a_csv(photos, table, form):
    found = list_images(photos, table(FORMS[form]))
    assert names(found) == ["ant/0.png", "ant/1.JPG", "bee/0.png", "bee/1.npy"]
    assert found.classes == ["cat", "dog"] and found.parts is None
    assert found.labels.tolist() == [0, 1, 0, -1] and found.labels.dtype == torch.int64


def test_absolute_paths(photos, table, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    rows = ROWS.replace("ant/", f"{photos}/ant/").replace("bee/", f"{photos}/bee/")
    for root in (photos, tmp_path / "link", photos / "ant" / ".."):
        assert list_images(root, table(rows)).labels.tolist() == [0, 1, 0, -1]
    says = "line 1: /elsewhere/0.png lies outside of it; paths are relative to data.path"
    refuse(says, photos, table("/elsewhere/0.png,cat\n" + ROWS))


def test_links_between_a_csv_and_its_folder(tmp_path):
    """Paths relative to the CSV's folder: the folder of images, or that of the CSV, may be a link."""
    tree(tmp_path / "disk" / "photos", *PHOTOS)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "link").symlink_to(tmp_path / "disk" / "photos")
    (tmp_path / "short").symlink_to(tmp_path / "disk")
    for root, folder, prefix in (("home/link", "home", "link"), ("disk/photos", "short", "photos")):
        file = written(tmp_path / folder, "".join(f"{prefix}/{row}\n" for row in ROWS.split()))
        assert list_images(tmp_path / root, file).labels.tolist() == [0, 1, 0, -1]


def test_a_file_named_like_a_header_is_a_row(tmp_path, table):
    root = tree(tmp_path / "root", "image.png", "b.png")
    assert list_images(root, table("image.png,a\nb.png,b\n")).labels.tolist() == [1, 0]
    refuse("names 3 files, 1 of which are not .* line 1: id is missing", root, table("id,x\nimage.png,a\nb.png,b\n"))


def test_names_with_separators_and_text(tmp_path, table):
    root = tree(tmp_path / "root", "a,b.png", "ü.png", "#1.png", "a b.png", "semi;colon.png")
    rows = '"a,b.png",ä\nü.png,"b, c"\n#1.png,#\na b.png,"say ""x"""\nsemi;colon.png,ä\n'
    found = list_images(root, table(rows))
    assert found.classes == sorted(["#", "ä", "b, c", 'say "x"'])
    assert [found.classes[i] for i in found.labels] == ["#", 'say "x"', "ä", "ä", "b, c"]
    assert names(list_images(root, "none", files=tmp_path / table("#1.png\nü.png\n", "list"))) == ["#1.png", "ü.png"]


WRONG = {
    "ant/0.png,cat\nant/9.png,dog\n": "names 2 files, 1 of which are not among the 4 images of .*photos; line 2: "
    "ant/9.png is missing; paths are relative",
    "ant/9.png,cat\n": "line 1: ant/9.png is missing",  # not "lies outside", as relative to the CSV's folder
    "ant/0.png,cat\nx/9.png,dog\ny,dog\n": "names 3 files, 2 of which .* line 2: x/9.png is missing",
    "ant/0.png,cat\nANT/1.jpg,dog\n": "ANT/1.jpg is missing .there is 'ant/1.JPG': another case or Unicode form",
    "ant/0.png,cat\n../labels.csv,dog\n": "line 2: ../labels.csv lies outside of it",
    "ant/0.png,cat\nant,dog\n": "line 2: ant is a folder",
    "ant/0.png,cat\nnotes.txt,dog\n": "line 2: notes.txt has no image format",
    "ant/0.png,cat\n.hidden/0.png,dog\n": "line 2: .hidden/0.png is hidden",
    "ant/0.png,cat\n\nant/0.png,dog\n": "names the same file on the lines 1 and 3: ant/0.png and ant/0.png",
    "ant/0.png,cat\nbee/../ant/0.png,dog\n": "on the lines 1 and 2: ant/0.png and bee/../ant/0.png",
    "ant/0.png,cat\n./ant/0.png,cat\n": "names the same file",
    "ant/0.png,cat\nant\\0.png,cat\n": "names the same file",
    "ant/0.png,cat\nant/1.JPG\n": "line 2 has 1 fields, too few: the first row has 2",
    "ant/0.png,cat\nant/1.JPG,dog,train\n": "line 2 has 3 fields, too many: the first row has 2",
    "ant/0.png,cat,train\nant/1.JPG,dog\n": "line 2 has 2 fields, too few: the first row has 3",
    "file,cat,dog,bird\nant/0.png,0,1,0\n": "line 1 has 4 fields: file cat dog bird; a row is FILE,LABEL or",
    "file;label\nant/0.png;cat\n": "line 1 has 1 fields: file;label; a row is FILE,LABEL or FILE,LABEL,PART, separated",
    "ant/0.png,cat;\n": "line 1 has a class without a name: 'cat;'",
    "ant/0.png,cat;dog;cat\n": "line 1 names a class twice",
    "ant/0.png,cat\n,dog\n": "line 2 names no file",
    "ant/0.png,cat\nant/1.JPG,cat\n": "has one class, 'cat', on 2 of 4 images; give two classes, or data.labels=none",
    "ant/0.png,\nant/1.JPG,\n": "has a label on none of 4 images",
    "": "names no file .0 rows beside a header",
    "file,label\n": "names no file .0 rows beside a header",
    'ant/0.png,cat\n"ant/1.JPG,dog\nbee/0.png,cat\n': "the row at line 2 is no CSV .unexpected end of data",
    b"\xff\xfea\0n\0t\0": "is not UTF-8 text .byte 0",
    b"ant/0.png,caf\xe9\n": "is not UTF-8 text .byte 13",
    b"ant/0.png,c\0t\n": "is not text .NUL at character 11",
}


@pytest.mark.parametrize("content", WRONG, ids=range(len(WRONG)))
def test_mistakes_in_a_csv(photos, table, content):
    tree(photos, "notes.txt", ".hidden/0.png")
    file = table(content)
    message = refuse(f"^data.labels={file}: .*{WRONG[content]}", photos, file)
    assert message.count("; ") >= 1


def test_links_to_one_file_are_one_file(photos, table, tmp_path):
    (photos / "bee" / "2.png").symlink_to(photos / "ant" / "0.png")
    assert len(list_images(photos, table(ROWS)).files) == 5
    refuse("on the lines 1 and 5: ant/0.png and bee/2.png", photos, table(ROWS + "bee/2.png,dog\n"))
    other = tree(tmp_path / "other", "0.png")
    (photos / "one").symlink_to(other)
    (photos / "two").symlink_to(other)
    refuse("on the lines 5 and 6: one/0.png and two/0.png", photos, table(ROWS + "one/0.png,a\ntwo/0.png,b\n"))


def test_a_name_in_another_unicode_form(tmp_path, table):
    root = tree(tmp_path / "root", unicodedata.normalize("NFD", "é.png"), "b.png")
    says = "is missing .there is 'e.u0301.png': another case or Unicode form"
    refuse(says, root, table(unicodedata.normalize("NFC", "é.png,a\nb.png,b\n")))


LISTS = {
    "ant/0.png\nant/9.png\n": "names 2 files, 1 of which are not among the 4 images of .* line 2: ant/9.png is missing",
    "ant/0.png\nbee/../ant/0.png": "names the same file on the lines 1 and 2",
    "../photos.txt": "lies outside of it",
    "\n  \n": "names no file",
    "": "names no file",
    b"\x89PNG\r\n\x1a\n": "is not UTF-8 text .byte 0",
    b"a\0b": "is not text",
}


@pytest.mark.parametrize("content", LISTS, ids=range(len(LISTS)))
def test_mistakes_in_a_list(photos, table, tmp_path, content):
    file = tmp_path / table(content, "list.txt")
    refuse(f"^data.list={file}: .*{LISTS[content]}", photos, files=file)
