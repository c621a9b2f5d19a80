"""The outcome of a trial: one file a trial, `trials/NNNN.json`, which any launcher's process can write."""

import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese.errors import RunAborted, UserError
from siamese.files import write_json

UNNAMED = ("run_dir", "overwrite", "resume")  # settings that make no other trial
FIGURES = ("linear_top1", "linear_map", "feature_rank")  # what a sweep is judged by: the first that a run has


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Args:
        number: of the trial.
        overrides: its settings, as typed.
        run_dir: its run folder, None if it failed before it had one.
        summary: of its run, None if it failed.
        error: the reason of its failure, else None.
    """

    number: int
    overrides: Sequence[str]
    run_dir: str | None
    summary: Mapping[str, Any] | None
    error: str | None
    settings: Mapping[str, str] = field(init=False, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", split(self.overrides))

    @property
    def value(self) -> float:
        """The figure that the sweep is judged by; NaN if the trial failed."""
        return value_of(self.summary or {})

    @property
    def seed(self) -> str | None:
        """As typed or, if the trials do not set it, as it ran."""
        given = self.settings.get("seed")
        ran = (self.summary or {}).get("seed")
        return given if given is not None or ran is None else str(ran)


def key(override: str) -> str:
    """`+a.b=1` to `a.b`; `~a.b`, which removes a key, stays."""
    return override.partition("=")[0].lstrip("+")


def split(overrides: Sequence[str]) -> dict[str, str]:
    """Key -> value, without settings that make no other trial."""
    return {key(o): o.partition("=")[2] for o in overrides if key(o) not in UNNAMED}


def value_of(summary: Mapping[str, Any]) -> float:
    """Linear top-1 or mAP on the validation split, RankMe of the features without labels; NaN if there is none."""
    found = next((summary[name] for name in FIGURES if isinstance(summary.get(name), (int, float))), None)
    return float("nan") if found is None else float(found)


def file_of(folder: Path, number: int) -> Path:
    """Where the outcome of a trial lies in the folder of its sweep."""
    return folder / "trials" / f"{number:04d}.json"


def begin(folder: Path, number: int, overrides: Sequence[str], job: str | None, how: str) -> None:
    """Note which trial the run folder of this number is going to hold.

    Args:
        job: in which the trial runs, if it has several processes.
        how: it starts, for the others of these processes.
    """
    file = file_of(folder, number).with_suffix(".begun")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"overrides": named(overrides), "job": job, "how": how})


def begun(folder: Path, number: int) -> dict[str, Any]:
    """What `begin` has noted; empty without a readable note."""
    try:
        found = json.loads(file_of(folder, number).with_suffix(".begun").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def named(overrides: Sequence[str]) -> list[str]:
    """The settings that make the trial."""
    return [o for o in overrides if key(o) not in UNNAMED]


def record(
    folder: Path,
    number: int,
    overrides: Sequence[str],
    run_dir: Path | None,
    summary: Mapping[str, Any] | None,
    error: BaseException | None = None,
) -> None:
    """Write the outcome of a trial, and the traceback of a crash beside it.

    Args:
        folder: of the sweep.
        error: why the trial failed; its line is the user's message, or type and message of a crash.
    """
    known = isinstance(error, (UserError, RunAborted))
    told = None if error is None else str(error) if known else f"{type(error).__name__}: {error}"
    file = file_of(folder, number)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        file,
        {
            "number": number,
            "overrides": named(overrides),
            "run_dir": None if run_dir is None else str(run_dir),
            "summary": summary,
            "error": told,
        },
    )
    trace = file.with_suffix(".txt")
    trace.unlink(missing_ok=True)
    if error is not None and not known:
        trace.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="replace")


def read(file: Path) -> Outcome:
    """An outcome.

    Raises:
        UserError: the file is damaged.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return Outcome(*(found[name] for name in ("number", "overrides", "run_dir", "summary", "error")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            str(file), f"is not the outcome of a trial ({error!r})", "remove it, and start again"
        ) from error


def read_all(folder: Path) -> list[Outcome]:
    """The outcomes in the folder of a sweep, by number."""
    return [read(file) for file in sorted((folder / "trials").glob("*.json"))]
