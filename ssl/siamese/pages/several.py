"""Several runs on one page."""

from collections.abc import Sequence

from siamese.pages import html
from siamese.pages.charts import Line, line_legend
from siamese.pages.figures import closing_rows, closing_table, is_share, name_of, shown
from siamese.pages.gallery import feature_map, map_note, neighbours
from siamese.pages.html import text
from siamese.pages.run_files import RunFiles
from siamese.pages.run_page import (
    MAIN,
    charts,
    differing,
    duration,
    evaluated,
    footer,
    state_of,
    views,
)
from siamese.pages.stored import Evaluation, now

FIRST = ("method.name", "data.name", "backbone.name", "epochs", "batch_size", "optimizer.lr", "seed")
TITLES = {key: name for name, key in MAIN}
COLUMNS = 5  # settings that the table shows; the others stand below


def several_page(
    runs: Sequence[RunFiles], evaluations: Sequence[Sequence[Evaluation]] = (), notes: Sequence[str] = ()
) -> str:
    """A page of several runs.

    Args:
        evaluations: of each run.
        notes: lines about what is not shown.
    """
    names = distinct(runs)
    legend = line_legend([Line(name, (), (), i) for i, name in enumerate(names)])
    known = evaluations or [run.stored.evaluations for run in runs]
    table, rest = summary_table(runs, names)
    told = (
        "Settings that differ, and figures on each run's validation split; the best figure of a column is bold where "
    )
    told += "all runs judge the same data."
    drawn = f'<div class="charts">{"".join(charts(runs))}</div>'
    maps = [[html.note(map_note(run.stored)), *feature_map(run.stored)] for run in runs]
    missing = [html.note(f"{name}: {line}") for name, run in zip(names, runs, strict=True) for line in run.notes]
    body = [
        f"<header><h1>{len(runs)} runs side by side</h1>{''.join(map(html.note, notes))}</header>",
        html.section("Runs", [table, rest], told),
        html.section("Training", [legend, drawn, legend]),
        html.section("Features at the end", columns(names, [[closing_table(run.summary)] for run in runs])),
        html.section("Evaluation", columns(names, [evaluated(one) for one in known])),
        html.section(
            "Nearest neighbours before and after training", columns(names, [neighbours(run.stored) for run in runs])
        ),
        html.section("Map of the features before and after training", columns(names, maps)),
        html.section("Views", columns(names, [[views(run)] for run in runs])),
        html.section("Not shown", missing),
        footer(now()),
    ]
    return html.page(f"{len(runs)} runs side by side", filter(None, body))


def distinct(runs: Sequence[RunFiles]) -> list[str]:
    """A name for each run: method and data, and where several have these the folder's name, or its whole path."""
    base = [run.name for run in runs]
    short = [
        f"{name}, {run.folder.name}" if base.count(name) > 1 else name for name, run in zip(base, runs, strict=True)
    ]
    return [f"{name}, {run.folder}" if short.count(s) > 1 else s
            for name, s, run in zip(base, short, runs, strict=True)]  # fmt: skip


def summary_table(runs: Sequence[RunFiles], names: Sequence[str]) -> tuple[str, str]:
    """One row a run: settings that differ, closing figures, seconds; and the differences that found no column."""
    keys = differing(runs)
    chosen = {key.removesuffix("name") for key in keys if key.endswith(".name")}  # their other settings follow from it
    main = [k for k in keys if k in FIRST or not (k.startswith((*chosen, "monitor.", "checkpoint.")) or "._" in k)]
    main.sort(key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
    top = main[:COLUMNS]
    more = [key for key in keys if key not in top]
    ends = [closing_rows(run.summary) if run.stored.state != "running" else {} for run in runs]
    own = [rows[list(rows)[-1]] if rows else {} for rows in ends]
    figures = list(dict.fromkeys(key for row in own for key in row))
    head = [
        "run",
        *(TITLES.get(key, key) for key in top),
        *(name_of(k) + (" %" if is_share(k) else "") for k in figures),
        "training time",
        "images/s",
        "state",
    ]
    lines = []
    for run, name, row in zip(runs, names, own, strict=True):
        seconds, rate = (
            run.summary.get("train_seconds", run.summary.get("seconds")),
            run.summary.get("images_per_second"),
        )
        lines.append([
            name, *(_shown(run.setting(key)) for key in top), *(shown(row.get(key), is_share(key)) for key in figures),
            duration(seconds) if isinstance(seconds, (int, float)) else "–",
            f"{rate:,.0f}" if isinstance(rate, (int, float)) else "–", state_of(run.stored),
        ])  # fmt: skip
    best: list[int | None] = [None] * (1 + len(top))
    same_data = len({repr(run.setting("data")) for run in runs}) == 1
    for key in figures:
        held = {i: row[key][0] for i, row in enumerate(own) if key in row}
        best.append(max(held, key=lambda i: held[i]) if same_data and len(held) > 1 else None)
    table = html.table(head, lines, best=best)
    if not more:
        return table, ""
    rest = html.table(["setting", *names], [[key, *(_shown(run.setting(key)) for run in runs)] for key in more])
    return table, html.folded(f"{len(more)} further settings that differ", rest)


def columns(names: Sequence[str], parts: Sequence[Sequence[str]]) -> list[str]:
    """What each run has, below its name; nothing where no run has any."""
    filled = [[part for part in one if part] for one in parts]
    if not any(filled):
        return []
    articles = [
        f'<article class="c{i % 7}"><h3>{text(name)}</h3>{"".join(one) or html.note("none")}</article>'
        for i, (name, one) in enumerate(zip(names, filled, strict=True))
    ]
    return [f'<div class="columns">{"".join(articles)}</div>']


def _shown(value: object) -> str:
    told = "–" if value is None else str(value)
    return told if len(told) <= 60 else told[:57] + "…"
