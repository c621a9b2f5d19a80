"""`siamese report`: the report of a run anew, or several runs on one page."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siamese.errors import RunAborted, UserError
from siamese.files import NO_ROOM, in_use
from siamese.output import console
from siamese.pages.evaluations import below, of_run
from siamese.pages.html import is_page
from siamese.pages.run_files import RunFiles, read_json, read_run
from siamese.pages.run_page import run_page
from siamese.pages.several import several_page
from siamese.paths import expand_path

MOST = 40  # runs of a page
DEPTH = 4  # of runs below a folder that holds several
USAGE = "siamese report RUN [RUN …] [EVALUATION …] [out=FILE.html]"


def main(words: Sequence[str]) -> None:
    """Write report.html.

    Args:
        words: run folders, folders of several runs (also a sweep's), folders of eval_linear.py, and ``out=FILE``.

    One run gets its own report.html unless `out` is given; several get one page, `report.html` in the current folder
    or `out`.

    Raises:
        UserError: a folder is no run, a file is damaged, or `out` cannot be written.
    """
    given = [word for word in words if not word.startswith("out=")]
    outs = [word.removeprefix("out=") for word in words if word.startswith("out=")]
    if not given or len(outs) > 1:
        what = "is given several times" if given else "names no run"
        raise UserError("out=" if given else "siamese report", what, USAGE)
    folders: list[Path] = []
    results: list[Path] = []
    notes: list[str] = []
    for word in given:
        runs, evaluations, told = _found(word)
        folders, results, notes = folders + runs, results + evaluations, notes + told
    folders = list({folder.resolve(): folder for folder in folders}.values())
    if not folders:
        raise UserError(" ".join(given)[:200], "names no run, only evaluations", USAGE)
    if len(folders) > MOST:
        raise UserError(" ".join(given)[:200], f"holds {len(folders)} runs, more than {MOST}", "name fewer")
    file = _target(outs, folders)
    runs_read = [read_run(folder, in_use(folder)) for folder in folders]
    new = [of_run(run.folder, [*below(run.folder), *results], run.stored.evaluations) for run in runs_read]
    _save(file, _page(runs_read, new, notes))
    out = console()
    for line in notes:
        out.print(line, soft_wrap=True)
    out.print(f"report: {file}", soft_wrap=True)


def _page(runs: Sequence[RunFiles], new: Sequence[Sequence[Any]], notes: Sequence[str]) -> str:
    if len(runs) == 1:
        return run_page(runs[0], new[0])
    known = [[*run.stored.evaluations, *found] for run, found in zip(runs, new, strict=True)]
    return several_page(runs, known, notes)


def _found(word: str) -> tuple[list[Path], list[Path], list[str]]:
    """Run folders, results of evaluations, and remarks of one word of the command line."""
    folder = expand_path(word, "siamese report")
    if not folder.is_dir():
        if "=" in word and not folder.exists():
            raise UserError(word, "is no setting of siamese report", USAGE)
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(word, what, "give the folder of a run")
    if (folder / "config.yaml").is_file():
        return [folder], [], []
    if (folder / "results.json").is_file():
        return [], [folder / "results.json"], []
    trials = sorted((folder / "trials").glob("*.json"))
    if trials:
        return _of_sweep(folder, trials)
    patterns = ["/".join(["*"] * depth) + "/config.yaml" for depth in range(1, DEPTH + 1)]
    runs = sorted({file.parent for pattern in patterns for file in folder.glob(pattern) if _looks_run(file.parent)})
    if not runs:
        raise UserError(word, "is no run: it has no config.yaml, nor has a folder in it", "give the folder of a run")
    return runs, [], []


def _looks_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("metrics.csv", "summary.json", "checkpoints"))


def _of_sweep(folder: Path, trials: Sequence[Path]) -> tuple[list[Path], list[Path], list[str]]:
    """The runs that the trials of a sweep name; paths are those of the sweep's current folder."""
    runs, notes = [], []
    for file in trials:
        trial = read_json(file)
        where, error = trial.get("run_dir"), trial.get("error")
        told = " ".join(map(str, trial["overrides"])) if isinstance(trial.get("overrides"), list) else file.stem
        if not isinstance(where, str):
            notes.append(f"failed: {told}: {error}")
            continue
        # outputs/sweeps/<date> lies three folders below where the sweep was started.
        places = [Path(where), *(parent / where for parent in list(folder.resolve().parents)[:4])]
        run = next((place for place in places if (place / "config.yaml").is_file()), None)
        if run is None:
            raise UserError(str(file), f"its run {where} is not there", "give the runs one by one")
        runs.append(run)
    if not runs:
        raise UserError(str(folder), f"none of its {len(trials)} trials has a run", "name runs that exist")
    return runs, [], notes


def _target(outs: Sequence[str], folders: Sequence[Path]) -> Path:
    """The file to write; other files than reports are not replaced.

    Raises:
        UserError: it cannot be written.
    """
    if outs and not outs[0]:
        raise UserError("out=", "names no file", USAGE)
    named = f"out={outs[0]}" if outs else None
    default = folders[0] / "report.html" if len(folders) == 1 else Path("report.html")
    file = expand_path(outs[0], "out") if outs else default
    setting = named or str(file)
    remedy = "choose another file by out=FILE.html"
    if file.is_dir() or not file.parent.is_dir():
        what = "is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise UserError(setting, what, remedy)
    if file.exists():
        try:
            with file.open(encoding="utf-8", errors="replace") as stream:
                ours = is_page(stream.read(2000))
        except OSError as error:
            raise UserError(setting, f"cannot be written ({error.strerror})", remedy) from error
        if not ours:
            raise UserError(setting, "exists and is no report", remedy)
    if not os.access(file.parent, os.W_OK):
        raise UserError(setting, f"{file.parent} cannot be written to", remedy)
    return file


def _save(file: Path, content: str) -> None:
    """Write atomically, by a temporary file of this process's own: the run may write its report at the same time."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, file)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise RunAborted(f"{file} cannot be written ({error}); make room") from error
        raise UserError(str(file), f"cannot be written ({error})", "choose another file by out=FILE.html") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
