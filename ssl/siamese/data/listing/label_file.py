"""Text files that name images: a CSV of labels (`data.labels=FILE`), a list (`data.list=FILE`)."""

import csv
import io
import os
import unicodedata
from pathlib import Path
from typing import NamedTuple, NoReturn

from siamese.data.listing.tree import SUFFIXES, Tree
from siamese.errors import UserError

HEADERS = {
    "file", "files", "filename", "filenames", "file_name", "filepath", "file_path", "path", "paths", "relpath",
    "image", "images", "imagename", "image_name", "imagepath", "image_path", "image_file", "img", "img_path",
}  # fmt: skip
PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
SEPARATOR = ";"  # of several labels of one file
SHAPE = "a row is FILE,LABEL or FILE,LABEL,PART, separated by commas or tabs, several labels as A;B"


class Row(NamedTuple):
    """One row of a CSV or list: its line number from 1, the file as written, its labels, its part."""

    line: int
    file: str
    labels: tuple[str, ...] = ()
    part: str | None = None


def read_list(file: Path, key: str) -> list[Row]:
    """One path a line. Empty lines are skipped; there are no comments, for a name may start with any character.

    Raises:
        UserError: the file cannot be read, is not text, or names nothing. `key` is the setting.
    """
    lines = io.StringIO(_text(file, key), newline=None)  # \n, \r\n and \r end a line; form feeds and U+2028 do not
    rows = [Row(number, line.rstrip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise UserError(f"{key}={file}", "names no file (0 lines with text)", "give one path a line")
    return rows


def read_csv(file: Path, key: str) -> list[Row]:
    """Rows ``file,label`` or ``file,label,part`` of a CSV in UTF-8, with or without a byte order mark.

    The first line decides: with a tab in it, tabs separate the fields, otherwise commas; it has two or three fields and
    so has every other row; it is a header if its first field is one of `HEADERS`, none of which could be an image.
    An empty label is unknown, a label with `;` is several labels. Spaces around labels and parts do not count.

    Raises:
        UserError: the file cannot be read, is not text or no CSV, or a row is wrong. `key` is the setting.
    """
    text, setting = _text(file, key), f"{key}={file}"
    first = next((line for line in io.StringIO(text, newline=None) if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in first else ",", strict=True)
    rows: list[Row] = []
    width, start = 0, 1
    try:
        for fields in reader:
            line, start = start, reader.line_num + 1
            if not any(field.strip() for field in fields[:1]) and len(fields) < 2:  # an empty line
                continue
            if not width:
                width = len(fields)
                if width not in (2, 3):
                    raise UserError(setting, f"line {line} has {width} fields: {' '.join(fields)[:80]}", SHAPE)
                if fields[0].strip().lower() in HEADERS:
                    continue
            rows.append(_row(setting, fields, line, width))
    except csv.Error as error:
        raise UserError(setting, f"the row at line {start} is no CSV ({error})", SHAPE) from error
    if not rows:
        raise UserError(setting, "names no file (0 rows beside a header)", SHAPE)
    return rows


def _row(setting: str, fields: list[str], line: int, width: int) -> Row:
    if len(fields) != width:
        more = "too many" if len(fields) > width else "too few"
        raise UserError(
            setting, f"line {line} has {len(fields)} fields, {more}: the first row has {width}",
            "quote a field that holds the separator, as in \"a,b.jpg\",cat",
        )  # fmt: skip
    name, label = fields[0].rstrip(), fields[1].strip()
    if not name.strip():
        raise UserError(setting, f"line {line} names no file", SHAPE)
    labels = tuple(one.strip() for one in label.split(SEPARATOR)) if label else ()
    if "" in labels:
        raise UserError(
            setting, f"line {line} has a class without a name: {label!r}",
            f"remove the superfluous {SEPARATOR!r}; an empty label is an unknown one",
        )  # fmt: skip
    if len(set(labels)) < len(labels):
        raise UserError(setting, f"line {line} names a class twice: {label!r}", "name each class once")
    if width == 2:
        return Row(line, name, labels)
    part = PARTS.get(fields[2].strip().lower())
    if part is None:
        raise UserError(setting, f"line {line} has the part {fields[2]!r}", f"the parts are {', '.join(PARTS)}")
    return Row(line, name, labels, part)


def _text(file: Path, key: str) -> str:
    """The text of a file, without its byte order mark."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{key}={file}", f"cannot be read ({error.strerror})", f"looked at {file.absolute()}; give a text file"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{key}={file}", f"is not UTF-8 text (byte {error.start:,})", "save it as text in UTF-8"
        ) from error
    if "\0" in text:
        raise UserError(f"{key}={file}", f"is not text (NUL at character {text.index(chr(0)):,})", "give a text file")
    return text


def locate(rows: list[Row], key: str, file: Path, tree: Tree) -> dict[str, Row]:
    """The image of each row: its name in `tree` -> row.

    Paths are absolute, or all relative to the tree's folder, or, if that finds more of them, all to that of `file`.
    `.` and `..` are resolved in the text. A backslash separates folders where no file has it in its name.

    Raises:
        UserError: a row names no image of the tree, or two rows name the same one.
    """
    setting = f"{key}={file}"
    tops = [os.path.abspath(tree.root), os.path.realpath(tree.root)]
    names: list[str | None] = []
    lost = len(rows) + 1
    for base in dict.fromkeys([tops[0], os.path.abspath(file.parent), os.path.realpath(file.parent)]):
        found = [_name(row.file, base, tops, tree) for row in rows]
        missing = sum(name not in tree.held for name in found)
        if missing < lost:
            names, lost = found, missing
        if not lost:
            break
    if lost:
        row, name = next((r, n) for r, n in zip(rows, names, strict=True) if n not in tree.held)
        raise UserError(
            setting,
            f"names {len(rows)} files, {lost} of which are not among the {len(tree.names)} images of {tree.root}; "
            f"line {row.line}: {row.file} {_why(name, tree)}",
            "paths are relative to data.path",
        )
    located: dict[str, Row] = {}
    for row, name in zip(rows, names, strict=True):
        assert name is not None
        if name in located:
            _twice(setting, located[name], row)
        located[name] = row
    if not tree.links.isdisjoint(located):  # only then can two names lead to the same file
        real: dict[str, Row] = {}
        for name, row in located.items():
            path = os.path.realpath(tree.root / name) if name in tree.links else os.path.join(tops[1], name)
            if path in real:
                _twice(setting, real[path], row)
            real[path] = row
    return located


def _twice(setting: str, one: Row, other: Row) -> NoReturn:
    raise UserError(
        setting, f"names the same file on the lines {one.line} and {other.line}: {one.file} and {other.file}",
        "remove one of the lines",
    )  # fmt: skip


def _name(file: str, base: str, tops: list[str], tree: Tree) -> str | None:
    """The name in the tree that `file`, relative to `base`, stands for; None outside of its folder."""
    if base == tops[0] and file in tree.held:
        return file
    inner = None
    for spelt in dict.fromkeys([file, file.replace("\\", "/")]):
        path = os.path.normpath(os.path.join(base, spelt))
        for top in tops:
            if path.startswith(top.rstrip(os.sep) + os.sep):
                inner = path[len(top.rstrip(os.sep)) + 1 :].replace(os.sep, "/")
                if inner in tree.held:
                    return inner
    return inner


def _why(name: str | None, tree: Tree) -> str:
    """Why a name is not among the images of a tree."""
    if name is None:
        return "lies outside of it"
    path = tree.root / name
    if not os.path.lexists(path):
        plain = lambda text: unicodedata.normalize("NFC", text).casefold()  # noqa: E731
        near = next((held for held in tree.names if plain(held) == plain(name)), None)
        return "is missing" if near is None else f"is missing (there is {near!a}: another case or Unicode form)"
    if path.is_dir():
        return "is a folder"
    if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
        return "is hidden"
    if not name.lower().endswith(SUFFIXES):
        return "has no image format"
    return "is a broken link, or lies in a linked folder that is not followed"
