"""The table of a sweep: one row a setting, over its seeds; on the screen and as CSV."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from siamese.files import write
from siamese.intervals import exceeds, interval
from siamese.sweep.outcome import Outcome

PROBES = ("knn", "linear")
NAMES = {"knn": "kNN", "linear": "linear", "feature_rank": "RankMe"}  # in tables
FIGURE_NAMES = {"epochs": "epochs_trained"}  # of trials.csv, where `epochs` may be a setting


@dataclass(frozen=True)
class Row:
    """The trials of one setting.

    Args:
        settings: what distinguishes it from the other rows: key -> value as typed.
        members: its trials, one a seed.
    """

    settings: Mapping[str, str]
    members: Sequence[Outcome]

    @property
    def done(self) -> list[Outcome]:
        """The trials that did not fail."""
        return [m for m in self.members if m.summary is not None]

    @property
    def name(self) -> str:
        """The settings as text; long numbers are rounded."""
        return " ".join(f"{k}={short(v)}" for k, v in self.settings.items()) or "all trials"

    def figures(self, probe: str) -> list[float]:
        """Top-1, mAP or, for "feature_rank", RankMe of each trial that has it, as it stands in its summary."""
        found = [figure(m.summary or {}, probe) for m in self.done]
        return [value for value in found if value is not None]

    def mean(self, name: str) -> float | None:
        """Mean of a number of the summaries, such as "train_seconds"."""
        found = [m.summary[name] for m in self.done if m.summary and isinstance(m.summary.get(name), (int, float))]
        return statistics.fmean(found) if found else None

    @property
    def values(self) -> list[float]:
        """The figures that the sweep is judged by."""
        return [m.value for m in self.done if math.isfinite(m.value)]

    @property
    def value(self) -> float:
        """Their mean, minus infinity if there is none."""
        return statistics.fmean(self.values) if self.values else -math.inf


def figure(summary: Mapping[str, Any], probe: str) -> float | None:
    """Top-1, mAP or, for "feature_rank", RankMe, as it stands in a summary; None if it has none."""
    names = ("feature_rank",) if probe == "feature_rank" else (f"{probe}_top1", f"{probe}_map")
    return next((float(summary[n]) for n in names if isinstance(summary.get(n), (int, float))), None)


def rows(outcomes: Sequence[Outcome]) -> tuple[list[Row], dict[str, str]]:
    """The settings, best first, and what all of them share. The seed makes no setting; of several trials of a setting
    and a seed, as searches may propose, one counts."""
    every = [{k: v for k, v in o.settings.items() if k != "seed"} for o in outcomes]
    common = {k: v for k, v in (every[0] if every else {}).items() if all(e.get(k) == v for e in every)}
    groups: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for settings, outcome in zip(every, outcomes, strict=True):
        own = tuple(sorted((k, v) for k, v in settings.items() if k not in common))
        groups.setdefault(own, []).append(outcome)
    order = list(dict.fromkeys(k for e in every for k in e))
    found = [
        Row({k: dict(own)[k] for k in order if k in dict(own)}, _one_a_seed(members)) for own, members in groups.items()
    ]
    return sorted(found, key=lambda row: -row.value), common


def _one_a_seed(members: Sequence[Outcome]) -> list[Outcome]:
    """The first finished trial of each seed; a failed one where none has finished."""
    kept: dict[str | None, Outcome] = {}
    for outcome in members:
        before = kept.get(outcome.seed)
        if before is None or (before.summary is None and outcome.summary is not None):
            kept[outcome.seed] = outcome
    return list(kept.values())


def probes(found: Sequence[Row]) -> list[str]:
    """The figures that the runs have."""
    return [p for p in (*PROBES, "feature_rank") if any(row.figures(p) for row in found)]


def table(found: Sequence[Row], width: int | None = None) -> Table:
    """For the screen: mean ± half of the 95 % interval over seeds.

    Args:
        width: of the screen, characters; below 100 it leaves room to the settings.
    """
    out = Table(box=None, pad_edge=False, collapse_padding=True) if (width or 200) < 100 else Table()
    out.add_column("setting", overflow="fold")
    shown = probes(found)
    failed = any(len(row.done) < len(row.members) for row in found)
    marked = [] if len(found) < 2 else ["to best"]
    last = ["failed"] if failed else []
    for column in ("seeds", *(NAMES[p] for p in shown), *marked, "seconds", "MB", *last):
        out.add_column(column, justify="right", no_wrap=True)
    for row in found:
        cells = [row.name, str(len(row.done)), *(spread(row.figures(p), p) for p in shown)]
        cells += [difference(found[0], row)] if marked else []
        cells += [amount(row.mean("train_seconds")), amount(row.mean("peak_memory_mb"))]
        out.add_row(*cells, *([str(len(row.members) - len(row.done) or "")] if failed else []))
    return out


def title(found: Sequence[Row]) -> str:
    """What the figures are."""
    shown = probes(found)
    if not shown:
        return "sweep: no trial has finished"
    if not any(p in PROBES for p in shown):
        what = "RankMe of the features"
    else:
        maps = any("knn_map" in (m.summary or {}) for row in found for m in row.members)
        what = f"validation top-1 %{', or mAP % where an image may have several labels' if maps else ''}"
    several = any(len(row.done) > 1 for row in found)
    return f"sweep: {what}" + (", mean ± half of the 95 % interval over seeds" if several else "")


def legend(found: Sequence[Row]) -> list[str]:
    """Lines about the table's marks."""
    if len(found) < 2 or not found[0].values:
        return []
    if not any(exceeds(found[0].values, row.values) is not None for row in found[1:]):
        return ["to best: one seed has no spread by which a difference could be judged"]
    return ["to best: * exceeds the spread over seeds (Welch's t-test at 5 % a row)"]


def difference(best: Row, row: Row) -> str:
    """Difference of a row to the best one, in the figure's unit, marked where it exceeds the spread over seeds."""
    if row is best or not row.values:
        return ""
    unit = 100 if row.figures("linear") else 1
    return f"{unit * (row.value - best.value):.2f}" + (" *" if exceeds(best.values, row.values) else "")


def spread(values: Sequence[float], probe: str) -> str:
    """Mean ± half of the 95 % interval; fractions in percent."""
    if not values:
        return "-"
    unit = 1 if probe == "feature_rank" else 100
    over = interval(values)
    half = "" if over["interval95"] is None else f" ± {unit * over['interval95']:.2f}"
    return f"{unit * over['mean']:.2f}{half}"


def amount(value: float | None) -> str:
    """A number without decimals from 10 on."""
    return "-" if value is None else f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def short(value: str) -> str:
    """A number of many digits with four; other values as they are."""
    try:
        return f"{float(value):.4g}" if len(value) > 6 and "." in value else value
    except ValueError:
        return value


def write_csv(folder: Path, found: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
    """`sweep.csv`, one line a setting, and `trials.csv`, one line a trial. Figures are fractions."""
    keys = list(dict.fromkeys(k for row in found for k in row.settings))
    lines: list[dict[str, Any]] = []
    for row in found:
        line: dict[str, Any] = {**row.settings, "seeds": len(row.done), "failed": len(row.members) - len(row.done)}
        for probe in probes(found):
            over = interval(row.figures(probe)) if row.figures(probe) else {"mean": "", "interval95": None}
            line |= {f"{probe}_mean": over["mean"], f"{probe}_interval95": over["interval95"]}
        worse = exceeds(found[0].values, row.values) if row is not found[0] and row.values else None
        line |= {"exceeds_spread": "" if worse is None else str(worse).lower()}
        line |= {name: row.mean(name) for name in ("train_seconds", "images_per_second", "peak_memory_mb")}
        lines.append(line)
    _write(folder / "sweep.csv", keys, lines)
    typed = list(dict.fromkeys(k for o in outcomes for k in o.settings))
    figures = ("knn_top1", "linear_top1", "knn_map", "linear_map", "feature_rank", "epochs", "stopped_early",
               "train_seconds", "seconds", "images_per_second", "peak_memory_mb")  # fmt: skip
    named = [f for f in figures if any(f in (o.summary or {}) for o in outcomes)]
    each = [
        {"number": o.number, **o.settings, **{FIGURE_NAMES.get(f, f): (o.summary or {}).get(f) for f in named},
         "run_dir": o.run_dir, "error": o.error} for o in outcomes
    ]  # fmt: skip
    _write(folder / "trials.csv", ["number", *typed], each)


def _write(file: Path, first: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys([*first, *(k for line in lines for k in line)]))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write(file, stream.getvalue())
