"""Embeddings as files: Parquet, CSV, npz, npy. Written block by block, so that memory does not grow with the rows."""

import csv
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from siamese.errors import UserError

BLOCK = 8192  # rows
FORMATS = (".parquet", ".csv", ".npz", ".npy")
Names = Iterator[tuple[str, str, str]]  # (file, split, label)


def check_format(out: Path) -> None:
    """Refuse a name that says no format, and a format whose library is missing.

    Raises:
        UserError: as said.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"out={out}", "names no format", f"end it in {', '.join(FORMATS)}")
    if out.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"out={out}", "Parquet needs pyarrow", "pip install 'siamese-ssl[parquet]', or choose .csv, .npz, .npy"
            ) from error


def write_table(
    out: Path, as_format: str, features: np.ndarray, kept: np.ndarray, names: Names, about: dict[str, Any]
) -> None:
    """Write an embedding.

    Args:
        out: the file.
        as_format: one of FORMATS.
        features: (N, D) float32, may be mapped from a file.
        kept: (N,) bool, the rows that are written.
        names: of all N images.
        about: where the features come from; kept in a Parquet file's metadata.
    """
    writers: dict[str, Callable[..., None]] = {".parquet": _parquet, ".csv": _csv, ".npz": _npz, ".npy": _npy}
    writers[as_format](out, features, kept, names, about)


def _blocks(
    features: np.ndarray, kept: np.ndarray, names: Names
) -> Iterator[tuple[np.ndarray, list[tuple[str, str, str]]]]:
    """Features (B, D) and names of the rows that are kept."""
    for start in range(0, len(features), BLOCK):
        take = kept[start : start + BLOCK]
        named = list(itertools.islice(names, len(take)))
        yield np.ascontiguousarray(features[start : start + BLOCK][take]), list(itertools.compress(named, take))


def _parquet(out: Path, features: np.ndarray, kept: np.ndarray, names: Names, about: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    dim = features.shape[1]
    text = pa.string()
    fields = [("file", text), ("split", text), ("label", text), ("features", pa.list_(pa.float32(), dim))]
    schema = pa.schema(fields, metadata={"siamese": json.dumps(about)})
    with pq.ParquetWriter(out, schema) as writer:
        for x, named in _blocks(features, kept, names):
            columns = [pa.array(c, text) for c in zip(*named, strict=True)] or [pa.array([], text)] * 3
            columns[2] = pa.array([label or None for *_, label in named], text)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1), pa.float32()), dim)
            writer.write_table(pa.Table.from_arrays([*columns, vectors], schema=schema))


def _csv(out: Path, features: np.ndarray, kept: np.ndarray, names: Names, about: dict[str, Any]) -> None:
    with out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "split", "label", *(f"f{i}" for i in range(features.shape[1]))])
        for x, named in _blocks(features, kept, names):
            writer.writerows([*row, *map(str, vector)] for row, vector in zip(named, x, strict=True))  # shortest digits


def _stream(file: Any, features: np.ndarray, kept: np.ndarray) -> None:
    """The kept rows in NumPy's format."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (int(kept.sum()), features.shape[1])}
    np.lib.format.write_array_header_1_0(file, header)
    for x, _ in _blocks(features, kept, iter(())):
        file.write(x.astype("<f4", copy=False).tobytes())


def _npy(out: Path, features: np.ndarray, kept: np.ndarray, names: Names, about: dict[str, Any]) -> None:
    with out.open("wb") as stream:
        _stream(stream, features, kept)


def names_csv(file: Path, kept: np.ndarray, names: Names) -> None:
    """Names, splits and labels of the rows of an .npy file."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "split", "label"])
        writer.writerows(itertools.compress(names, kept))


def _npz(out: Path, features: np.ndarray, kept: np.ndarray, names: Names, about: dict[str, Any]) -> None:
    columns = list(zip(*itertools.compress(names, kept), strict=True)) or [(), (), ()]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as packed:
        with packed.open("features.npy", "w", force_zip64=True) as stream:
            _stream(stream, features, kept)
        for key, values in zip(("files", "splits", "labels"), columns, strict=True):
            with packed.open(f"{key}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.array(values, dtype=np.str_), allow_pickle=False)
