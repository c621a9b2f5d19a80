"""What all trackers have in common."""

from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pytorch_lightning.loggers.logger import Logger

from siamese.errors import UserError, printable
from siamese.training.tracking.labels import Labels
from siamese.training.tracking.rows import Sitting, epochs, position

Status = Literal["finished", "interrupted", "failed"]
MOST = 300  # characters of a library's message


@dataclass(frozen=True)
class TrackedRun:
    """What trackers are told of a run.

    Args:
        folder: the run folder.
        run_id: the run's own, kept in its checkpoints.
        config: plain values without secrets.
        labels: group and tags.
        steps_per_epoch: optimiser steps.
        last: the last sitting of a run that is resumed, else None.
        say: prints one line.
    """

    folder: Path
    run_id: str
    config: dict[str, Any]
    labels: Labels
    steps_per_epoch: int
    last: Sitting | None
    say: Callable[[str], None]

    @property
    def config_text(self) -> str:
        return yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)

    @property
    def step(self) -> int:
        """Of the first row of this sitting."""
        return 0 if self.last is None else self.last.step


@dataclass(frozen=True)
class Closing:
    """The end of a finished run.

    Args:
        step: the last optimiser step.
        figures: of the trained features, as in summary.json.
        rows: kind of features -> figures of the closing table; empty without labels.
        checkpoint: last.ckpt.
    """

    step: int
    figures: dict[str, float]
    rows: dict[str, dict[str, float]]
    checkpoint: Path

    @property
    def columns(self) -> list[str]:
        """Of the closing table, the first one being the kind of features."""
        return ["features", *dict.fromkeys(key for row in self.rows.values() for key in row)]

    @property
    def table(self) -> list[list[Any]]:
        """The rows of the closing table."""
        return [[name, *(row.get(key) for key in self.columns[1:])] for name, row in self.rows.items()]


class Tracker(Logger):
    """A Lightning logger that is given config, picture and closing table, too. Rank 0 has all trackers, other ranks
    have none.

    Once a run has started, a tracker that fails ends itself with one line; the run goes on.

    Args:
        label: the key in `logger`.
        logger: of Lightning.
        run: what it is told.
        known: whether the last sitting had this tracker.
    """

    def __init__(self, label: str, logger: Logger, run: TrackedRun, known: bool):
        super().__init__()
        self.label, self.logger, self.run, self.known = label, logger, run, known
        self.failed = False
        self.sent: dict[str, int] = {}  # name of a figure -> its last step

    @property
    def name(self) -> str | None:
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        return self.logger.version

    @property
    def save_dir(self) -> str | None:
        return self.logger.save_dir

    @property
    def experiment(self) -> Any:
        """The library's object, for callbacks."""
        return self.logger.experiment  # type: ignore[attr-defined]

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: `begin` gives the config."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        at = step or 0
        place, epoch = position(metrics, at), epochs(metrics, at, self.run.steps_per_epoch)
        if not self.sent_before(place):
            self.attempt(self.row, {**metrics, "epoch": epoch}, at, place)

    def sent_before(self, place: int) -> bool:
        """Whether the last sitting, killed behind its checkpoint, has sent the row at this `position`, and the tracker
        cannot take it back."""
        return self.known and self.run.last is not None and place <= self.run.last.position

    def once(self, metrics: Mapping[str, Any], step: int) -> dict[str, Any]:
        """For trackers that know the step only: the figures that this step does not have yet (the closing table repeats
        some of the last evaluation), with the epoch of the step."""
        row = {**metrics, "epoch": step / self.run.steps_per_epoch}
        new = {key: value for key, value in row.items() if step > self.sent.get(key, -1)}
        self.sent |= dict.fromkeys(new, step)
        return new

    def finalize(self, status: str) -> None:
        """Does nothing: Lightning calls it before the closing table is there."""

    def attempt(self, what: Callable[..., None], *arguments: Any) -> None:
        """Call a method; after its first failure do nothing."""
        if self.failed:
            return
        try:
            what(*arguments)
        except Exception as error:
            self.failed = True
            self.run.say(f"logger={self.label} failed ({reason(error)}); the run goes on without it")

    @abstractmethod
    def begin(self, picture: Path) -> None:
        """Send config and views.png at the start of a sitting."""

    @abstractmethod
    def row(self, metrics: dict[str, Any], step: int, place: int) -> None:
        """Send a row of metrics; `place` is its `position`."""

    @abstractmethod
    def end(self, closing: Closing) -> None:
        """Send the closing table, and the checkpoint if asked for; its figures come as a row."""

    @abstractmethod
    def shut(self, status: Status) -> None:
        """End the sitting."""


def reason(error: BaseException) -> str:
    """The message of a library in one line."""
    text = printable(str(error)) or type(error).__name__
    return text if len(text) <= MOST else text[: MOST - 1] + "…"


def cannot_start(label: str, error: BaseException, remedy: str) -> UserError:
    """A tracker that fails at the start of a run."""
    return UserError(f"logger={label}", f"cannot be started ({reason(error)})", remedy)
