"""From the command to the first optimiser step, and whole commands beside importing Lightning, on digits.

    python benchmarks/startup.py [--runs 5]

Starts `python train.py method=simsiam` anew each time and looks for the first row of its metrics.csv, written after
the first step. Then, in turn: a process that imports pytorch_lightning and nothing else, a whole run of two steps, and
the evaluation of its checkpoint. Prints the seconds, the ratios of the medians, what importing costs, and one JSON
line. The first run warms the disk and is left out.
"""

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = "from siamese.imports import without_scipy_signal as w\nwith w(): import siamese.training"


def first_step(method: str) -> float:
    """Seconds until the first step is logged."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run" / "metrics.csv"
        command = [sys.executable, str(ROOT / "train.py"), f"method={method}", f"run_dir={folder}/run",
                   "trainer.log_every_n_steps=1"]  # fmt: skip
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        while not (log.exists() and log.read_text().count("\n") > 1):
            if process.poll() is not None:
                sys.exit(process.stderr.read().decode() if process.stderr else "")
            time.sleep(0.002)
        seconds = time.perf_counter() - start
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return seconds


def whole_commands(method: str, runs: int) -> dict[str, list[float]]:
    """Seconds of whole processes."""
    with tempfile.TemporaryDirectory() as folder:
        small = ("epochs=1", "data.train_images=128", "probe.linear.epochs=1")
        train = [str(ROOT / "train.py"), f"method={method}", *small, f"run_dir={folder}/run", "overwrite=true"]
        judge = [str(ROOT / "eval_linear.py"), f"ckpt={folder}/run/checkpoints/last.ckpt", f"run_dir={folder}/eval",
                 "eval.cache=null", "overwrite=true"]  # fmt: skip
        commands = {"import pytorch_lightning": ["-c", "import pytorch_lightning"], "train.py, two steps": train,
                    "eval_linear.py": judge}  # fmt: skip
        took: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(runs + 1):
            for name, words in commands.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, *words], check=True, capture_output=True)
                took[name].append(time.perf_counter() - start)
    return {name: seconds[1:] for name, seconds in took.items()}


def imports() -> dict[str, float]:
    """Seconds of importing what train.py imports, and of its largest parts (`-X importtime`)."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", IMPORTS],
        capture_output=True,
        text=True,
        check=True,
    )
    total: dict[str, float] = {}
    for line in done.stderr.splitlines():
        found = re.match(r"import time:\s+\d+ \|\s+(\d+) \|\s+(\S+)", line)
        if found:
            total[found[2]] = max(total.get(found[2], 0.0), int(found[1]) / 1e6)
    names = (
        "siamese.training",
        "torch",
        "torchvision",
        "pytorch_lightning",
        "hydra",
        "scipy",
        "sklearn",
        "rich",
        "numpy",
    )
    return {name: total[name] for name in names if name in total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--method", default="simsiam")
    a = parser.parse_args()
    first_step(a.method)
    seconds = [first_step(a.method) for _ in range(a.runs)]
    whole, parts = whole_commands(a.method, a.runs), imports()
    print(f"first optimiser step after {statistics.median(seconds):.2f} s (median of {a.runs}; "
          f"{min(seconds):.2f} to {max(seconds):.2f})")  # fmt: skip
    print(
        "of that importing, with what each imports itself (s): " + ", ".join(f"{k} {v:.2f}" for k, v in parts.items())
    )
    alone = statistics.median(whole["import pytorch_lightning"])
    for name, took in whole.items():
        print(f"{name}: {statistics.median(took):.2f} s, {statistics.median(took) / alone:.2f} of importing Lightning")
    print(json.dumps({"benchmark": "startup", "seconds": seconds, "whole": whole, "imports": parts,
                      "cpus": os.cpu_count(), "python": platform.python_version()}))  # fmt: skip


if __name__ == "__main__":
    main()
