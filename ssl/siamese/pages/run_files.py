"""Reads a run folder for its report. The files may come from anybody: they are checked, and no code in them is run."""

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import yaml

from siamese.errors import UserError
from siamese.pages.pictures import embedded
from siamese.pages.stored import State, Stored
from siamese.schema.saved import check_plain

LARGEST = 200_000_000  # bytes of a file that is read
REMEDY = "repair it, or leave this run out"


@dataclass(frozen=True)
class RunFiles:
    """What the report of a run is drawn from.

    Args:
        folder: as given.
        config: config.yaml.
        config_text: the same as text.
        summary: summary.json, empty before the run has ended.
        rows: of metrics.csv, the finite and not finite numbers of each.
        stored: report.json; of a run without one, what the other files tell.
        views: data URI of views.png, or empty.
        notes: what is missing, and why.
    """

    folder: Path
    config: dict[str, Any]
    config_text: str
    summary: dict[str, Any]
    rows: list[dict[str, float]]
    stored: Stored
    views: str
    notes: list[str]

    @property
    def name(self) -> str:
        """The run in few words."""
        return f"{self.setting('method.name') or 'run'} on {self.setting('data.name') or 'images'}"

    def setting(self, key: str) -> Any:
        """A value of the config by its dotted key, None if it is missing."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    @property
    def steps_per_epoch(self) -> float:
        """From report.json, else from the rows; 0 if neither tells."""
        if self.stored.steps_per_epoch:
            return self.stored.steps_per_epoch
        ends = (r["step"] / r["epoch"] for r in self.rows if "loss" not in r and r.get("epoch", 0) > 0)
        return next(ends, 0)

    def curve(self, column: str) -> tuple[list[float], list[float]]:
        """(epochs, values) of a column of metrics.csv, where the row has one; steps where epochs are unknown."""
        each = self.steps_per_epoch or 1
        x, y = [], []
        for row in self.rows:
            if column in row:
                # Lightning counts the steps of losses from 0.
                x.append((row["step"] + ("loss" in row)) / each)
                y.append(row[column])
        return x, y

    @property
    def columns(self) -> list[str]:
        """Columns of metrics.csv that hold figures."""
        return list(dict.fromkeys(key for row in self.rows for key in row if key not in ("step", "epoch")))


def read_run(folder: Path, active: bool | None = None) -> RunFiles:
    """Read a run folder.

    Args:
        active: whether a process is at work in it; None: report.json is believed.

    Raises:
        UserError: it is no run folder, or a file in it is damaged.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(str(folder), what, "give the folder of a run")
    if not (folder / "config.yaml").is_file():
        raise UserError(str(folder), "is no run: it has no config.yaml", "give the folder that train.py wrote")
    config_text = _text(folder / "config.yaml") or ""
    config = _config(folder / "config.yaml", config_text)
    summary = _json(folder / "summary.json") or {}
    rows = _metrics(folder / "metrics.csv")
    stored = _stored(folder / "report.json", summary)
    if active is False and stored.state == "running":
        stored = stored.model_copy(update={"state": "unfinished", "message": "it ended without a word, as if killed"})
    views, notes = "", list(stored.notes)
    if (folder / "views.png").is_file():
        try:
            views = embedded(_bytes(folder / "views.png"))
        except ValueError as error:
            notes.append(f"views.png cannot be shown: {error}")
    return RunFiles(folder, config, config_text, summary, rows, stored, views, notes)


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        UserError: it is missing, damaged, or something else.
    """
    found = _json(file)
    if found is None:
        raise UserError(str(file), "is not a file", "give another one")
    return found


def _bytes(file: Path) -> bytes:
    try:
        if file.stat().st_size > LARGEST:
            raise UserError(str(file), f"has more than {LARGEST:,} bytes", REMEDY)
        return file.read_bytes()
    except OSError as error:
        raise UserError(str(file), f"cannot be read ({error.strerror or error})", REMEDY) from error


def _text(file: Path) -> str | None:
    """None for no file. Bytes that are not UTF-8 are replaced."""
    return _bytes(file).decode("utf-8", "replace") if file.is_file() else None


def _damaged(file: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:150] or type(error).__name__
    return UserError(str(file), f"is damaged ({reason})", REMEDY)


def _config(file: Path, content: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _damaged(file, error) from error
    if not isinstance(found, dict):
        raise UserError(str(file), "is damaged (it holds no settings)", REMEDY)
    check_plain(found, str(file))
    return found


def _json(file: Path) -> dict[str, Any] | None:
    content = _text(file)
    if content is None:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, error) from error
    if not isinstance(found, dict):
        raise UserError(str(file), f"is damaged (it holds a {type(found).__name__})", REMEDY)
    return found


def _stored(file: Path, summary: dict[str, Any]) -> Stored:
    found = _json(file)
    if found is None:
        done: State = "finished" if summary.get("finished") is True else "interrupted" if summary else "unfinished"
        return Stored(state=done, message="" if done == "finished" else "no report.json tells more")
    try:
        return Stored.model_validate(found)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(str(file), f"is damaged ({place}: {first['msg']})", REMEDY) from error


def _metrics(file: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv. A killed run may have left an incomplete row, which is left out."""
    content = _text(file)
    if not content or not content.strip():
        return []
    rows = []
    try:
        reader = csv.DictReader(io.StringIO(content, newline=""))
        if "step" not in (reader.fieldnames or []):
            raise UserError(str(file), "is damaged (no column is named step)", REMEDY)
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} has more values than the first line")
            if None in row.values():
                continue
            numbers = {key: float(value) for key, value in row.items() if value != ""}
            if not math.isfinite(numbers.get("step", math.nan)):
                raise ValueError(f"line {reader.line_num} has no step")
            rows.append(numbers)
    except (csv.Error, ValueError) as error:
        raise _damaged(file, error) from error
    return rows
