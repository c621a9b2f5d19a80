"""What the callbacks of a run report to each other and to its summary."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

EVALUATED = "evaluated_epoch"  # among Lightning's callback metrics: the epoch of the last online evaluation


@dataclass
class RunState:
    """Figures of a run so far. Every callback receives it; none receives another callback.

    Args:
        checkpoint: the file of the last checkpoint.
        saved_step: optimiser step of that file, -1 before there is one; of one that is being written after `settle`.
        writing: the checkpoint that is being written beside the training; its result is its step.
        write_error: why the disk write failed, after `settle`.
        skipped_steps: steps that were skipped because a gradient was not finite.
        collapsed_at: first epoch after which the representation had collapsed.
        figures: of the latest online evaluation; the progress bar shows them and removes them.
        probe_seconds: of online evaluation within the current epoch.
        train_seconds, images: of the training steps, online evaluation not counted, over all sittings of the run.
    """

    checkpoint: Path
    saved_step: int = -1
    writing: "Future[int] | None" = None
    write_error: OSError | None = None
    skipped_steps: int = 0
    collapsed_at: int | None = None
    figures: dict[str, float] = field(default_factory=dict)
    probe_seconds: float = 0.0
    train_seconds: float = 0.0
    images: int = 0

    def settle(self) -> None:
        """Wait until the checkpoint that is being written is on the disk, or its write has failed."""
        if self.writing is not None:
            try:
                self.saved_step = self.writing.result()
            except OSError as error:
                self.write_error = error
            self.writing = None  # last: a signal's handler may raise while we wait, and then someone waits again

    @property
    def images_per_second(self) -> float | None:
        """Of the training steps; None before the first epoch has ended."""
        return round(self.images / self.train_seconds, 1) if self.train_seconds else None
