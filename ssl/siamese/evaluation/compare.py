"""Several evaluations side by side, and which differences exceed the spread over seeds."""

import itertools
import json
from collections.abc import Sequence
from typing import Annotated, Any

import pydantic
from rich.console import Console
from rich.table import Table

from siamese.errors import UserError
from siamese.intervals import exceeds, interval
from siamese.output import print_table
from siamese.paths import expand_path

RENAMED = {"trust": "trust_coefficient"}  # of linear_crops, since 2026-11-24
ADDED = {"optimizer": "sgd"}  # of finetune: a key that was added since -> what it was before it existed
Values = dict[str, dict[str, list[float]]]  # group -> column -> a figure a run


def compare(folders: Sequence[str], console: Console) -> Values:
    """Print a table, mean ± half the 95 % interval over the runs that differ in the seed alone, and a line for
    each two groups whose difference exceeds the spread (Welch's t-test at 5 %, one test a figure, not
    corrected for their number).

    Args:
        folders: run folders of eval_linear.py, or their results.json.

    Raises:
        UserError: a folder without results, or results of another schema.
    """
    several = isinstance(folders, Sequence) and not isinstance(folders, str)
    folders = [str(f) for f in folders] if several else [str(folders)]
    if not folders:
        raise UserError("compare=[]", "nothing to compare", "give run folders of eval_linear.py")
    runs = [read(folder) for folder in folders]
    values: Values = {}
    seeds: dict[str, list[Any]] = {}
    _check_settings(folders, runs)
    names = {(_name(one), one.get("recipe")) for one in runs}
    for one in runs:
        name = _name(one)
        if sum(n == name for n, _ in names) > 1:  # other recipes of the same name
            name += f" [{one.get('recipe')}]"
        seeds.setdefault(name, []).append((one["seed"], one["ckpt_sha256"]))
        for column, value in figures(one).items():
            values.setdefault(name, {}).setdefault(column, []).append(value)
    for name, members in seeds.items():
        if len(dict(members)) < len(members):
            what = "one checkpoint" if len(set(members)) < len(members) else "one seed"
            raise UserError(
                f"compare=[{','.join(map(str, folders))}]", f"holds {what} twice ({name})",
                "give each once, so that the spread is one over seeds",
            )  # fmt: skip
    columns = list(dict.fromkeys(c for row in values.values() for c in row))
    print_table(console, _table(values, {name: len(members) for name, members in seeds.items()}, columns))
    for (a, row_a), (b, row_b) in itertools.combinations(values.items(), 2):
        for column in (c for c in columns if c in row_a and c in row_b):
            _say(console, a, b, column, row_a[column], row_b[column])
    return values


def _table(values: Values, seeds: dict[str, int], columns: Sequence[str]) -> Table:
    """A row for each pretraining, or for each figure if there are more of these: the narrower table."""
    what = "top-1 % or mAP %" if any(c.endswith(" mAP") for c in columns) else "top-1 %"
    out = Table(title=f"{what}, mean ± half of the 95 % interval over seeds", title_justify="left")
    rows = [["pretraining", *values], ["seeds", *(str(seeds[name]) for name in values)]]
    rows += [[column, *(_cell(row.get(column)) for row in values.values())] for column in columns]
    if len(columns) <= len(values):
        rows = [list(column) for column in zip(*rows, strict=True)]
    for i, column in enumerate(zip(*rows, strict=True)):
        head, *cells = column
        # No digit is lost where the table is wider than the terminal.
        wide = max(map(len, cells)) if i else None
        out.add_column(head, justify="right" if i else "left", min_width=wide, overflow="fold")
    for row in rows[1:]:
        out.add_row(*row)
    return out


def _name(one: dict[str, Any]) -> str:
    return f"{one['method']}, {one['backbone']}, {one['epochs']} epochs on {one['data']}"


def _check_settings(folders: Sequence[str], runs: list[dict[str, Any]]) -> None:
    """A figure is compared with one of the same protocol, settings and split."""
    seen: dict[tuple[str, str], tuple[Any, str]] = {}
    for folder, one in zip(folders, runs, strict=True):
        about = {("protocol", p): _comparable(found.get("settings")) for p, found in one.get("protocols", {}).items()}
        for what in ("split", "images", "classes"):
            about |= {(f"{what} of", d): found.get(what) for d, found in one["results"].items()}
        for d, found in one["results"].items():  # mean and std may be each seed's own
            seen_as = {key: (found.get("view") or {}).get(key) for key in ("size", "center", "interpolation")}
            about[f"view of {d} by {_name(one)}", f"({one.get('recipe')})"] = seen_as
        for key, value in about.items():
            before, where = seen.setdefault(key, (value, folder))
            if before != value:
                raise UserError(
                    f"compare={folder}", f"{' '.join(key)} was {value}, in {where} {before}",
                    "evaluate both in the same way",
                )  # fmt: skip


def _cell(values: list[float] | None) -> str:
    if not values:
        return "-"
    over_seeds = interval(values)
    half = over_seeds["interval95"]
    return f"{100 * over_seeds['mean']:.2f}" + ("" if half is None else f" ± {100 * half:.2f}")


def _say(console: Console, a: str, b: str, column: str, x: list[float], y: list[float]) -> None:
    points = 100 * (sum(x) / len(x) - sum(y) / len(y))
    verdict = exceeds(x, y)
    if verdict is None:
        word = "cannot be judged: one seed has no spread"
    else:
        word = "exceeds the seeds' spread" if verdict else "lies within the seeds' spread"
    console.print(f"{column}: {a} - {b}: {points:+.2f} points, {word}", highlight=False, soft_wrap=True)


def read(folder: str) -> dict[str, Any]:
    """results.json of a run folder."""
    file = expand_path(folder, "compare")
    file = file / "results.json" if file.is_dir() else file
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        schema = found["schema"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"compare={folder}", f"has no readable results.json ({error})", "give run folders of eval_linear.py"
        ) from error
    if schema != 2:
        raise UserError(f"compare={folder}", f"its results.json has schema {schema}, 2 is known", "evaluate it again")
    try:
        _Run.model_validate(found)
        for name, value in figures(found).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise TypeError(f"{name} is {value}")
    except (pydantic.ValidationError, KeyError, TypeError, AttributeError) as error:
        problem = " ".join(str(error).split())[:100]
        raise UserError(
            f"compare={folder}", f"its results.json is not one of eval_linear.py ({problem})", "evaluate it again"
        ) from error
    return found  # type: ignore[no-any-return]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds control characters")
    return text


Text = Annotated[str, pydantic.AfterValidator(_printable)]


class _Rows(pydantic.BaseModel):
    rows: dict[Text, dict[Text, dict[Text, Any]]]


class _Run(pydantic.BaseModel):
    """What is read of results.json."""

    method: Text
    backbone: Text
    data: Text
    epochs: int | None
    seed: int
    ckpt_sha256: str
    recipe: Text | None = None
    protocols: dict[Text, dict[str, Any]] = {}
    results: dict[Text, _Rows]


def figures(one: dict[str, Any]) -> dict[str, float]:
    """The checkpoint's own figures. Top-1: "data set protocol" -> fraction; of several labels an image "data set
    protocol mAP" and "… micro mAP". A protocol with several figures (few labels) has "data set share way" -> the mean
    over its choices."""
    out: dict[str, float] = {}
    for data, found in one["results"].items():
        for protocol, figure in found["rows"][one["method"]].items():
            if "top1" in figure:
                out[f"{data} {protocol}"] = figure["top1"]
                continue
            if "map" in figure:  # several labels an image
                out |= {f"{data} {protocol} mAP": figure["map"], f"{data} {protocol} micro mAP": figure["micro_map"]}
                continue
            for share, ways in figure.items():
                ways = ways.items() if isinstance(ways, dict) else ()
                out |= {f"{data} {share} {way}": way_figures["mean"] for way, way_figures in ways
                        if isinstance(way_figures, dict) and "mean" in way_figures}  # fmt: skip
    return out


def _comparable(settings: Any) -> Any:
    """Settings without `_target_`, under their present names: results of older versions hold both otherwise."""
    if not isinstance(settings, dict):
        return settings
    kept = {k: v for k, v in settings.items() if k != "_target_" and not (k in ADDED and v == ADDED[k])}
    return {RENAMED.get(k, k): _comparable(v) for k, v in kept.items()}
