"""What the benchmarks that train whole runs share."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, *arguments: str) -> None:
    """train.py or eval_linear.py in a process of its own; ends this one with what it said if it fails."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "ssl"), "COLUMNS": "160"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{script} {' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def trained(folder: Path, *arguments: str) -> dict[str, Any]:
    """The summary of a run, which is trained if it is not there and continued if it was interrupted."""
    file = folder / "summary.json"
    if not (file.is_file() and json.loads(file.read_text())["finished"]):
        run("train.py", *arguments, f"run_dir={folder}", "resume=auto")
    summary: dict[str, Any] = json.loads(file.read_text())
    return summary


def judged(folder: Path, *arguments: str) -> dict[str, Any]:
    """The evaluation of a run, which is made if it is not there."""
    file = folder / "eval" / "results.json"
    if not file.is_file():
        run("eval_linear.py", f"ckpt={folder}/checkpoints/last.ckpt", f"run_dir={folder}/eval", *arguments)
    results: dict[str, Any] = json.loads(file.read_text())
    return results


def shown(values: list[float]) -> str:
    """Top-1 in per cent: the mean, and the standard deviation of several seeds."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"
