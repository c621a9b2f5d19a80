"""The table of eval_linear.py."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from siamese.evaluation.protocols.base import Protocol


def table(results: dict[str, dict[str, Any]], protocols: Mapping[str, Protocol]) -> Table:
    """`results` of results.json; one row per figure, one column per kind of features."""
    names = list(dict.fromkeys(name for one in results.values() for name in one["rows"]))
    several = any(one.get("multilabel") for one in results.values())
    what = "top-1 %, or mean average precision (mAP) %," if several else "top-1 %"
    out = Table(title=f"{what} on the test split", title_justify="left")
    out.add_column("data", overflow="fold")
    out.add_column("protocol", overflow="fold")
    for name in names:
        out.add_column(name, justify="right", overflow="fold")
    for data_name, one in results.items():
        columns = {name: cells(figures, protocols) for name, figures in one["rows"].items()}
        for line in dict.fromkeys(line for column in columns.values() for line in column):
            out.add_row(data_name, line, *(columns.get(name, {}).get(line, "-") for name in names))
        out.add_section()
    return out


def cells(figures: dict[str, Any], protocols: Mapping[str, Protocol]) -> dict[str, str]:
    """protocol -> result, of one kind of features, to label -> text."""
    out: dict[str, str] = {}
    for name, result in figures.items():
        out |= protocols[name].cells(result)
    return out
