"""What a run prints and counts while it trains."""

import re
import sys

import pytest
import pytorch_lightning as pl
from runs import STEPS

from siamese.training import devices


def test_output_without_terminal_has_a_line_per_evaluated_epoch(session, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = session("epochs=3", "monitor.every=2")
    capsys.readouterr()
    run.fit()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["2/3", "3/3"]
    assert all("loss" in line and "kNN" in line and "images/s" in line for line in lines)
    assert run.state.figures == {}
    assert run.state.images == 3 * STEPS * run.cfg.batch_size
    assert run.state.images_per_second > 0


def test_lightning_collects_nothing_for_a_bar_of_its_own(session):
    """It would read the loss from the device at every step."""
    run = session()
    run.fit()
    assert run.trainer.progress_bar_metrics == {}
    assert "loss" in run.trainer.callback_metrics


def shown_by(run, capsys):
    capsys.readouterr()
    run.fit()
    return capsys.readouterr().out.splitlines()


def test_log_has_lines_within_epochs(session, capsys, monkeypatch, ticking):
    monkeypatch.setenv("COLUMNS", "80")
    run = session("epochs=3", "monitor.every=3")
    reads = []
    read = pl.Trainer.callback_metrics.fget
    monkeypatch.setattr(
        pl.Trainer, "callback_metrics",
        property(lambda self: reads.append(sys._getframe(1).f_code.co_filename) or read(self)),
    )  # fmt: skip
    ticking(2.5)
    lines = [line for line in shown_by(run, capsys) if line.startswith("step ")]
    assert 3 <= len(lines) <= 3 * STEPS / 10
    pattern = r"step \d+/66  epoch [123]/3  loss -?\d\.\d{4}  [\d,]+ images/s  \d+ (s|min)( \d+ s)? left"
    assert all(re.fullmatch(pattern, line) for line in lines), lines
    # The loss is read from the device for each line and at the end of each epoch only.
    assert sum("callbacks/progress.py" in name for name in reads) == len(lines) + 3


def test_time_of_a_long_run_is_foretold_once(session, capsys, ticking):
    run = session("epochs=3", "monitor.every=3")
    ticking(5)
    told = [line for line in shown_by(run, capsys) if line.startswith("the training will take about ")]
    assert len(told) == 1
    assert re.search(r"about \d+ min here, to epoch 3; a line each 30 s, after 10 min each 5 min", told[0])
    assert "shorter" not in told[0]


@pytest.mark.parametrize(("bf16", "says"), [(False, ""), (True, r"bf16 [^,]* \(trainer.precision=bf16-mixed\), ")])
def test_run_of_days_names_what_shortens_it(session, capsys, ticking, monkeypatch, bf16, says):
    monkeypatch.setattr(devices, "cpu_has_amx", lambda: bf16)
    run = session("epochs=3", "monitor.every=3")
    ticking(5000)
    told = next(line for line in shown_by(run, capsys) if line.startswith("the training will take about "))
    assert re.search(
        rf"about \d+ d( \d+ h)? here, to epoch 3; shorter with a GPU \(trainer=gpu\), {says}fewer epochs", told
    )
    assert "data.crop=8" in told and "backbone.name=small" in told


def test_short_run_foretells_nothing(session, capsys, ticking):
    run = session("epochs=3", "monitor.every=3")
    ticking(0.01)
    assert not [line for line in shown_by(run, capsys) if line.startswith(("step ", "the training"))]


def test_features_and_closing_probes_show_progress(session, capsys, ticking):
    ticking(6)
    run = session()
    out = capsys.readouterr().out
    # 1,295 images in batches of 64.
    for what in ("raw pixels, train_labeled split", "untrained features, train_labeled split"):
        assert f"\n{what}: 1 of 21 batches, 2 min left\n" in out
    run.fit()
    assert "neighbours" not in capsys.readouterr().out  # the online evaluation does not disturb the training's lines
    run.finish()
    out = capsys.readouterr().out
    assert "\ntrained features, val split: 1 of 3 batches, 12 s left\n" in f"\n{out}"
    for row in ("raw_pixels", "random_init", "simsiam"):
        assert f"\nclosing table, {row}, linear heads: 1 of 2 epochs, 6 s left\n" in out
        assert f"\nclosing table, {row}, few labels (1 a class): 1 of 5 choices, " in out
