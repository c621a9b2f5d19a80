"""Waits and launches of a training step, method by method, counted on a machine without a GPU.

    python benchmarks/rehearsal.py TOOL [SETTING ...]         about ten minutes on one core
    python benchmarks/rehearsal.py TOOL --root OTHER_CHECKOUT

TOOL is the folder of the GPU rehearsal, whose script `rehearse` preloads a stand-in for the CUDA libraries. Each case
runs twice: six steps in which every wait of the host is counted, then four steps whose launches are counted by phase.
Prints a table in Markdown; where a step waits, and why a case failed, goes to standard error.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

COMMON = ("trainer=gpu", "compile=false")
NEEDS = {
    "mae": ("backbone=small_vit",),
    "distill": ("method/teacher=timm", "method.teacher.name=resnet10t", "method.teacher.pretrained=false"),
}
MULTI_CROP = "augment.views=[{count:2},{count:4,size:4}]"
PHASES = ("views", "forward and loss", "backward", "optimizer", "after_step")


def cases(root: Path) -> list[tuple[str, ...]]:
    """Settings of each case: every method, loss and regularizer of `conf`, several crops, LARS."""

    def names(group: str) -> list[str]:
        return sorted(file.stem for file in (root / "conf" / group).glob("*.yaml"))

    found: list[tuple[str, ...]] = [(f"method={name}", *NEEDS.get(name, ())) for name in names("method")]
    found += [("method=simclr", f"method/loss={name}") for name in names("method/loss") if name != "nt_xent"]
    found += [(f"method={name}", MULTI_CROP) for name in ("swav", "dino", "lejepa")]
    return [*found, ("method=simclr", "optimizer=lars")]


def rehearsed(tool: Path, root: Path, mode: list[str], settings: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and output of a rehearsal."""
    environment = {**os.environ, "TIMM_FUSED_ATTN": "0"}  # the stand-in has no fused attention
    command = [str(tool / "rehearse"), *mode, "train", *COMMON, *settings]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def waits(tool: Path, root: Path, settings: tuple[str, ...]) -> str:
    """Waits of a step."""
    code, said = rehearsed(tool, root, ["--nosync", "6"], settings)
    found = re.search(r"rehearsal: (\d+) waits in (\d+) steps", said)
    if found is None or code > 1:
        print(f"{' '.join(settings)}: exit code {code}\n{said[-2000:]}", file=sys.stderr)
        return "failed"
    if code:
        print(f"{' '.join(settings)}\n{said[said.find(' times a step') - 8 :]}", file=sys.stderr)
    return f"{int(found[1]) / int(found[2]):.3g}"


def launches(tool: Path, root: Path, settings: tuple[str, ...]) -> list[str]:
    """Kernels and library calls of each phase, of all others and of a step; then the copies to the device."""
    code, said = rehearsed(tool, root, ["--launches"], settings)
    rows: dict[str, list[float]] = {}
    for line in said.splitlines():
        if found := re.match(r"(\S.*?)  +([\d.]+(?: +[\d.]+)+)$", line):
            rows[found[1]] = [float(x) for x in found[2].split()]
    if code or "a step" not in rows:
        print(f"{' '.join(settings)}: exit code {code}\n{said[-2000:]}", file=sys.stderr)
        return ["failed", *[""] * (len(PHASES) + 2)]
    counts = [rows[p][0] + rows[p][1] if p in rows else 0.0 for p in PHASES]
    step = rows["a step"]
    return [f"{n:g}" for n in (*counts, step[0] + step[1] - sum(counts), step[0] + step[1], step[4])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", type=Path, help="folder of the GPU rehearsal")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="a checkout")
    parser.add_argument("--only", default="", help="cases whose settings hold this text")
    parser.add_argument("settings", nargs="*", help="of all cases, as augment=small/simclr")
    asked = parser.parse_args()
    columns = ("settings", "waits", *PHASES, "other", "a step", "copies to the device")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for settings in cases(asked.root):
        if asked.only in " ".join(settings):
            given = (*settings, *asked.settings)
            cells = (waits(asked.tool, asked.root, given), *launches(asked.tool, asked.root, given))
            print(f"| {' '.join(f'`{s}`' for s in settings)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
