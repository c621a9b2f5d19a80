"""report.json: what a run keeps for its report beside its other files, so that it can be drawn without the data."""

from datetime import datetime
from typing import Annotated, Any, Literal

import pydantic

from siamese.pages.pictures import is_uri

State = Literal["running", "finished", "interrupted", "failed", "unfinished"]
Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]
Numbers = dict[str, tuple[Finite, Finite | None]]


def _checked_uri(value: str) -> str:
    if not is_uri(value):
        raise ValueError("a picture is no data URI of a PNG or JPEG")
    return value


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")


class Near(_Model):
    """A neighbour: number of its picture, label, whether it has the query's label, cosine similarity."""

    picture: int
    label: str = ""
    same: bool | None = None
    similarity: Finite


class Query(_Model):
    """An image with its neighbours by the features before and after the training."""

    picture: int
    label: str = ""
    before: list[Near] = []
    after: list[Near] = []


class FeatureMap(_Model):
    """Places in the plane of the same images before and after the training.

    Args:
        way: how they were found.
        groups: class of each, None without labels.
        before_note, after_note: a remark on each.
    """

    way: str
    before: list[tuple[Finite, Finite]]
    after: list[tuple[Finite, Finite]]
    groups: list[int] | None = None
    classes: list[str] = []
    before_note: str = ""
    after_note: str = ""

    @pydantic.model_validator(mode="after")
    def _fits(self) -> "FeatureMap":
        if len(self.before) != len(self.after) or len(self.groups or self.before) != len(self.before):
            raise ValueError("a map has points without a partner")
        if any(not 0 <= g < len(self.classes) for g in self.groups or ()):
            raise ValueError("a point of the map is of no class")
        return self


class EvaluationTable(_Model):
    """Figures on one data set: label -> kind of features -> (value, half of the interval)."""

    data: str
    images: str = ""
    columns: list[str]
    percent: dict[str, bool]
    rows: dict[str, Numbers]


class Evaluation(_Model):
    """What eval_linear.py found of a checkpoint of the run."""

    folder: str
    sha256: str
    command: str = ""
    told: str = ""
    tables: list[EvaluationTable] = []


class Stored(_Model):
    """The content of report.json.

    Args:
        state: of the run; ``unfinished`` is one that ended without a word.
        message: how it ended, where it did not finish.
        epoch, epochs, step, steps_per_epoch: how far it is.
        started, updated: local times.
        settings, remarks: what the run printed at its start.
        overrides: of the command line; None: it was not started from one.
        pictures: data URIs, by number.
        of: what the queries and their neighbours are.
        notes: why a part is missing.
    """

    schema_version: Literal[1] = 1
    state: State = "running"
    message: str = ""
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    started: str = ""
    updated: str = ""
    settings: dict[str, str] = {}
    remarks: list[str] = []
    overrides: list[str] | None = None
    pictures: list[Annotated[str, pydantic.AfterValidator(_checked_uri)]] = []
    of: str = ""
    queries: list[Query] = []
    map: FeatureMap | None = None
    notes: list[str] = []
    evaluations: list[Evaluation] = []

    @pydantic.model_validator(mode="after")
    def _has_pictures(self) -> "Stored":
        near = [n.picture for q in self.queries for n in (*q.before, *q.after)]
        if any(not 0 <= i < len(self.pictures) for i in [*near, *(q.picture for q in self.queries)]):
            raise ValueError("a picture of a neighbour is missing")
        return self

    def content(self) -> dict[str, Any]:
        """Plain values for the file."""
        return self.model_dump(mode="json")


def now() -> str:
    """The local time, to the second."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
