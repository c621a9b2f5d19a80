"""The folder of an export: complete, or not there."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siamese.errors import RunAborted, UserError
from siamese.files import NO_ROOM, make_temp_dir
from siamese.paths import expand_path


def check_out(out: Any) -> Path:
    """`out=` as a path at which a folder can be made.

    Raises:
        UserError: it is missing, there already, or in a folder that cannot be written to.
    """
    if out is None:
        raise UserError("out=", "no folder was given", "give out=FOLDER, which is made")
    path = expand_path(out, "out").absolute()
    if os.path.lexists(path):
        raise UserError(f"out={out}", "is there already", "remove it, or give another folder")
    parent = next(p for p in path.parents if os.path.lexists(p))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        problem = "cannot be written to" if parent.is_dir() else "is not a folder"
        raise UserError(f"out={out}", f"{parent} {problem}", "give another folder")
    return path


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` at the end of the block; after an exception nothing is left.

    Raises:
        RunAborted: the disk is full.
        UserError: the folder cannot be written.
    """
    made = [p for p in out.parents if not p.exists()]  # the innermost first
    temporary = None
    try:
        temporary = make_temp_dir(out)
        yield temporary
        temporary.rename(out)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise RunAborted(f"{out} cannot be written ({error.strerror}); make room, then export again") from error
        told = error.strerror or str(error)
        raise UserError(f"out={out}", f"cannot be written ({told})", "give another folder") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty
            for parent in made:
                parent.rmdir()
