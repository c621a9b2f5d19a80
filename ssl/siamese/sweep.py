"""Sweeps (`-m`): a failed trial does not end a sweep; one table summarises it."""

import json
import statistics
import traceback
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.table import Table

from siamese.errors import RunAborted, UserError
from siamese.output import console

exit_code = 0  # of the process, once a sweep has ended: 1 if a trial failed


def _trials(folder: Path) -> Path:
    return folder / "trials"


def record(run_dir: Path | None, summary: dict[str, Any] | None, error: BaseException | None) -> None:
    """Write the outcome of this trial to a file, where the table finds it whichever process the launcher used."""
    hydra = HydraConfig.get()
    folder = _trials(Path(hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    overrides = [o for o in hydra.overrides.task if not o.startswith("run_dir=")]
    outcome = {
        "number": int(hydra.job.num),
        "overrides": overrides,
        "run_dir": str(run_dir) if run_dir else None,
        "summary": summary,
        "error": None
        if error is None
        else (str(error) if isinstance(error, (UserError, RunAborted)) else f"{type(error).__name__}: {error}"),
    }
    (folder / f"{outcome['number']:04d}.json").write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")
    if error is not None and not isinstance(error, (UserError, RunAborted)):
        (folder / f"{outcome['number']:04d}.txt").write_text(
            "".join(traceback.format_exception(error)), encoding="utf-8", errors="replace"
        )


def table(outcomes: list[dict[str, Any]]) -> Table:
    """One row per setting (all overrides but the seed): mean and sample standard deviation over seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for outcome in outcomes:
        name = " ".join(o for o in outcome["overrides"] if not o.startswith("seed=")) or "defaults"
        groups.setdefault(name, []).append(outcome)
    several = any("knn_map" in (o["summary"] or {}) for o in outcomes)
    what = "top-1 %, or mAP % where an image may have several labels" if several else "top-1 %"
    out = Table(title=f"sweep: validation {what}, mean ± standard deviation over seeds", title_justify="left")
    out.add_column("setting")
    for column in ("seeds", "kNN", "linear", "images/s", "failed"):
        out.add_column(column, justify="right")
    for name, members in groups.items():
        done = [m["summary"] for m in members if m["summary"]]
        failed = len(members) - len(done)
        rates = [s["images_per_second"] for s in done if s["images_per_second"]]
        out.add_row(
            name,
            str(len(done)),
            _spread(_figures(done, "knn")),
            _spread(_figures(done, "linear")),
            f"{statistics.mean(rates):,.0f}" if rates else "-",
            str(failed) if failed else "",
        )
    return out


def _figures(summaries: list[dict[str, Any]], probe: str) -> list[float]:
    """Top-1 or mAP in percent; a data set has one of them."""
    found = [s.get(f"{probe}_top1", s.get(f"{probe}_map")) for s in summaries]
    return [100 * value for value in found if value is not None]


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


class SweepTable(Callback):
    """Hydra callback that prints the table after the last trial."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        global exit_code
        folder = Path(config.hydra.sweep.dir)
        outcomes = [json.loads(f.read_text(encoding="utf-8")) for f in sorted(_trials(folder).glob("*.json"))]
        if not outcomes:
            return
        out = console()
        out.print(table(outcomes))
        for outcome in outcomes:
            if outcome["error"]:
                exit_code = 1
                out.print(f"failed: {' '.join(outcome['overrides'])}: {outcome['error']}")
        out.print(f"trials: {_trials(folder)}", soft_wrap=True)
