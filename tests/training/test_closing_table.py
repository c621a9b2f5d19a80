"""The closing table: kNN, linear, few labels, and what an interval is of."""

import io
import json

from rich.console import Console

from siamese.training import report


def test_few_labels_are_in_summary_and_table(session, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run = session()
    run.fit()
    run.finish()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["validation_images"] == 143
    for row in (summary, *summary["baselines"].values()):
        for key in ("linear_top1_1_label", "linear_top1_10_labels"):
            assert 0 < row[key] < 1 and row[f"{key}_interval95"] > 0
    assert summary["baselines"]["raw_pixels"]["linear_top1_10_labels"] > 0.75  # measured: 0.84
    assert 0.4 < summary["baselines"]["raw_pixels"]["linear_top1_1_label"] < 0.7  # measured: 0.58
    title = "digits: top-1 on 143 validation images ± half its 95 % interval"
    assert title in capsys.readouterr().out.splitlines()  # not wrapped to the width of the table


def test_class_with_few_images_leaves_columns_out(session, tmp_path):
    run = session("data.train_images=80")  # about eight a class, one of them held out
    run.fit()
    run.finish()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "linear_top1_1_label" in summary and "linear_top1_10_labels" not in summary


def test_cells_show_half_the_interval():
    few = {"linear_top1_1_label": 0.5, "linear_top1_1_label_interval95": 0.031}
    rows = {"a": {"knn_top1": 0.9, "linear_top1": 1.0, **few}}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.closing_table(rows, "title", 100))
    text = console.export_text()
    # Wilson: 90 of 100 is 0.826 to 0.945, 100 of 100 is 0.963 to 1.
    assert "90.00 ± 6.0" in text and "100.00 ± 1.8" in text and "50.00 ± 3.1" in text
    assert "from 1 label" in text and "from 10 labels" not in text


def test_map_has_no_interval():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.closing_table({"a": {"knn_map": 0.5}}, "title", 100))
    assert "50.00" in console.export_text() and "±" not in console.export_text()
