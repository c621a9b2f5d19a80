"""report.html and report.json of a run."""

import time
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from siamese.errors import printable
from siamese.files import write, write_json
from siamese.pages.run_files import read_json, read_run
from siamese.pages.run_page import run_page
from siamese.pages.stored import State, Stored, now
from siamese.training.gallery import Gallery

EVERY = 30.0  # seconds between two pages of a training without online evaluation
SHARE = 0.01  # of the time that pages may take


class RunReport:
    """Writes the report while the run trains and at its end. It never ends the run: what goes wrong is said once.

    Args:
        folder: the run folder.
        wanted: False writes nothing, as on ranks other than 0.
        console: prints.
    """

    def __init__(self, folder: Path, wanted: bool, console: Console):
        self.folder, self.wanted, self.console = folder, wanted, console
        self.stored = Stored()
        self.begun = self.failed = False
        self.written_at, self.cost = 0.0, 0.0

    @property
    def going(self) -> bool:
        """Whether the report says that the run is running."""
        return self.wanted and self.begun and self.stored.state == "running"

    def start(self, settings: dict[str, str], remarks: list[str], epochs: int, steps_per_epoch: int) -> None:
        """The run has begun; evaluations of an earlier sitting are kept. Call it once the folder is locked."""
        self.begun = True
        if not self.wanted:
            return
        overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else None
        kept = []
        if (self.folder / "report.json").is_file():
            try:
                kept = Stored.model_validate(read_json(self.folder / "report.json")).evaluations
            except Exception:  # a damaged file is written anew
                kept = []
        for one in kept:
            told = "of a checkpoint before the run was continued"
            one.told = one.told if told in one.told else f"{one.told}; {told}"
        self.stored = Stored(
            epochs=epochs, steps_per_epoch=steps_per_epoch, started=now(), settings=settings, remarks=remarks,
            overrides=overrides, evaluations=kept,
        )  # fmt: skip

    def update(self, epoch: int, step: int, evaluated: bool) -> None:
        """`epoch` epochs are done. The page is written after an online evaluation and every `EVERY` seconds, unless it
        would take more than `SHARE` of the time; and at the first call."""
        if not self.going:
            return
        self.stored.epoch, self.stored.step = epoch, step
        since = time.perf_counter() - self.written_at
        if self.cost and ((not evaluated and since < EVERY) or self.cost > SHARE * since):
            return
        self.write()

    def end(self, state: State, message: str, epoch: int, step: int, gallery: Gallery | None = None) -> None:
        """The last page. Call it when summary.json is written."""
        if not self.going:
            return
        one = self.stored
        one.state, one.message, one.epoch, one.step = state, printable(message), epoch, step
        if gallery is not None:
            one.pictures, one.queries, one.of = gallery.pictures, gallery.queries, gallery.of
            one.map, one.notes = gallery.map, gallery.notes
        self.write()

    def gallery(self, make: Callable[[], Gallery]) -> Gallery | None:
        """What `make` returns; None and a line if that fails."""
        if not self.going:
            return None
        try:
            return make()
        except Exception as error:
            self._complain(error)
            return Gallery(notes=[f"neighbours and map: {type(error).__name__}: {printable(str(error))[:200]}"])

    def write(self) -> None:
        """Write both files, each atomically."""
        start = time.perf_counter()
        self.stored.updated = now()
        try:
            write_json(self.folder / "report.json", self.stored.content())
            write(self.folder / "report.html", run_page(read_run(self.folder)))
        except Exception as error:
            self._complain(error)
        self.written_at = time.perf_counter()
        self.cost = self.written_at - start

    def _complain(self, error: Exception) -> None:
        if not self.failed:
            self.failed = True
            told = f"{type(error).__name__}: {printable(str(error))}"
            self.console.print(f"the report is not complete ({told}); the run goes on", soft_wrap=True)
