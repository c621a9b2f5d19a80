"""The report of one run: a page from the files of its folder."""

import shlex
from collections.abc import Sequence
from typing import Any

from siamese.pages import html
from siamese.pages.charts import Line, line_chart, number
from siamese.pages.figures import closing_rows, closing_table, evaluation_table, is_share, name_of, shown
from siamese.pages.gallery import feature_map, map_note, neighbours
from siamese.pages.html import text
from siamese.pages.run_files import RunFiles
from siamese.pages.stored import Evaluation, Stored

# Charts in their order: title -> columns of metrics.csv.
CHARTS = {
    "loss": ("loss",),
    "learning rate": ("lr",),
    "accuracy on the validation split, top-1 %": ("knn_top1", "online_linear_top1"),
    "mean average precision on the validation split, %": ("knn_map",),
    "effective rank of the features (RankMe)": ("feature_rank",),
    "standard deviation of the projections": ("projection_std",),
    "images per second": ("images_per_second",),
}
SHARES = ("knn_top1", "online_linear_top1", "knn_map")
CLOSING = ("linear_top1", "linear_map")  # once at the end, in the closing table
COLLAPSED = 0.05  # of `projection_std`, as siamese.probes.metrics says
MAIN = (
    ("method", "method.name"), ("data", "data.name"), ("images", "data.path"), ("backbone", "backbone.name"),
    ("epochs", "epochs"), ("batch size", "batch_size"), ("base learning rate", "optimizer.lr"),
    ("weight decay", "optimizer.weight_decay"), ("view size", "data.crop"), ("seed", "seed"),
    ("precision", "trainer.precision"), ("start weights", "init_from"),
)  # fmt: skip
STARTS = ("resume=", "overwrite=", "run_dir=", "report=", "+report=")  # overrides that say where, not what


def run_page(run: RunFiles, evaluations: Sequence[Evaluation] = ()) -> str:
    """The page of a run.

    Args:
        evaluations: further ones than the run knows of.
    """
    going = run.stored.state == "running"
    body = [
        header(run),
        html.section("What ran", what_ran(run)),
        html.section("Features at the end", closing(run), closing_note(run)),
        html.section("Training", [f'<div class="charts">{"".join(charts([run]))}</div>', further(run)]),
        html.section("Evaluation", evaluated([*run.stored.evaluations, *evaluations])),
        html.section("Nearest neighbours before and after training", neighbours(run.stored), run.stored.of),
        html.section("Map of the features before and after training", feature_map(run.stored), map_note(run.stored)),
        html.section("Views", [views(run)], "A few images, and below them the augmented views that the network saw."),
        *([html.section("Not shown", [html.note(line) for line in run.notes])] if run.notes else []),
        html.section("All settings", [html.folded("config.yaml", html.code(run.config_text))]),
        footer(run.stored.updated),
    ]
    return html.page(f"{run.name}: {state_of(run.stored)}", filter(None, body), refresh=going)


def state_of(stored: Stored) -> str:
    """The state in words, such as "running, epoch 5 of 36"."""
    if stored.state == "finished" or not stored.epochs:
        return stored.state
    epoch = min(stored.epoch + 1, stored.epochs) if stored.state == "running" else stored.epoch
    return f"{stored.state}, epoch {epoch} of {stored.epochs}" if stored.state == "running" else (
        f"{stored.state} after {epoch} of {stored.epochs} epochs"
    )  # fmt: skip


def header(run: RunFiles) -> str:
    """Name, state and main figures."""
    stored, lines = run.stored, []
    collapsed = run.summary.get("collapsed_at_epoch") if stored.state != "running" else None
    if stored.message:
        lines.append(f"<p>{text(stored.message)}</p>")
    if stored.state == "running":
        lines.append(html.note(f"written {stored.updated}; a browser loads this page again every {html.REFRESH} s"))
    if isinstance(collapsed, int):
        lines.append(f'<p class="state failed">the representation collapsed at epoch {text(collapsed)}</p>')
    tiles = "".join(f"<li><b>{text(value)}</b><span>{text(name)}</span></li>" for name, value in headlines(run))
    return (
        f'<header><h1>{text(run.name)}</h1>\n<p class="note">{text(run.folder)}</p>\n'
        f'<p class="state {text(stored.state)}">{text(state_of(stored))}</p>\n' + "\n".join(lines) + "</header>\n"
        f'<ul class="figures">{tiles}</ul>'
    )


def headlines(run: RunFiles) -> list[tuple[str, str]]:
    """Names and values of the main figures: of the closing table, or the latest ones of a run without it."""
    out = []
    rows = closing_rows(run.summary) if run.stored.state != "running" else {}
    for key, value in rows[list(rows)[-1]].items() if rows else ():
        out.append((name_of(key) + (" %" if is_share(key) else ""), shown(value, is_share(key))))
    if not out:
        for key in ("knn_top1", "knn_map", "online_linear_top1", "feature_rank"):
            _, y = run.curve(key)
            if y:
                out.append(
                    (f"{name_of(key)}{' %' if is_share(key) else ''}, latest", shown((y[-1], None), is_share(key)))
                )
    out = out[:5]
    seconds = run.summary.get("train_seconds", run.summary.get("seconds"))
    if run.stored.state != "running" and isinstance(seconds, (int, float)):
        out.append(("training time", duration(seconds)))
    rate = run.summary.get("images_per_second") if run.stored.state != "running" else None
    latest = run.curve("images_per_second")[1]
    rate = rate if isinstance(rate, (int, float)) else latest[-1] if latest else None
    if rate is not None:
        out.append(("images per second", number(rate)))
    return out


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def what_ran(run: RunFiles) -> list[str]:
    """Settings, versions, device, and the command."""
    said = {k: v for k, v in run.stored.settings.items() if k != "run"}
    rows = [(name, str(run.setting(key))) for name, key in MAIN if run.setting(key) is not None]
    if said:
        main = {k for k, _ in MAIN[:4]}
        rows = [*said.items(), *((n, v) for n, v in rows if n not in main and n not in said)]
    device = run.summary.get("device")
    if device and "device" not in said:
        rows.append(("device", str(device)))
    for key, unit in (("seconds", " s"), ("peak_memory_mb", " MB"), ("skipped_steps", ""), ("skipped_images", "")):
        value = run.summary.get(key)
        if isinstance(value, (int, float)) and value:
            rows.append((key.removesuffix("_mb").replace("_", " "), f"{number(value)}{unit}"))
    rows.append(("versions", ", ".join(f"{k} {v}" for k, v in versions(run).items())))
    parts = [html.pairs(rows), *(html.note(line) for line in run.stored.remarks)]
    if run.stored.overrides is not None:
        parts.append(
            '<p class="note">The settings that differ from the defaults, as a command that repeats the run:</p>'
        )
        parts.append(f'<pre class="command">{text(command(run.stored.overrides))}</pre>')
    return parts


def versions(run: RunFiles) -> dict[str, str]:
    """Package -> version, of summary.json."""
    found = run.summary.get("versions")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def command(overrides: Sequence[str]) -> str:
    """The command line that repeats a run in a new folder."""
    return shlex.join(["siamese", "train", *(o for o in overrides if not o.startswith(STARTS))])


def closing(run: RunFiles) -> list[str]:
    """The closing table of a run that has ended."""
    return [] if run.stored.state == "running" else [closing_table(run.summary)]


def closing_note(run: RunFiles) -> str:
    """What the figures are of."""
    earlier = ""
    if run.summary.get("finished") is True and run.stored.state != "finished":
        earlier = f" They are of its earlier end, after {run.summary.get('epochs')} epochs."
    if not isinstance(run.summary.get("baselines"), dict):
        return "Without labels there is no accuracy; the effective rank (RankMe) is of un-augmented features." + earlier
    return (
        "On the validation split. raw_pixels: the images themselves; random_init: the backbone before training. The "
        f"best figure of a column is bold.{earlier}"
    )


def charts(runs: Sequence[RunFiles]) -> list[str]:
    """The curves of one run, or of several in one chart each."""
    out = []
    known = all(run.steps_per_epoch for run in runs)
    for title, columns in CHARTS.items():
        present = [c for c in columns if any(c in run.columns for run in runs)]
        split = [[c] for c in present] if len(runs) > 1 and len(present) > 1 else [present]
        for chosen in split:
            told = f"{title}: {name_of(chosen[0])}" if len(split) > 1 else title
            if title == "loss" and len({run.setting("method.name") for run in runs}) > 1:
                told = "loss (methods differ in its scale)"
            lines = curves(runs, chosen)
            marks = marks_of(runs[0]) if len(runs) == 1 and "projection_std" in chosen else []
            levels = [(COLLAPSED, "collapsed")] if "projection_std" in chosen else []
            out.append(
                line_chart(told, lines, "epoch" if known else "step", levels, marks, False if len(runs) > 1 else None)
            )
    return [chart for chart in out if chart]


def curves(runs: Sequence[RunFiles], columns: Sequence[str]) -> list[Line]:
    """A line for each run and column; shares in percent."""
    lines = []
    for i, run in enumerate(runs):
        for j, column in enumerate(columns):
            x, y = run.curve(column)
            if y:
                y = [100 * v for v in y] if column in SHARES else y
                lines.append(Line(name_of(column) if len(runs) == 1 else run.name, x, y, i if len(runs) > 1 else j))
    return lines


def marks_of(run: RunFiles) -> list[tuple[float, str]]:
    """Where the representation collapsed."""
    epoch = run.summary.get("collapsed_at_epoch")
    return [(float(epoch), "collapsed")] if isinstance(epoch, int) and run.steps_per_epoch else []


def further(run: RunFiles) -> str:
    """The other columns of metrics.csv, folded."""
    shown_above = {c for columns in CHARTS.values() for c in columns}
    rest = [c for c in run.columns if c not in shown_above and c not in CLOSING]
    x_name = "epoch" if run.steps_per_epoch else "step"
    drawn = [line_chart(name_of(c), curves([run], [c]), x_name) for c in rest]
    drawn = [chart for chart in drawn if chart]
    if not drawn:
        return ""
    return html.folded(f"{len(drawn)} further metrics", f'<div class="charts">{"".join(drawn)}</div>')


def evaluated(evaluations: Sequence[Evaluation]) -> list[str]:
    """Tables of eval_linear.py."""
    parts: list[str] = []
    for one in evaluations:
        parts += [evaluation_table(table) for table in one.tables]
        told = [f"{t.data}: {t.images} images" for t in one.tables if t.images]
        parts.append(html.note("; ".join(filter(None, [one.folder, *told, one.told]))))
        parts.append(f'<pre class="command">{text(one.command)}</pre>' if one.command else "")
    return parts


def views(run: RunFiles) -> str:
    """views.png."""
    return f'<img class="views" src="{run.views}" alt="images and their augmented views">' if run.views else ""


def footer(updated: str) -> str:
    """The end of a page."""
    return f'<footer class="note">written by siamese{f", {text(updated)}" if updated else ""}</footer>'


def differing(runs: Sequence[RunFiles]) -> list[str]:
    """Dotted keys of settings in which runs differ, apart from where they were written."""
    flat = [_flat(run.config) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    where = ("run_dir", "resume", "overwrite", "report", "mode")
    return [k for k in keys if k not in where and len({repr(one.get(k)) for one in flat}) > 1]


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in node.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return out
