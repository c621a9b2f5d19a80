"""Hugging Face `datasets` on disk: encoded images in an image column of Arrow or Parquet files. It needs pyarrow, no
network, and not the library itself."""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from typing import Any

from siamese.data.containers.hub import Layout, features_of_schema, layout
from siamese.data.containers.source import ClassLabels, Source, unlabelled
from siamese.data.containers.tables import Table, damage, open_table, pyarrow
from siamese.errors import UserError, printable

LABELS = ("label", "labels")  # columns that hold the label if none is described as one
OPEN = 2  # tables


def hugging_face_splits(path: Path) -> list[str]:
    """The splits at a path: see `siamese.data.containers.hub.layout`."""
    return list(layout(path).splits)


def hugging_face(path: Path, split: str | None = None, image: str | None = None, label: str | None = None) -> Source:
    """The images of one split.

    Args:
        path: a folder of `save_to_disk`, a folder of Parquet files as on the Hub, or one file.
        split: None if there is but one.
        image: the column of images; None for the one that is described as an image, or the only one of its type.
        label: the column of labels; None for the one that is described as a class label, else `label` or `labels`
            where it exists; '' for no labels.

    Raises:
        UserError: pyarrow is missing, or path, split or columns are not as said above.
    """
    pyarrow()
    found = layout(path)
    if split is None and len(found.splits) == 1:
        split = next(iter(found.splits))
    if split not in found.splits:
        raise UserError(
            f"data.path={path}", f"there is no split {split!r}" if split else f"has {len(found.splits)} splits",
            f"choose one of {', '.join(found.splits)}",
        )  # fmt: skip
    return ArrowTables(path, split, found, image, label)


class ArrowTables(Source):
    """The rows of Arrow or Parquet files. See `hugging_face`."""

    def __init__(self, path: Path, split: str, found: Layout, image: str | None, label: str | None):
        self.setting, self.root, self.containers = f"data.path={path}", found.root, found.splits[split]
        self.titles = [str(file.relative_to(self.root)) for file in self.containers]
        self.states = [_state(file) for file in self.containers]
        self._lock, self._tables = threading.Lock(), OrderedDict[int, Table]()
        first = self._table_or_refuse(0)
        features = found.features | features_of_schema(path, first.schema.metadata)
        self.image = image_column(first.schema, features, image)
        column = label_column(first.schema, features, label)
        names = features.get(column or "", {}).get("names")
        names = [str(n) for n in names] if isinstance(names, list) else None
        if column is None or not pyarrow().types.is_integer(first.schema.field(column).type):
            names = None
        labels = ClassLabels(names)
        self.linked: dict[int, str] = {}  # images that lie in files of their own
        self.starts = [0]
        for number, file in enumerate(self.containers):
            table = self._table_or_refuse(number)
            for needed in {self.image, column} - {None}:
                if not _fits(table.schema, first.schema, str(needed)):
                    raise UserError(
                        self.setting, f"{file} has another column {needed!r} than {self.containers[0].name}",
                        "use files of one data set",
                    )  # fmt: skip
            try:
                self._index(table, self.starts[-1], column, labels)
            except damage() as error:
                raise UserError(self.setting, f"{file}: {error}", "correct or copy it again") from error
            self.starts.append(self.starts[-1] + table.count)
        self.count = self.starts.pop()
        if not self.count:
            raise UserError(self.setting, f"the split {split!r} has no rows", "give another split")
        self.classes, self.labels = unlabelled(self.count) if column is None else labels.finish()
        files = [self.root / name for name in self.linked.values()]
        self.files = [*self.containers, *(file for file in dict.fromkeys(files) if file.is_file())]
        self.selection = f"hf {self.image}"

    def _index(self, table: Table, start: int, label: str | None, labels: ClassLabels) -> None:
        """Append a table's labels, and find its images that lie in files of their own."""
        if label is not None:
            try:
                for _, values in table.column(label):
                    values.validate(full=True)
                    labels.extend(values.to_pylist())
            except ValueError as error:
                raise ValueError(f"column {label!r}, row {len(labels) - start}: {error}") from error
        kind = table.schema.field(self.image).type
        is_struct = pyarrow().types.is_struct(kind)
        if not is_struct or kind.get_field_index("path") < 0 or not table.may_have_nulls(f"{self.image}.bytes"):
            return
        for at, values in table.column(self.image):
            if not values.null_count and not values.field("bytes").null_count:
                continue
            values.validate(full=True)
            for row, value in enumerate(values.field("bytes").is_null().to_pylist()):
                name = values[row]["path"].as_py() if value and values[row].is_valid else None
                if name is None:
                    continue
                if _below(self.root, name) is None:
                    raise ValueError(
                        f"the image of row {at + row} is the file {name!r} outside of {self.root}; "
                        "save the data set with its images embedded"
                    )
                self.linked[start + at + row] = name

    def _table_or_refuse(self, number: int) -> Table:
        try:
            return self._table(number)
        except damage() as error:
            remedy = "copy or write it again"
            raise UserError(self.setting, f"{self.containers[number]} cannot be read ({error})", remedy) from error

    def _table(self, number: int) -> Table:
        """An opened table; few are open at once."""
        if number not in self._tables:
            if _state(self.containers[number]) != self.states[number]:
                raise OSError(f"{self.containers[number]} has changed since it was indexed")
            self._tables[number] = open_table(self.containers[number])
            while len(self._tables) > OPEN:
                self._tables.popitem(last=False)
        self._tables.move_to_end(number)
        return self._tables[number]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_tables")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock, self._tables = threading.Lock(), OrderedDict()

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> bytes:
        if index in self.linked:
            file = _below(self.root, self.linked[index])
            if file is None or not file.is_file():  # of a pipe or a device nothing is read
                raise FileNotFoundError(printable(f"{self.name(index)}: no file {self.linked[index]!r}"))
            return file.read_bytes()
        number, row = self._place(index)
        try:
            with self._lock:
                value = self._table(number).cell(self.image, row)
            if value.is_valid and pyarrow().types.is_struct(value.type):
                value = value["bytes"]
            content = value.as_py() if value.is_valid else None
        except damage() as error:
            raise ValueError(printable(f"{self.name(index)} cannot be read ({error})")) from error
        if content is None:
            raise ValueError(printable(f"{self.name(index)} has no image (null)"))
        return bytes(content)

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        number = bisect_right(self.starts, index) - 1
        return number, index - self.starts[number]

    def name(self, index: int) -> str:
        number, row = self._place(index)
        return f"{self.titles[number]}:{row}"


def image_column(schema: Any, features: dict[str, Any], image: str | None) -> str:
    """The name of the image column: see `hugging_face`.

    Raises:
        UserError: `image` is not such a column, or there is not exactly one.
    """
    fitting = [f.name for f in schema if _is_image(f.type) and schema.names.count(f.name) == 1]
    described = [n for n in fitting if features.get(n, {}).get("_type") == "Image"]
    plain = [n for n in fitting if features.get(n, {}).get("_type", "Value") == "Value"]
    candidates = described or plain
    told = f"columns that can hold images: {', '.join(candidates) or 'none'}"
    if image is not None:
        if image in fitting:
            return image
        kind = f"is of type {str(schema.field(image).type)[:100]}" if schema.names.count(image) == 1 else "is missing"
        raise UserError(f"data.image={image}", f"this column {kind}, not struct<bytes, path> or binary",
                        f"choose one of the {told}")  # fmt: skip
    if len(candidates) != 1:
        columns = ", ".join(f"{f.name} ({str(f.type)[:40]})" for f in list(schema)[:10])
        raise UserError("data.image=null", f"{told}; all columns: {columns}", "give the one as data.image=…")
    return candidates[0]


def label_column(schema: Any, features: dict[str, Any], label: str | None) -> str | None:
    """The name of the label column, None without: see `hugging_face`.

    Raises:
        UserError: `label` is not a column of whole numbers or texts, or several are described as class labels.
    """
    if label == "":
        return None
    chosen = [label] if label is not None else []
    if not chosen:
        chosen = [n for n in schema.names if features.get(n, {}).get("_type") == "ClassLabel"]
        if len(chosen) > 1:
            raise UserError("data.label=null", f"there are {len(chosen)} columns of class labels: {', '.join(chosen)}",
                            "give one as data.label=…, or data.label='' for none")  # fmt: skip
        chosen = chosen or [n for n in LABELS if n in schema.names][:1]
    if not chosen:
        return None
    (name,) = chosen
    candidates = ", ".join(f.name for f in schema if _is_label(f.type)) or "none"
    kind = schema.field(name).type if schema.names.count(name) == 1 else None
    if kind is not None and _is_label(kind):
        return name
    problem = f"is of type {str(kind)[:100]}" if kind is not None else "is missing"
    if kind is not None and str(kind).startswith(("list", "large_list", "fixed_size_list")):
        problem += ": several labels an image are not supported here"
    raise UserError(f"data.label={name}", f"this column {problem}; columns of whole numbers or texts: {candidates}",
                    "choose one of these, or data.label='' for none")  # fmt: skip


def _is_binary(kind: Any) -> bool:
    types = pyarrow().types
    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_image(kind: Any) -> bool:
    if not pyarrow().types.is_struct(kind):
        return _is_binary(kind)
    place = kind.get_field_index("bytes")
    return place >= 0 and _is_binary(kind.field(place).type)


def _is_label(kind: Any) -> bool:
    types = pyarrow().types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(is_(kind) for is_ in (types.is_integer, types.is_string, types.is_large_string, types.is_null))


def _fits(schema: Any, first: Any, column: str) -> bool:
    """Whether a further file has the column as the first one has it, or a null type for labels that are all unknown."""
    if schema.names.count(column) != 1:
        return False
    kind, expected = schema.field(column).type, first.field(column).type
    return (_is_image(kind) and _is_image(expected)) or (_is_label(kind) and _is_label(expected))


def _below(root: Path, name: str) -> Path | None:
    """The file of a name relative to `root`, links followed; None if it lies outside, or no file can have the name."""
    try:
        real, folder = os.path.realpath(root / name), os.path.realpath(root)
    except (OSError, ValueError):
        return None
    return Path(real) if real.startswith(folder.rstrip(os.sep) + os.sep) else None


def _state(file: Path) -> tuple[int, int]:
    about = file.stat()
    return about.st_size, about.st_mtime_ns
