"""sweep.html: the table, each swept setting against the figure, every trial."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from siamese.pages import html
from siamese.pages.points import Point, point_chart
from siamese.sweep.outcome import Outcome
from siamese.sweep.table import NAMES, Row, amount, difference, figure, legend, probes, short, spread, title


def sweep_page(found: Sequence[Row], common: Mapping[str, str], outcomes: Sequence[Outcome], folder: Path) -> str:
    """The page.

    Args:
        found: the settings, best first.
        common: what they share.
        outcomes: of all trials.
        folder: where the page will lie; links to the trials' reports are relative to it.
    """
    failed = [o for o in outcomes if o.error is not None]
    reasons = html.table(
        ["trial", "settings", "reason"], [[str(o.number), _told(o.settings), str(o.error)] for o in failed]
    )
    shared = html.note(f"all: {_told(common)}") if common else ""
    counted = f"{len(outcomes)} trials, {len(found)} settings" + (f", {len(failed)} failed" if failed else "")
    body = [
        f"<header><h1>Sweep</h1>{html.note(counted)}{shared}</header>",
        html.section("Settings", [_settings(found)], " · ".join([title(found), *legend(found)])),
        html.section("Each setting against the figure", [_charts(found, outcomes)], "The best trial is large."),
        html.section("Trials", [_trials(outcomes, common, folder)]),
        html.section("Failed", [reasons] if failed else []),
    ]
    return html.page("Sweep", filter(None, body))


def _settings(found: Sequence[Row]) -> str:
    shown = probes(found)
    keys = list(dict.fromkeys(k for row in found for k in row.settings))
    some_failed = any(len(row.done) < len(row.members) for row in found)
    head = [*(keys or ["setting"]), "seeds", *(NAMES[p] for p in shown), "to best", "seconds", "images/s", "MB"]
    head += ["failed"] * some_failed
    lines = []
    for row in found:
        failed = len(row.members) - len(row.done)
        lines.append([
            *([short(row.settings.get(k, "–")) for k in keys] or ["all trials"]), str(len(row.done)),
            *(spread(row.figures(p), p) for p in shown), difference(found[0], row), amount(row.mean("train_seconds")),
            amount(row.mean("images_per_second")), amount(row.mean("peak_memory_mb")),
            *([str(failed or "")] * some_failed),
        ])  # fmt: skip
    return html.table(head, lines, strong=0 if len(found) > 1 and math.isfinite(found[0].value) else None)


def _charts(found: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """One chart for each setting that differs."""
    done = [o for o in outcomes if math.isfinite(o.value)]
    best = max(done, key=lambda o: o.value, default=None)
    percent = not any("feature_rank" in (o.summary or {}) for o in done)
    unit, name = (100, "linear %") if percent else (1, "RankMe")
    drawn = []
    for key in dict.fromkeys(k for row in found for k in row.settings):
        points = [Point(o.settings[key], unit * o.value, f"{_told(o.settings)}: {unit * o.value:.2f}", o is best)
                  for o in done if key in o.settings]  # fmt: skip
        drawn.append(point_chart(key, points, name))
    return f'<div class="charts">{"".join(drawn)}</div>' if any(drawn) else ""


def _trials(outcomes: Sequence[Outcome], common: Mapping[str, str], folder: Path) -> str:
    """All trials, best first, with links to their reports."""
    rows = []
    for o in sorted(outcomes, key=lambda o: -o.value if math.isfinite(o.value) else math.inf):
        summary, own = o.summary or {}, {k: v for k, v in o.settings.items() if k not in common}
        found = {p: figure(summary, p) for p in NAMES}
        figures = " · ".join(f"{NAMES[p]} {spread([v], p)}" for p, v in found.items() if v is not None)
        early = "ended early" if summary.get("stopped_early") else ""
        linked = ""
        if o.run_dir is not None and (Path(o.run_dir) / "report.html").is_file():
            where = os.path.relpath(Path(o.run_dir) / "report.html", folder)
            linked = f'<a href="{html.text(quote(Path(where).as_posix()))}">report</a>'
        cells = [f'<th scope="row">{o.number}</th>', *(f"<td>{html.text(c)}</td>" for c in (_told(own), figures,
                 amount(summary.get("train_seconds")), early)), f"<td>{linked}</td>"]  # fmt: skip
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col">{c}</th>' for c in ("trial", "settings", "figures", "seconds", "", ""))
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n' + "\n".join(rows) + "\n</table></div>"


def _told(settings: Mapping[str, str]) -> str:
    return " ".join(f"{k}={short(v)}" for k, v in settings.items()) or "defaults"
