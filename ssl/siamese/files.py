"""Atomic writing, temporary folders, digests, room on the disk."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

from siamese.errors import RunAborted

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write `values` atomically; see `write`."""
    write(file, json.dumps(values, indent=2) + "\n")


def write(file: Path, text: str) -> None:
    """Write `text` atomically: to a temporary file beside `file`, which then replaces it.

    Raises:
        RunAborted: the disk write failed; the previous content is kept.
    """
    temporary = file.with_suffix(".tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        os.replace(temporary, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunAborted(f"{file} cannot be written ({error}); make room, then continue with resume=true") from error


def make_temp_dir(target: Path) -> Path:
    """A new folder beside `target`, to be renamed to `target` when it is complete.

    Removes the folders that killed processes of this machine left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".unfinished-{platform.node()}-"
    for left in target.parent.glob(f"{prefix}*-*"):
        try:
            os.kill(int(left.name.split("-")[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (PermissionError, ValueError, OverflowError):  # another user's live process; or a name that is not ours
            pass
    return Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{prefix}{os.getpid()}-"))


def digest_of_file(file: Path) -> str:
    """The sha256 of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def reserve(file: int, size: int) -> None:
    """Allocate the disk space of a file (its descriptor) that will be mapped into memory. A full disk raises OSError
    here; a write through the map would end the process by SIGBUS."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in NO_ROOM:  # other errors: the file system cannot allocate
            raise
