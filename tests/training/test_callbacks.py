"""The group `callbacks`: Lightning's own, and the early end of a training."""

import json

import pytest
from runs import differences, rows_of

from siamese.checkpoints.reading import load
from siamese.errors import UserError

SLOW = ("optimizer.lr=1e-9", "optimizer.warmup_epochs=0", "epochs=9")  # nothing improves


def test_early_stopping_counts_evaluations(session, tmp_path):
    least = "callbacks.early_stopping.min_delta=0.2"
    given = ("callbacks=early_stopping", "callbacks.early_stopping.patience=2", least, "monitor.every=2", *SLOW)
    run = session(*given)
    run.fit()
    run.finish()
    # Evaluated after 2, 4 and 6 epochs: the first figure is the best, and two without an improvement follow.
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["epochs"], summary["stopped_early"], summary["finished"]) == (6, True, True)
    assert [int(r["epoch"]) for r in rows_of(tmp_path / "run" / "metrics.csv") if r["epoch"] and r["knn_top1"]] == [
        2,
        4,
        6,
    ]
    with pytest.raises(UserError, match="the run has finished its 6 epochs; give more patience"):
        session(*given, "resume=true")
    more = session(*given[:1], "callbacks.early_stopping.patience=9", *given[2:], "resume=true")
    more.fit()
    assert more.trainer.current_epoch == 9
    # The summary is that of the first sitting; the second one was cut before its table.
    again = session(*given[:1], "callbacks.early_stopping.patience=9", *given[2:], "resume=true")
    again.fit()
    again.finish()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 9


def test_early_stopped_run_that_was_cut_before_its_table_stays_stopped(session, tmp_path):
    least = "callbacks.early_stopping.min_delta=0.2"
    given = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", least, "monitor.every=1", *SLOW)
    run = session(*given)
    run.fit()
    stopped = run.trainer.current_epoch
    assert stopped < run.cfg.epochs
    weights = load(run.state.checkpoint)["state_dict"]
    again = session(*given, "resume=true")
    again.fit()
    again.finish()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["epochs"], summary["stopped_early"], summary["finished"]) == (stopped, True, True)
    assert differences(load(run.state.checkpoint)["state_dict"], weights) == []


def test_several_callbacks_and_any_target(session, tmp_path):
    run = session(
        "callbacks=[lr_monitor,early_stopping]", "+callbacks.timer._target_=pytorch_lightning.callbacks.Timer",
        "+callbacks.timer.duration='00:01:00:00'",
    )  # fmt: skip
    run.fit()
    names = [type(c).__name__ for c in run.trainer.callbacks]
    assert names.index("OnlineEvaluation") < names.index("EarlyStopping") < names.index("SaveCheckpoints")
    assert "Timer" in names
    rates = [
        row
        for row in rows_of(tmp_path / "run" / "metrics.csv")
        if any(k.startswith("lr-") and v for k, v in row.items())
    ]
    assert len(rates) >= 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["callbacks=early_stopping", "callbacks.early_stopping.monitor=knn"],
         "callbacks.early_stopping.monitor=knn: is not measured; choose one of projection_std"),
        (["callbacks=early_stopping", "monitor.every=0"], "monitor.every=0 measures nothing"),
        (["callbacks=early_stopping", "callbacks.early_stopping.patience=0"], "patience=0: not a possible value"),
        (["+callbacks.x._target_=torch.nn.ReLU"], "callbacks.x._target_=torch.nn.ReLU: is no Lightning callback"),
        (["+callbacks.x=3"], "callbacks.x=3"),
    ],
)  # fmt: skip
def test_mistakes(session, given, told):
    with pytest.raises(UserError, match=told):
        session(*given)
