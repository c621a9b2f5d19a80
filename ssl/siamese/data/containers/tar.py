"""The members of a tar file, by its headers alone: nothing is extracted, no path is followed, no content is read.

Not by Python's tarfile, which takes a damaged header for the end of the archive, and a lying length in an extended one
for a name: images would be lost, or others read, without a word.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = 512
MOST_HEADER = 1 << 20  # bytes of an extended header
RECORD = 20 * BLOCK  # tar pads the end to whole records of this size
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
NO_FILES = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a named pipe", tarfile.GNUTYPE_SPARSE: "a sparse file",
}  # fmt: skip
PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *PAX)
PACKERS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A regular file in a tar file.

    Attributes:
        offset, size: of its content, bytes. The content of the last member may be cut.
    """

    name: str
    offset: int
    size: int


def compression(file: Path) -> str | None:
    """The program that compressed a file, or None."""
    with file.open("rb") as stream:
        start = stream.read(8)
    return next((program for magic, program in PACKERS.items() if start.startswith(magic)), None)


def members(fd: int) -> Iterator[Member]:
    """The regular files in a plain tar file (ustar, GNU, PAX) that is open as `fd`, in order. Folders are left out.

    The last member is also yielded if its content is cut; nothing follows then.

    Raises:
        ValueError: a damaged header, a link, a device, a sparse file, no end mark, data after the end mark.
        OSError: the file cannot be read.
    """
    total, position, last = os.fstat(fd).st_size, 0, "the start"
    name: str | None = None  # what extended headers say of the next member
    size: int | None = None
    while True:
        block = os.pread(fd, BLOCK, position)
        if len(block) < BLOCK:
            raise ValueError(f"ends at byte {total:,} after {last} without an end mark: it is cut")
        if block == bytes(BLOCK):
            return _check_end(fd, position)
        try:
            own_name, kind, own_size = _header(block)
        except ValueError as error:
            raise ValueError(f"damaged header at byte {position:,} after {last} ({error})") from error
        position += BLOCK
        if kind in EXTENDED:
            content = _extended(fd, position, own_size, last)
            if kind == tarfile.GNUTYPE_LONGNAME:
                name = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            elif kind in PAX:
                name, size = _pax(content, kind == tarfile.XGLTYPE, last, name, size)
            position += _padded(own_size)
            continue
        own_name, own_size = own_name if name is None else name, own_size if size is None else size
        name = size = None
        last = repr(own_name[:200])
        if kind in FILES and not 0 <= own_size < 1 << 62:
            raise ValueError(f"{last} has the size {own_size:,}")
        if kind in FILES:
            yield Member(own_name, position, own_size)
            if position + own_size > total:
                return
            position += _padded(own_size)
        elif kind != tarfile.DIRTYPE:
            told = NO_FILES.get(kind, f"of the unknown type {kind!r}")
            raise ValueError(f"{last} is {told}, not a regular file")


def _header(block: bytes) -> tuple[str, bytes, int]:
    """Name, type and size in a header.

    Raises:
        ValueError: a wrong checksum, or a number that is none.
    """
    field = block[148:156]
    told, total = _number(field), sum(block) - sum(field) + 8 * ord(" ")
    if told != total:  # very old writers add signed bytes
        signed = total - 256 * sum(byte >= 128 for byte in block[:148] + block[156:])
        if told != signed:
            raise ValueError(f"its checksum is {total}, not {told}")
    name, kind = block[:100].split(b"\0", 1)[0], block[156:157]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    if kind == tarfile.AREGTYPE and name.endswith(b"/"):
        kind = tarfile.DIRTYPE
    return name.decode("utf-8", "surrogateescape"), kind, _number(block[124:136])


def _number(field: bytes) -> int:
    """Octal digits, or a binary number, whose first bit is 1 (GNU)."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (1 << 8 * (len(field) - 1) if field[0] == 0xFF else 0)
    digits = field.split(b"\0", 1)[0].strip()
    if digits and not digits.isdigit():
        raise ValueError(f"the number {digits!r}")
    return int(digits or b"0", 8)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _extended(fd: int, position: int, size: int, last: str) -> bytes:
    """The content of an extended header."""
    if not 0 <= size <= MOST_HEADER:
        raise ValueError(f"extended header of {size:,} bytes at byte {position:,} after {last}")
    content = os.pread(fd, size, position)
    if len(content) < size:
        raise ValueError(f"ends inside of an extended header after {last}: it is cut")
    return content


def _pax(content: bytes, of_all: bool, last: str, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    """`name` and `size`, replaced by what the records "LENGTH KEY=VALUE\\n" of a PAX header say."""
    position = 0
    while position < len(content) and content[position]:
        digits, space, _ = content[position : position + 20].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = content[position + len(digits) + 1 : position + length]
        key, equals, value = record[:-1].partition(b"=")
        if not record.endswith(b"\n") or not equals or position + length > len(content):
            raise ValueError(f"damaged PAX header after {last}")
        position += length
        if key.startswith(b"GNU.sparse"):
            raise ValueError(f"the member after {last} is a sparse file, not a regular file")
        if key not in (b"path", b"size"):
            continue
        if of_all or (key == b"size" and not value.isdigit()):
            raise ValueError(f"PAX header after {last} with {key.decode()}={value[:40].decode(errors='replace')}")
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        else:
            size = int(value)
    return name, size


def _check_end(fd: int, position: int) -> None:
    """Refuse archives that were joined: their second part would be lost."""
    if any(os.pread(fd, RECORD + BLOCK, position)):
        raise ValueError(f"has data after its end mark at byte {position:,}: joined tar files are not read")
