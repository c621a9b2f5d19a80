"""What a run prints and counts while it trains."""

from runs import STEPS


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
