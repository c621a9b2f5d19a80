"""Weights & Biases."""

import os
import shutil
from pathlib import Path
from typing import Any

from siamese.config import make
from siamese.errors import UserError
from siamese.training.tracking.rows import KINDS, position
from siamese.training.tracking.tracker import Closing, Status, TrackedRun, Tracker, reason

# wandb collects by itself the command line, the host, git's state, the packages, the program and what it prints. Each
# may hold a secret.
PRIVATE = {
    "x_disable_meta": True, "x_save_requirements": False, "disable_git": True, "disable_code": True, "save_code": False,
    "disable_job_creation": True, "console": "off", "host": "(hidden)",
}  # fmt: skip
OFF_LINE = ("offline", "dryrun", "disabled")
GLOBAL_STEP = "trainer/global_step"  # Lightning's name


def check_login(label: str, node: dict[str, Any]) -> None:
    """Log in. In a terminal wandb asks for a key.

    Raises:
        UserError: there is no account, and no terminal to ask for one.
    """
    import wandb

    settings = wandb.setup().settings
    if node.get("offline") or node.get("mode", settings.mode) in OFF_LINE:
        return
    try:
        wandb.login(verify=False)
    except wandb.Error as error:
        raise UserError(
            f"logger={label}", f"wandb has no account ({reason(error)})", "run `wandb login`, or set WANDB_MODE=offline"
        ) from error


def connect(label: str, node: dict[str, Any], run: TrackedRun, known: bool) -> "WandbTracker":
    """Start, or continue, the wandb run of the run's id."""
    ours = ("group", "tags", "settings", "offline", "log_model")
    given = {key: value for key, value in node.items() if key not in ours}
    if node.get("offline"):
        given["mode"] = "offline"  # Lightning would set an environment variable, which wandb may have read already
    logger = make(
        given,
        save_dir=str(run.folder.absolute()),  # wandb's service may have another current folder
        id=run.run_id,
        resume="allow",
        config=run.config,
        group=node.get("group") or run.labels.group,
        tags=run.labels.short() if node.get("tags") is None else list(node["tags"]),
        settings={**PRIVATE, **(node.get("settings") or {})},
    )
    made = WandbTracker(label, logger, run, known, node)
    experiment = made.experiment
    experiment.define_metric("epoch")
    experiment.define_metric("*", step_metric="epoch", step_sync=True, overwrite=True)  # Lightning's is its step
    return made


class WandbTracker(Tracker):
    """One wandb run over all sittings. wandb's own step is the `position` of a row: wandb ignores a step that it has
    already, such as those of a sitting that was killed.

    Args:
        node: the settings.
    """

    def __init__(self, label: str, logger: Any, run: TrackedRun, known: bool, node: dict[str, Any]):
        super().__init__(label, logger, run, known)
        self.node = node

    def begin(self, picture: Path) -> None:
        import wandb

        if not self.known:
            step = self.run.step
            epoch = step / self.run.steps_per_epoch
            self.row({"views": wandb.Image(str(picture)), "epoch": epoch}, step, KINDS * step)

    def row(self, metrics: dict[str, Any], step: int, place: int) -> None:
        self.experiment.log({**metrics, GLOBAL_STEP: step}, step=place)

    def end(self, closing: Closing) -> None:
        import wandb

        if closing.rows:
            table = wandb.Table(columns=[*closing.columns], data=closing.table)
            self.row({"closing_table": table}, closing.step, position(closing.figures, closing.step))
        experiment = self.experiment
        if self.node.get("log_model") and not experiment.disabled:
            name = self.node.get("checkpoint_name") or f"model-{experiment.id}"
            artifact = wandb.Artifact(name, type="model", metadata={"steps": closing.step, **closing.figures})
            file = _kept(closing.checkpoint, Path(experiment.dir).parent) if experiment.offline else closing.checkpoint
            # immutable: wandb would copy it to a folder of the user's, and sends it before the run's lock is released.
            artifact.add_file(str(file.absolute()), name=file.name, policy="immutable")
            experiment.log_artifact(artifact)

    def shut(self, status: Status) -> None:
        self.experiment.finish(exit_code=0 if status == "finished" else 1)


def _kept(file: Path, folder: Path) -> Path:
    """A second link to a file that will be replaced, or a copy on a file system without links."""
    kept = folder / file.name
    try:
        os.link(file, kept)
    except OSError:
        shutil.copyfile(file, kept)
    return kept
