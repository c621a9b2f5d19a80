"""Atomic writing, temporary folders, digests, disk space."""

import errno
import hashlib
import json
import os
import platform
import resource
import subprocess

import pytest

from siamese.errors import RunAborted
from siamese.files import digest_of_file, make_temp_dir, reserve, write, write_json


@pytest.mark.parametrize(("number", "refused"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EINVAL, False)])
def test_reserve_raises_if_the_disk_is_full(tmp_path, monkeypatch, number, refused):
    """A file system that cannot allocate (EINVAL) is no full disk."""

    def refuse(*arguments):
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with (tmp_path / "f").open("w+b") as file:
        if refused:
            with pytest.raises(OSError, match="refused"):
                reserve(file.fileno(), 1)
        else:
            reserve(file.fileno(), 1)


def test_reserve_allocates_blocks(tmp_path):
    with (tmp_path / "f").open("w+b") as file:
        reserve(file.fileno(), 1 << 20)
        assert (tmp_path / "f").stat().st_blocks * 512 >= 1 << 20


def test_write_replaces_the_file_and_leaves_no_temporary_one(tmp_path):
    file = tmp_path / "summary.json"
    write_json(file, {"a": 1})
    write_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 2}
    assert [f.name for f in tmp_path.iterdir()] == ["summary.json"]


def test_failed_write_keeps_the_previous_content(tmp_path):
    file = tmp_path / "summary.json"
    write(file, "before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(RunAborted, match="summary.json cannot be written .*make room, then continue with resume"):
            write(file, "x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == "before"
    assert [f.name for f in tmp_path.iterdir()] == ["summary.json"]


def test_digest_of_file_is_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert digest_of_file(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()


def test_temporary_folders_of_ended_processes_are_removed(tmp_path):
    """Of this machine alone, and not those of a live process."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    owners = ((platform.node(), gone.pid), (platform.node(), os.getpid()), ("elsewhere", gone.pid))
    left = [tmp_path / f".unfinished-{host}-{process}-x" for host, process in owners]
    for folder in left:
        (folder / "deep").mkdir(parents=True)
    made = make_temp_dir(tmp_path / "target")
    assert made.is_dir() and made.parent == tmp_path
    assert [folder.exists() for folder in left] == [False, True, True]


def test_a_folder_that_becomes_another_has_ordinary_permissions(tmp_path):
    """Packed files, cached features and exports may be shared."""
    before = os.umask(0o027)
    try:
        made = make_temp_dir(tmp_path / "target")
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == 0o750
