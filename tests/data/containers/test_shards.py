"""WebDataset shards, which Python's tarfile wrote."""

import io
import pickle
import subprocess
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from siamese.data.containers.shards import _braces, expand_shards, webdataset
from siamese.data.containers.tar import members
from siamese.errors import UserError

DIGITS = load_digits()


def encoded(i, kind="png"):
    out = io.BytesIO()
    Image.fromarray((DIGITS.images[i] * 15).astype(np.uint8)).save(out, kind)
    return out.getvalue()


def write(file, entries, form=tarfile.PAX_FORMAT, mtime=0):
    """Entries are pairs of a name and bytes, or a TarInfo."""
    with tarfile.open(file, "w", format=form) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size, info.mtime = len(entry[1]), mtime
            tar.addfile(info, io.BytesIO(entry[1]))
    return file


def samples(first, last, folder=""):
    for i in range(first, last):
        yield f"{folder}{i:04d}.png", encoded(i)
        yield f"{folder}{i:04d}.cls", str(DIGITS.target[i]).encode()


@pytest.fixture
def digits(tmp_path):
    """Three shards of twenty digits."""
    for s in range(3):
        write(tmp_path / f"d-{s:03d}.tar", samples(20 * s, 20 * s + 20))
    return tmp_path


def test_images_and_labels(digits):
    source = webdataset(str(digits / "d-{000..002}.tar"))
    assert len(source) == 60
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert [one.read(i) for i in range(60)] == [encoded(i) for i in range(60)]
        assert one.labels.tolist() == DIGITS.target[:60].tolist()
    assert source.classes == [str(i) for i in range(10)]
    assert [source.name(i) for i in (0, 20, 59)] == ["d-000.tar/0000.png", "d-001.tar/0020.png", "d-002.tar/0059.png"]
    assert len({source.name(i) for i in range(60)}) == 60
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, [59, 0, 30] * 20)) == [encoded(i) for i in [59, 0, 30] * 20]


@pytest.mark.parametrize("folder", ["", "ä" * 60 + "/" + "b" * 150 + "/", "c" * 99 + "/" + "d" * 50 + "/"])
@pytest.mark.parametrize(
    ("form", "mtime"),
    [(tarfile.PAX_FORMAT, 0), (tarfile.PAX_FORMAT, 1.5), (tarfile.GNU_FORMAT, 0), (tarfile.USTAR_FORMAT, 0)],
)
def test_long_names_and_extended_headers(tmp_path, form, mtime, folder):
    if form == tarfile.USTAR_FORMAT and len(folder) > 200:
        folder = folder[:130].replace("ä", "a") + "/"
    file = write(tmp_path / "x.tar", samples(0, 9, folder), form, mtime)
    source = webdataset(str(file))
    assert source.name(3) == f"x.tar/{folder}0003.png"
    assert [source.read(i) for i in range(9)] == [encoded(i) for i in range(9)]
    with tarfile.open(file) as tar, file.open("rb") as stream:  # the independent reader
        assert [(m.name, m.offset_data, m.size) for m in tar if m.isreg()] == list(members(stream.fileno()))


def test_sizes_in_binary_and_folders(tmp_path):
    """Base-256 sizes, the old V7 format, entries of folders."""
    folder = tarfile.TarInfo("./a")
    folder.type = tarfile.DIRTYPE
    file = write(tmp_path / "x.tar", [folder, ("./a/1.png", b"abc"), ("./a/2.png", b"d" * 600)], tarfile.GNU_FORMAT)
    content = bytearray(file.read_bytes())
    block = content[512:1024]
    block[124:136] = b"\x80" + (3).to_bytes(11, "big")
    block[257:265] = bytes(8)  # no magic number
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    file.write_bytes(content[:512] + block + content[1024:])
    source = webdataset(str(file))
    assert [source.read(i) for i in range(2)] == [b"abc", b"d" * 600]
    assert source.name(0) == "x.tar/./a/1.png"


def test_samples_are_grouped_by_key(tmp_path):
    """The key reaches to the first dot of the base name and includes the folder; hidden files are no samples."""
    entries = [("a.b/1.png", b"1"), ("a.b/1.seg.png", b"s"), ("a.b/._1.png", b"h"), ("__MACOSX/1.png", b"m"),
               ("c/1.PNG", b"2"), ("c/1.json", b'{"k": "x"}'), ("README", b""), ("info.json", b'{"k": "y"}'),
               ("a.b/1.json", b'{"k": "w", "other": 1.5}')]  # fmt: skip
    file = write(tmp_path / "x.tar", entries)
    source = webdataset(str(file), None, "json:k")
    assert [source.read(i) for i in range(len(source))] == [b"1", b"2"]
    assert source.classes == ["w", "x"]
    assert source.labels.tolist() == [0, 1]
    assert source.notes == (f"1 samples without an image were left out of data.path={file}",)
    assert [webdataset(str(file), ["seg.png"], "").read(0)] == [b"s"]


@pytest.mark.parametrize(
    ("label", "contents", "classes", "labels"),
    [
        (None, {"cls": [b"3\n", None, b"-1", b"12"]}, ["3", "12"], [0, -1, -1, 1]),
        ("txt", {"txt": [b" dog ", b"cat", None, b"dog"], "cls": [b"1"] * 4}, ["cat", "dog"], [1, 0, -1, 1]),
        ("json:y", {"json": [b'{"y": 5}', b'{"y": null}', b"{}", b'{"y": 5}']}, ["5"], [0, -1, -1, 0]),
        (None, {"txt": [b"a caption"] * 4}, [], [-1] * 4),
        ("", {"cls": [b"damaged"] * 4}, [], [-1] * 4),
    ],
)
def test_kinds_of_labels(tmp_path, label, contents, classes, labels):
    entries = [(f"{i}.{s}", v[i]) for i in range(4) for s, v in contents.items() if v[i] is not None]
    file = write(tmp_path / "x.tar", [*entries, *((f"{i}.jpg", b"") for i in range(4))])
    source = webdataset(str(file), label=label)
    order = [int(source.name(i)[6:-4]) for i in range(4)]
    assert source.classes == classes
    assert [source.labels[order.index(i)].item() for i in range(4)] == labels


def link(kind):
    info = tarfile.TarInfo("2.png")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def sparse():
    info = tarfile.TarInfo("2.png")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    return info


@pytest.mark.parametrize(
    ("entries", "label", "says"),
    [
        ([link(tarfile.SYMTYPE)], None, "x.tar: '2.png' is a symbolic link"),
        ([link(tarfile.LNKTYPE)], None, "x.tar: '2.png' is a hard link"),
        ([link(tarfile.CHRTYPE)], None, "x.tar: '2.png' is a device"),
        ([link(tarfile.FIFOTYPE)], None, "x.tar: '2.png' is a named pipe"),
        ([link(tarfile.GNUTYPE_SPARSE)], None, "x.tar: '2.png' is a sparse file"),
        ([sparse()], None, "x.tar: the member after '1.png' is a sparse file"),
        ([("1.jpg", b"")], None, "x.tar: sample '1' has two images, '1.png' and '1.jpg'; .*data.image="),
        ([("1.png", b"")], None, "x.tar: two members are named '1.png'"),
        ([("1.cls", b"1"), ("1.CLS", b"1")], None, "x.tar: sample '1' has two labels"),
        ([("1.cls", b"one")], None, "x.tar: '1.cls' is not a whole number: b'one'"),
        ([("1.cls", b"1_0")], None, "x.tar: '1.cls' is not a whole number"),
        ([("1.cls", b"-5")], None, "x.tar: sample '1': the label '-5' is below -1"),
        ([("1.json", b"{")], "json:k", "x.tar: '1.json' is not a JSON object"),
        ([("1.json", b"[1]")], "json:k", "x.tar: '1.json' is not a JSON object"),
        ([("1.json", b'{"k": [1, 2]}')], "json:k", "sample '1': the label .* of type list"),
        ([("1.json", b'{"a": 1}')], "json:k", "data.label=json:k: no sample has it; there are a; choose"),
        ([("1.txt", b"\xff")], "txt", "x.tar: '1.txt' is not UTF-8 text"),
        ([("1.txt", bytes(2_000_000))], "txt", "x.tar: '1.txt' has 2,000,000 bytes, a label at most"),
        ([], "cls", "data.label=cls: no sample has it; there are png"),
        ([], "json", "data.label=json: is no suffix of a label"),
        ([], "pyd", "pickles, which can run code"),
    ],
)
def test_mistakes_of_a_shard(tmp_path, entries, label, says):
    write(tmp_path / "x.tar", [("1.png", b"1"), *entries])
    with pytest.raises(UserError, match=says) as raised:
        webdataset(str(tmp_path / "x.tar"), label=label)
    assert "\n" not in str(raised.value)


def test_suffixes_that_are_not_there(tmp_path):
    write(tmp_path / "x.tar", [("a/img.1.jp2", b"1"), ("a/2.pyd", b"cos\nsystem\n")])
    with pytest.raises(UserError, match="no sample has an image .*suffixes found: 1.jp2, pyd; .*data.image="):
        webdataset(str(tmp_path / "x.tar"))
    with pytest.raises(UserError, match="members .pyd are pickles"):
        webdataset(str(tmp_path / "x.tar"), ["pyd"])


def test_cut_shards(tmp_path):
    """Every length of a shard: it is refused, or the one image that is cut is told by `read`."""
    entries = [("1.png", b"a" * 700), ("1.cls", b"1"), ("2.cls", b"2"), ("2.png", b"b" * 700)]
    content = write(tmp_path / "whole.tar", entries).read_bytes()
    begin = 512 + 1024 + 2 * 1024 + 512  # of the second image
    file = tmp_path / "x.tar"
    for length in [*range(0, begin + 1100, 100), begin, begin + 699, begin + 700]:
        file.write_bytes(content[:length])
        if length < 1212 and length >= 512:  # the first image is cut
            source = webdataset(str(file))
            with pytest.raises(ValueError, match=rf"^x.tar/1.png is cut: {length - 512} of 700 bytes$"):
                source.read(0)
        elif begin <= length < begin + 700:
            source = webdataset(str(file))
            assert source.read(0) == b"a" * 700
            assert source.notes == (f"{file} is cut in '2.png'; samples that followed are lost",)
            with pytest.raises(ValueError, match=rf"^x.tar/2.png is cut: {length - begin} of 700 bytes$"):
                source.read(1)
        elif length < begin + 1024:
            with pytest.raises(UserError, match=r"x.tar: .*(cut|without an end mark)"):
                webdataset(str(file))
    file.write_bytes(content[: begin + 1024 + 512])
    assert len(webdataset(str(file))) == 2  # a single block as the end mark


def test_a_member_that_is_cut_and_no_image(tmp_path):
    file = write(tmp_path / "x.tar", [("1.png", b"1"), ("1.json", b"{" * 700)])
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match="x.tar: '1.json' is cut"):
        webdataset(str(file))


def test_damaged_headers_and_joined_shards(digits):
    file = digits / "d-000.tar"
    content = file.read_bytes()
    file.write_bytes(content[:1500] + b"x" * 40 + content[1540:])
    with pytest.raises(UserError, match="d-000.tar: damaged header at byte 1,024 after '0000.png'"):
        webdataset(str(file))
    file.write_bytes(content + content)
    with pytest.raises(UserError, match="d-000.tar: has data after its end mark .*joined"):
        webdataset(str(file))
    bad = content.replace(b"0000.cls", b"0000.png")
    file.write_bytes(bad)
    with pytest.raises(UserError, match="damaged header"):  # by its checksum
        webdataset(str(file))


def test_extended_headers_of_a_stranger(tmp_path):
    """A PAX header that gives a size beyond the file, lies about its length, or is huge."""
    file = tmp_path / "x.tar"
    for record, says in (
        (b"20 size=99999999999\n", None), (b"9 size=9\nx", "damaged PAX"), (b"10 size=-1\n", "damaged PAX"),
        (b"11 size=-1\n", "size=-1"), (b"99 path=a\n", "damaged PAX"), (b"0 path=a\n", "damaged PAX"),
        (b"x" * 2_000_000, "extended header of 2,000,000 bytes"),
        (b"28 size=4999999999999999999\n", "has the size 4,999,999,999,999,999,999"),
    ):  # fmt: skip
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, len(record)
        body = tarfile.TarInfo("1.png")
        body.size = 3
        padded = record + bytes(-len(record) % 512)
        file.write_bytes(info.tobuf() + padded + body.tobuf() + b"abc" + bytes(509 + 1024))
        if says is None:
            with pytest.raises(ValueError, match=r"1.png is cut: 1,536 of 99,999,999,999 bytes"):
                webdataset(str(file)).read(0)
        else:
            with pytest.raises(UserError, match=f"x.tar: .*{says}"):
                webdataset(str(file))


def test_a_shard_that_changes(digits):
    source = webdataset(str(digits / "d-000.tar"))
    write(digits / "d-000.tar", samples(30, 60))
    with pytest.raises(OSError, match="d-000.tar has changed since it was indexed"):
        source.read(0)


def test_the_index_is_small(tmp_path):
    file = write(tmp_path / "x.tar", ((f"{i:06d}.png", b"1") for i in range(5000)), tarfile.USTAR_FORMAT)
    tracemalloc.start()
    source = webdataset([str(file)])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == 5000
    assert kept < 5000 * 80
    assert len(pickle.dumps(source)) < 5000 * 80


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("d-{000..002}.tar", "012"), ("d-{002..000}.tar", "210"), ("d-{000..002..2}.tar", "02"),
        ("d-00{0..1}.tar", "01"), ("d-{001,000}.tar", "10"), ("d-{0,}0{2,0}.tar", None), ("d-*.tar", "012"),
        ("d-00[12].tar", "12"), ("d-{00,0x}*.tar", "012"), ("{d,d}-00{2..2}.tar", None), (".", "012"),
        ("{.,sub}/d-{000..001}.tar", None), ("{./,}d-00{1,2}.tar", None),
    ],
)  # fmt: skip
def test_patterns(digits, pattern, names, monkeypatch):
    monkeypatch.chdir(digits)
    (digits / "sub").mkdir()
    if names is not None:
        assert [f.name for f in expand_shards([pattern])] == [f"d-00{n}.tar" for n in names]
        return
    with pytest.raises(UserError, match=r"data.path=.*(\d of \d shards do not exist|occurs twice)"):
        expand_shards([pattern])


@pytest.mark.parametrize("pattern", ["x{0..3}{a,b}-{08..11}.tar", "{3..1}y", "{9..11}z{,q}", "{0..10..5}{05..1..2}"])
def test_braces_are_those_of_a_shell(pattern):
    expected = subprocess.run(["bash", "-c", f"printf '%s ' {pattern}"], capture_output=True, text=True, check=True)
    assert list(_braces("", pattern)) == expected.stdout.split()


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("{d}-001.tar", "neither a range nor a list"), ("d-{{000,001}}.tar", "braces"), ("d-{000.tar", "braces"),
        ("nowhere-*.tar", "no .tar file is there"), ("d-{0..9999999}.tar", "more than 100"), ("sub", "no .tar file"),
        ("d-{000..003}.tar", "1 of 4 shards do not exist, the first: d-003.tar"), ("d-{000,000}.tar", "occurs twice"),
        ("pipe:cat d-000.tar", "an address"), ("https://host/d-{0..1}.tar", "an address"), ("z.tgz", "by gzip"),
    ],
)  # fmt: skip
def test_patterns_that_are_refused(digits, pattern, says, monkeypatch):
    monkeypatch.chdir(digits)
    monkeypatch.setattr("siamese.data.containers.shards.MOST_SHARDS", 100)
    (digits / "sub").mkdir()
    with tarfile.open(digits / "z.tgz", "w:gz"):
        pass
    with pytest.raises(UserError, match=says):
        expand_shards([pattern])


def test_a_file_whose_name_has_braces_and_a_link_to_a_shard(digits):
    odd = (digits / "d-000.tar").rename(digits / "d-{0}[1].tar")
    assert expand_shards([str(odd)]) == [odd]
    (digits / "link.tar").symlink_to(digits / "d-001.tar")
    with pytest.raises(UserError, match="occurs twice"):
        expand_shards([str(digits / "d-001.tar"), str(digits / "link.tar")])
