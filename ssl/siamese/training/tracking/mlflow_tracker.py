"""MLflow."""

import csv
import io
import logging
import os
import re
from pathlib import Path
from typing import Any

from siamese.config import make
from siamese.training.tracking.privacy import without_secrets
from siamese.training.tracking.tracker import Closing, Status, TrackedRun, Tracker

RUN_ID = "siamese.run_id"  # tag: MLflow chooses the ids of its runs itself
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


def tracking_uri(node: dict[str, Any]) -> str | None:
    """The address of a server; None is a database in the run folder."""
    return node.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI") or None


def connect(label: str, node: dict[str, Any], run: TrackedRun, known: bool) -> "MlflowTracker":
    """Start, or continue, the MLflow run with the run's id among its tags."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow's own, to its makers
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):  # lines about the tables of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    store, uri = run.folder.absolute() / "mlflow", tracking_uri(node)
    place = node.get("artifact_location")
    if uri is None:
        store.mkdir(parents=True, exist_ok=True)
        uri, place = f"sqlite:///{store / 'mlflow.db'}", place or (store / "artifacts").as_uri()
    client = MlflowClient(uri)
    name = node.get("experiment_name") or "siamese"
    experiment = client.get_experiment_by_name(name)
    number = client.create_experiment(name, place) if experiment is None else experiment.experiment_id
    mine = f"tags.`{RUN_ID}` = '{run.run_id}'"
    found = [] if run.last is None else client.search_runs([number], mine, max_results=1)
    # Lightning would create it with MLflow's default tags: the user, the script, git's state, the environment.
    tags = {RUN_ID: run.run_id, **tags_of(run), **without_secrets(node.get("tags") or {})}
    mlflow_run = found[0] if found else client.create_run(number, tags=tags, run_name=node.get("run_name"))
    if found:
        client.update_run(mlflow_run.info.run_id, status="RUNNING")
    given = {key: value for key, value in node.items() if key not in ("tracking_uri", "log_model", "tags")}
    logger = make(given, tracking_uri=uri, run_id=mlflow_run.info.run_id)
    return MlflowTracker(label, logger, run, known and bool(found), node)


def tags_of(run: TrackedRun) -> dict[str, str]:
    """The labels of a run as MLflow's tags; a sweep is the tag `sweep`."""
    sweep = {} if run.labels.group is None else {"sweep": run.labels.group}
    return sweep | {re.sub(r"[^\w./ -]", "_", key): value for key, value in run.labels.tags.items()}


class MlflowTracker(Tracker):
    """One MLflow run over all sittings.

    Args:
        node: the settings.
    """

    def __init__(self, label: str, logger: Any, run: TrackedRun, known: bool, node: dict[str, Any]):
        super().__init__(label, logger, run, known)
        self.node = node
        self.sent = dict(run.last.steps) if known and run.last is not None else {}

    def sent_before(self, place: int) -> bool:
        return False  # `once` knows each figure

    def begin(self, picture: Path) -> None:
        if not self.known:  # MLflow refuses another value of a parameter
            self.logger.log_hyperparams(self.run.config)
            self.experiment.log_artifact(self.version, str(picture))
        self.experiment.log_text(self.version, self.run.config_text, "config.yaml")

    def row(self, metrics: dict[str, Any], step: int, place: int) -> None:
        self.logger.log_metrics(self.once(metrics, step), step)

    def end(self, closing: Closing) -> None:
        if closing.rows:
            stream = io.StringIO(newline="")
            csv.writer(stream).writerows([closing.columns, *closing.table])
            self.experiment.log_text(self.version, stream.getvalue(), "closing_table.csv")
        if self.node.get("log_model"):
            self.experiment.log_artifact(self.version, str(closing.checkpoint), "model")

    def shut(self, status: Status) -> None:
        self.experiment.set_terminated(self.version, STATUS[status])
