"""metrics.csv."""

from pathlib import Path

import pytest
from runs import rows_of

from siamese.checkpoints.reading import load
from siamese.errors import RunAborted
from siamese.training.loggers import CsvLog


def test_rows_after_the_resumed_step_are_removed(tmp_path):
    """Lightning numbers the loss of step S + 1 by S, as it does figures measured after step S."""
    log = CsvLog(tmp_path / "metrics.csv")
    for step in (18, 19, 20):
        log.log_metrics({"loss": 0.1 * step}, step=step)
    log.log_metrics({"knn_top1": 0.5}, step=20)
    CsvLog(tmp_path / "metrics.csv", keep_to=20)
    kept = [(int(row["step"]), bool(row["loss"])) for row in rows_of(tmp_path / "metrics.csv")]
    assert kept == [(18, True), (19, True), (20, False)]


def test_full_disk_aborts_at_the_next_row(session, tmp_path):
    run = session("epochs=2")
    log = run.trainer.loggers[0]
    original = log.log_metrics

    def log_metrics(metrics, step=None):
        if step is not None and step > 22:
            log.file = Path("/dev/full")
        original(metrics, step)

    log.log_metrics = log_metrics
    with pytest.raises(RunAborted, match=r"step 29: /dev/full cannot be written .*No space left.*resume=true"):
        run.fit()
    assert load(run.state.checkpoint)["global_step"] == 22
