"""The order of rows, and what is known of the last sitting."""

from siamese.training.loggers import CsvLog
from siamese.training.tracking.rows import Sitting, epochs, last_sitting, position

CONFIG = """\
method: {name: simsiam}
data: {name: digits}
logger: {_target_: pytorch_lightning.loggers.WandbLogger, project: siamese}
"""


def test_positions_rise_in_the_order_of_the_rows():
    rows = [
        ({"lr-SGD": 0.1}, 4), ({"loss": 1.0, "epoch": 0}, 4), ({"knn_top1": 0.5, "epoch": 1}, 5),
        ({"knn_top1": 0.5, "linear_top1": 0.6}, 5), ({"lr-SGD": 0.1}, 5), ({"loss": 1.0, "epoch": 1}, 5),
    ]  # fmt: skip
    places = [position(*row) for row in rows]
    assert places == sorted(set(places))


def test_epochs_are_those_trained():
    assert epochs({"loss": 1.0}, 0, 5) == 0.2  # numbered by the step before it
    assert epochs({"loss": 1.0}, 4, 5) == epochs({"knn_top1": 1.0}, 5, 5) == 1.0


def test_last_sitting_is_read(tmp_path):
    assert last_sitting(tmp_path, 20) == Sitting(frozenset(), -1, {}, 20, ())
    (tmp_path / "config.yaml").write_text(CONFIG)  # of an older version
    log = CsvLog(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 0.3, "epoch": 0}, step=19)
    log.log_metrics({"knn_top1": 0.5, "epoch": 1}, step=20)
    log.log_metrics({"loss": 0.2, "epoch": 1}, step=20)
    log.log_metrics({"loss": 0.1, "epoch": 1}, step=21)
    found = last_sitting(tmp_path, 20)
    assert found.targets == {"pytorch_lightning.loggers.WandbLogger"}
    assert found.position == position({"loss": 0.1}, 21)
    assert found.steps == {"step": 21, "loss": 21, "epoch": 21, "knn_top1": 20}
    assert found.figures == ({"knn_top1": 0.5, "epoch": 1.0},)
