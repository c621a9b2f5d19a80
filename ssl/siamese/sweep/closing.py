"""What a sweep shows and writes at its end, or when it is asked for again."""

import math
from collections.abc import Sequence
from pathlib import Path

from siamese.files import write
from siamese.output import console
from siamese.sweep import best, page, table
from siamese.sweep.outcome import Outcome

CSV, HTML = ("sweep.csv", "trials.csv"), "sweep.html"


def show(outcomes: Sequence[Outcome], folder: Path, as_experiment: bool = True) -> int:
    """Print the table; write sweep.csv, trials.csv, sweep.html and the best setting as an experiment.

    Args:
        folder: where the files go.
        as_experiment: write the best setting; of single runs the settings that they share are not known.

    Returns:
        The number of failed trials.
    """
    out = console()
    found, common = table.rows(outcomes)
    shared = " ".join(f"{k}={v}" for k, v in common.items())
    out.print(table.title(found), soft_wrap=True)
    if shared:
        out.print(f"all: {shared}", soft_wrap=True)
    out.print(table.table(found, out.width))
    for line in table.legend(found):
        out.print(line, soft_wrap=True)
    failed = [o for o in outcomes if o.error is not None]
    for outcome in failed:
        told = " ".join(f"{k}={v}" for k, v in outcome.settings.items()) or "defaults"
        out.print(f"failed: {told}: {outcome.error}", soft_wrap=True)
    table.write_csv(folder, found, outcomes)
    write(folder / HTML, page.sweep_page(found, common, outcomes, folder))
    top = found[0]
    if len(found) > 1 and math.isfinite(top.value):
        out.print(f"best: {top.name}", soft_wrap=True)
        if as_experiment:
            told = f"the best of {len(found)} settings of a sweep"
            command = best.write_best(folder, {**common, **top.settings}, told, top.settings)
            out.print(f"train it: {command}", soft_wrap=True)
    out.print(f"sweep: {folder / HTML}, {', '.join(CSV)}", soft_wrap=True)
    return len(failed)
