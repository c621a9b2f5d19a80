"""Evaluations of the checkpoints of a run: which results.json names one, and how they come into its report."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from siamese.errors import UserError
from siamese.files import digest_of_file, write, write_json
from siamese.pages.figures import evaluation
from siamese.pages.run_files import read_json, read_run
from siamese.pages.run_page import run_page
from siamese.pages.stored import Evaluation

CHECKPOINTS = ("last.ckpt", "previous.ckpt")
EARLIER = "of an earlier checkpoint of this run"


def read_evaluation(file: Path) -> tuple[dict[str, Any], Evaluation]:
    """A results.json, and the tables of it.

    Raises:
        UserError: it is damaged, or of something else.
    """
    found = read_json(file)
    try:
        return found, evaluation(found, str(file.parent))
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(str(file), f"is damaged ({reason})", "evaluate again, or leave it out") from error


def below(folder: Path) -> list[Path]:
    """Every results.json in a folder, at any depth."""
    return sorted(folder.rglob("results.json"))


def of_run(run: Path, files: Iterable[Path], known: Iterable[Evaluation] = ()) -> list[Evaluation]:
    """The evaluations of checkpoints of a run: those of equal content, and those that name a file of it, which has
    changed since.

    Args:
        run: the run folder.
        files: of any runs.
        known: evaluations that its report has already.

    Raises:
        UserError: one of the files is damaged.
    """
    digests: set[str] | None = None
    seen = {one.sha256 + one.folder for one in known}
    out = []
    for file in dict.fromkeys(files):
        content, found = read_evaluation(file)
        if digests is None:
            digests = {digest_of_file(c) for name in CHECKPOINTS if (c := run / "checkpoints" / name).is_file()}
        same = found.sha256 in digests
        if (same or names(content, run)) and found.sha256 + found.folder not in seen:
            out.append(found if same else found.model_copy(update={"told": f"{found.told}; {EARLIER}"}))
    return out


def names(results: Mapping[str, Any], run: Path) -> bool:
    """Whether the results are of a file of that run, by its path."""
    path = results.get("ckpt")
    try:
        return isinstance(path, str) and Path(path).resolve().parent == (run / "checkpoints").resolve()
    except (OSError, ValueError, RuntimeError):  # no path
        return False


def add_to_report(run: Path, one: Evaluation) -> None:
    """Add an evaluation to the report of a run; one that was written to the same folder before is replaced. The run's
    lock is the caller's business.

    Raises:
        UserError: a file of the run is damaged.
        RunAborted: the disk write failed.
    """
    stored = read_run(run).stored
    stored.evaluations = [e for e in stored.evaluations if e.folder != one.folder] + [one]
    write_json(run / "report.json", stored.content())
    write(run / "report.html", run_page(read_run(run)))
