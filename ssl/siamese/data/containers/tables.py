"""One Arrow or Parquet file of a data set: a column's rows, of which few lie in memory at once."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siamese.errors import UserError

KEPT_BYTES, LEAST_KEPT, MOST_KEPT = 256 << 20, 4, 64  # blocks in memory: threads read behind and ahead of each other
BLOCK_BYTES, LEAST_ROWS, MOST_ROWS = 32 << 20, 16, 4096  # of a block of a Parquet file
END_MARK = 8  # bytes, of a stream


def pyarrow() -> Any:
    """The library, imported at the first use."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("data=hf", f"needs pyarrow ({error})", "pip install siamese-ssl[hf]") from error
    return pyarrow


def damage() -> tuple[type[Exception], ...]:
    """What pyarrow raises for damaged files."""
    return OSError, ValueError, KeyError, pyarrow().ArrowException


def open_table(file: Path) -> Table:
    """The table in a file.

    Raises:
        Exception: one of `damage()`: it is damaged or cut.
    """
    if file.suffix == ".parquet":
        table: Table = ParquetTable(file)
    else:
        with file.open("rb") as stream:
            table = ArrowFile(file) if stream.read(6) == b"ARROW1" else ArrowStream(file)
    str(table.schema.names), str(table.schema.types)  # damaged texts fail here
    return table


class Table(ABC):
    """Rows of one file. Not safe in threads.

    Attributes:
        schema: pyarrow's.
        count: number of rows.
    """

    schema: Any
    count: int

    def __init__(self, file: Path):
        self.file, self.kept = file, deque[tuple[int, Any]]()

    def cell(self, column: str, row: int) -> Any:
        """pyarrow's scalar in `column`, the same one at each call; rows in any order, fastest in theirs."""
        for start, values in reversed(self.kept):
            if start <= row < start + len(values):
                return values[row - start]
        start, values = self._block(column, row)
        return values[row - start]

    def keep(self, start: int, values: Any) -> Any:
        """Keep the rows from `start` on. A file of a stranger is checked: its offsets could lead out of memory."""
        values.validate(full=True)
        self.kept.append((start, values))
        while len(self.kept) > LEAST_KEPT and (
            len(self.kept) > MOST_KEPT or sum(block.nbytes for _, block in self.kept) > KEPT_BYTES
        ):
            self.kept.popleft()
        return values

    @abstractmethod
    def _block(self, column: str, row: int) -> tuple[int, Any]:
        """The first row and the values of a block with `row`, which is kept."""

    @abstractmethod
    def column(self, name: str) -> Iterator[tuple[int, Any]]:
        """All values, as pairs of a first row and pyarrow's array."""

    def may_have_nulls(self, leaf: str) -> bool:
        """Whether a leaf such as ``image.bytes`` may have nulls, as far as can be told without reading it."""
        return True


class ArrowStream(Table):
    """The IPC stream format, in which `datasets` writes; mapped into memory."""

    def __init__(self, file: Path):
        super().__init__(file)
        pa = pyarrow()
        self.source = pa.memory_map(str(file))
        self.schema = pa.ipc.open_stream(self.source).schema
        if any(pa.types.is_dictionary(kind) for kind in self.schema.types):
            raise ValueError("has a dictionary-encoded column in the stream format; write it plain, or as Parquet")
        self.source.seek(0)
        reader = pa.ipc.MessageReader.open_stream(self.source)
        self.places: list[int] = []
        self.starts = [0]
        while True:
            place = self.source.tell()
            try:
                message = reader.read_next_message()
            except StopIteration:
                break
            if message.type == "record batch":
                self.places.append(place)
                self.starts.append(self.starts[-1] + pa.ipc.read_record_batch(message, self.schema).num_rows)
        if self.source.tell() - place != END_MARK:
            raise ValueError(f"ends after {self.starts[-1]:,} rows without an end mark: it is cut")
        self.count = self.starts.pop()

    def _batch(self, number: int) -> Any:
        pa = pyarrow()
        self.source.seek(self.places[number])
        return pa.ipc.read_record_batch(pa.ipc.read_message(self.source), self.schema)

    def _block(self, column: str, row: int) -> tuple[int, Any]:
        number = bisect.bisect_right(self.starts, row) - 1
        return self.starts[number], self.keep(self.starts[number], self._batch(number).column(column))

    def column(self, name: str) -> Iterator[tuple[int, Any]]:
        for number, start in enumerate(self.starts):
            yield start, self._batch(number).column(name)


class ArrowFile(ArrowStream):
    """The IPC file format (Feather 2), mapped into memory."""

    def __init__(self, file: Path):
        Table.__init__(self, file)
        pa = pyarrow()
        self.reader = pa.ipc.open_file(pa.memory_map(str(file)))
        self.schema = self.reader.schema
        self.starts = [0]
        for number in range(self.reader.num_record_batches):
            self.starts.append(self.starts[-1] + self._batch(number).num_rows)
        self.count = self.starts.pop()

    def _batch(self, number: int) -> Any:
        return self.reader.get_batch(number)


class ParquetTable(Table):
    """A Parquet file. A row group, which may be as large as the file, is decoded in blocks of rows: forwards, and from
    its start again for a row that lies before the blocks that are kept."""

    def __init__(self, file: Path):
        super().__init__(file)
        self.opened = pyarrow().parquet.ParquetFile(file, memory_map=True, pre_buffer=False)
        self.schema = self.opened.schema_arrow
        about = self.opened.metadata
        self.count = about.num_rows
        self.starts = [0]
        for group in range(about.num_row_groups):
            self.starts.append(self.starts[-1] + about.row_group(group).num_rows)
        if self.starts.pop() != self.count:
            raise ValueError(f"its row groups do not have the {self.count:,} rows of the file")
        self.group, self.next_row = -1, 0
        self.blocks: Iterator[Any] = iter(())

    def _iterate(self, column: str, group: int) -> Iterator[Any]:
        about = self.opened.metadata.row_group(group)
        rows = BLOCK_BYTES * about.num_rows // max(1, about.total_byte_size)
        rows = min(max(rows, LEAST_ROWS), MOST_ROWS)
        batches = self.opened.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False)
        return (batch.column(column) for batch in batches)

    def _block(self, column: str, row: int) -> tuple[int, Any]:
        group = bisect.bisect_right(self.starts, row) - 1
        if group != self.group or row < self.next_row or not self.kept:
            self.group, self.next_row, self.blocks = group, self.starts[group], self._iterate(column, group)
        try:
            for values in self.blocks:
                start, self.next_row = self.next_row, self.next_row + len(values)
                self.keep(start, values)
                if row < self.next_row:
                    return start, values
        except Exception:
            self.group = -1
            raise
        raise ValueError(f"row group {group} ends before row {row}")

    def column(self, name: str) -> Iterator[tuple[int, Any]]:
        for group, start in enumerate(self.starts):
            for values in self._iterate(name, group):
                yield start, values
                start += len(values)

    def may_have_nulls(self, leaf: str) -> bool:
        about = self.opened.metadata
        for group in range(about.num_row_groups):
            columns = (about.row_group(group).column(i) for i in range(about.num_columns))
            one = next((c for c in columns if c.path_in_schema == leaf), None)
            if one is None or not one.is_stats_set or not one.statistics.has_null_count or one.statistics.null_count:
                return True
        return False
