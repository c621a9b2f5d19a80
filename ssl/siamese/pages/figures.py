"""Names and formats of figures, and figures of summary.json and results.json as plain tables."""

import math
import re
from collections.abc import Mapping
from typing import Any

from siamese.pages import html
from siamese.pages.charts import number
from siamese.pages.stored import Evaluation, EvaluationTable, Numbers

NAMES = {"knn": "kNN", "top1": "top-1", "map": "mAP", "lr": "learning rate", "lidar": "LiDAR", "alpha": "alpha",
         "req": "ReQ", "lowshot": "few labels", "finetune": "fine-tuning", "finetuned": "fine-tuned",
         "std": "standard deviation"}  # fmt: skip
OF_METHOD = re.compile(r"(knn|linear|logistic|finetune|lowshot)_\w+|feature_rank")  # figures at the top of summary.json
SHARES = re.compile(r"(top1|map|labels?|shot)(_|$)")  # fractions, shown in percent
HIDDEN = ("chosen", "grid", "settings")  # of a protocol's result
Value = tuple[float, float | None]


def name_of(key: str) -> str:
    """`linear_10_labels` -> "linear 10 labels", `knn_top1` -> "kNN top-1"."""
    return " ".join(NAMES.get(word, word) for word in key.split("_") if word)


def is_share(key: str) -> bool:
    """Whether a figure of this name is a fraction."""
    return SHARES.search(key) is not None


def shown(value: Value | None, percent: bool) -> str:
    """A figure, with half of its interval if it has one."""
    if value is None:
        return "–"
    if not percent:
        return number(value[0]) + (f" ± {number(value[1])}" if value[1] is not None else "")
    return f"{100 * value[0]:.2f}" + (f" ± {100 * value[1]:.2f}" if value[1] is not None else "")


def value_of(found: Any) -> Value | None:
    """A number, or a mapping with `mean` and `interval95` or `interval`; None for anything else."""
    half = None
    if isinstance(found, Mapping):
        half = found.get("interval95", found.get("interval"))
        found = found.get("mean")
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not _finite(found):
        return None
    if isinstance(half, bool) or not isinstance(half, (int, float)) or not _finite(half):
        return float(found), None
    return float(found), float(half)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of a float
        return False


def closing_rows(summary: Mapping[str, Any]) -> dict[str, dict[str, Value]]:
    """Kind of features -> figures, of summary.json: the baselines and, last, the method."""
    baselines = summary.get("baselines")
    kinds = {str(k): row for k, row in baselines.items() if isinstance(row, Mapping)} if isinstance(
        baselines, Mapping
    ) else {}  # fmt: skip
    keys = {str(key) for row in kinds.values() for key in row}
    own = {k: v for k, v in summary.items() if k in keys or OF_METHOD.fullmatch(str(k))}
    rows = {name: _values(row) for name, row in {**kinds, str(summary.get("method", "method")): own}.items()}
    return {name: row for name, row in rows.items() if row}


def _values(row: Mapping[str, Any]) -> dict[str, Value]:
    """Figures of a row; `KEY_interval95` beside `KEY` is its interval."""
    out = {}
    for key, found in row.items():
        value = value_of(found)
        half = value_of(row.get(f"{key}_interval95"))
        if value is not None and not str(key).endswith("_interval95"):
            out[str(key)] = (value[0], half[0]) if half else value
    return out


def closing_table(summary: Mapping[str, Any]) -> str:
    """The closing table as HTML; empty before there is one."""
    rows = closing_rows(summary)
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    if not keys:
        return ""
    names = list(rows)
    best: list[int | None] = [None]
    for key in keys:
        held = {i: rows[n][key][0] for i, n in enumerate(names) if key in rows[n]}
        best.append(max(held, key=lambda i: held[i]) if len(held) > 1 else None)
    head = ["features", *(name_of(key) + (" %" if is_share(key) else "") for key in keys)]
    lines = [[name, *(shown(row.get(key), is_share(key)) for key in keys)] for name, row in rows.items()]
    return html.table(head, lines, strong=len(names) - 1, best=best)


def evaluation(results: Mapping[str, Any], folder: str) -> Evaluation:
    """The figures of a results.json (schema 2).

    Args:
        folder: where it lies.

    Raises:
        ValueError: it holds something else.
    """
    by_data = results.get("results")
    if results.get("schema") != 2 or not isinstance(by_data, Mapping):
        raise ValueError("it is no results.json of schema 2")
    tables = []
    for data, one in by_data.items():
        kinds = one.get("rows") if isinstance(one, Mapping) else None
        if not isinstance(kinds, Mapping):
            raise ValueError(f"results.{data} has no rows")
        rows: dict[str, Numbers] = {}
        percent: dict[str, bool] = {}
        for column, protocols in kinds.items():
            for protocol, result in (protocols if isinstance(protocols, Mapping) else {}).items():
                for label, (value, share) in protocol_figures(str(protocol), result).items():
                    rows.setdefault(label, {})[str(column)] = value
                    percent[label] = share
        counts = one.get("images")
        images = ", ".join(f"{v:,} {k}" for k, v in counts.items() if isinstance(v, int)) if isinstance(
            counts, Mapping
        ) else ""  # fmt: skip
        tables.append(
            EvaluationTable(data=str(data), images=images, columns=list(map(str, kinds)), percent=percent, rows=rows)
        )
    said = [str(results[k]) + unit for k, unit in (("device", ""), ("seconds", " s")) if results.get(k) is not None]
    return Evaluation(
        folder=folder, sha256=str(results.get("ckpt_sha256", "")), command=str(results.get("command", "")),
        told=", ".join(said), tables=tables,
    )  # fmt: skip


def protocol_figures(name: str, result: Any, depth: int = 0) -> dict[str, tuple[Value, bool]]:
    """Label -> (value, whether it is a fraction) of what a protocol found: top-1 or mAP; else every figure with an
    interval, and every number that is no count."""
    if not isinstance(result, Mapping) or depth > 3:
        return {}
    label = name_of(name)
    out = {}
    for key, told in (("top1", f"{label} top-1"), ("map", f"{label} mAP"), ("micro_map", f"{label} micro mAP")):
        value = value_of(result.get(key))
        if value is not None:
            out[told] = (value, True)
    if out:
        return out
    for key, found in result.items():
        if key in HIDDEN:
            continue
        value = value_of(found)
        if isinstance(found, Mapping) and value is not None:
            out[f"{label}, {name_of(str(key))}"] = (value, True)
        elif isinstance(found, Mapping):
            nested = protocol_figures(str(key), found, depth + 1)
            out |= {f"{label}, {inner}": figure for inner, figure in nested.items()}
        elif isinstance(found, float) and value is not None:
            out[f"{label}, {name_of(str(key))}"] = (value, False)
    return out


def evaluation_table(one: EvaluationTable) -> str:
    """A table of an evaluation as HTML."""
    lines = []
    for label, row in one.rows.items():
        percent = one.percent.get(label, False)
        lines.append([f"{label}{' %' if percent else ''}", *(shown(row.get(c), percent) for c in one.columns)])
    return html.table([f"{one.data}, test split", *one.columns], lines)
