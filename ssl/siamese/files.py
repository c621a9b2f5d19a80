"""Atomic writing, temporary folders, digests, room on the disk."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

from siamese.errors import RunAborted, UserError

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
    """A new folder beside `target`, with the permissions of an ordinary one, to be renamed to `target` when it is
    complete.

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
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{prefix}{os.getpid()}-"))
    mask = os.umask(0)
    os.umask(mask)
    made.chmod(0o777 & ~mask)  # mkdtemp makes it its owner's alone
    return made


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


class FolderLock:
    """An exclusive lock on a folder, held until `release`.

    It is a record lock on the file `.lock`. The system releases it when the process ends, and child processes do not
    inherit it. A file system without locks gives no protection.

    Args:
        folder: created if missing.
        setting: names it in messages.

    Raises:
        UserError: another process holds the lock, or the folder cannot be written to.
    """

    def __init__(self, folder: Path, setting: str):
        self.created = not folder.exists()
        self.file = folder / ".lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise UserError(setting, f"cannot be written to ({error})", "choose another folder") from error
        if not self._locked():
            os.close(self.descriptor)
            raise UserError(setting, "in use by another process", "wait for it, or choose another folder")

    def _locked(self) -> bool:
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
        # The previous holder may have removed the file since we opened it; a third process would then lock a new file.
        return self.file.exists() and os.path.samestat(os.fstat(self.descriptor), self.file.stat())

    def release(self) -> None:
        """Release the lock; remove the directory if we created it and it is empty."""
        if self.descriptor < 0:
            return
        self.file.unlink(missing_ok=True)
        os.close(self.descriptor)
        self.descriptor = -1
        if self.created:
            with contextlib.suppress(OSError):  # not empty
                self.file.parent.rmdir()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()


def in_use(folder: Path) -> bool:
    """Whether another process holds the lock of a run folder; a killed run leaves the file without a lock."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    finally:
        os.close(descriptor)
    return False
