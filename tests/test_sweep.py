"""The table of a sweep."""

from rich.console import Console

from siamese import sweep


def outcome(setting, seed, knn, linear, error=None):
    summary = None if error else {"knn_top1": knn, "linear_top1": linear, "images_per_second": 100.0}
    return {"overrides": [setting, f"seed={seed}"], "summary": summary, "error": error}


def test_table_has_mean_and_deviation_over_seeds():
    rows = [
        outcome("method=byol", 0, 0.90, 0.91), outcome("method=byol", 1, 0.92, 0.91),
        outcome("method=simclr", 0, 0.5, 0.6), outcome("method=simclr", 1, 0, 0, "boom"),
    ]  # fmt: skip
    console = Console(record=True, width=200)
    console.print(sweep.table(rows))
    lines = console.export_text().splitlines()
    (byol,) = [line for line in lines if "method=byol" in line]
    assert "91.00 ± 1.41" in byol  # the sample standard deviation of 90 and 92
    assert "91.00 ± 0.00" in byol
    (simclr,) = [line for line in lines if "method=simclr" in line]
    assert "50.00" in simclr
    assert simclr.split("│")[-2].strip() == "1"  # one failed
