"""Folders of the Hugging Face `datasets` library: which splits they hold, in which files, and what is said of the
columns. Only files below the folder are named."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from siamese.errors import UserError

KEYWORDS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
SHARD = re.compile(r"(?:^|.*-)([\w.]+)-(\d{5,9})-of-(\d{5,9})(?:-[0-9a-f]+)?")
MOST_TEXT = 1 << 26  # bytes of a JSON file, or of a README.md
GIVE = "give a folder of `save_to_disk`, a folder of Parquet files, or one .parquet or .arrow file"


@dataclass
class Layout:
    """What lies at a path.

    Args:
        root: the folder.
        splits: name of the split -> its files, in order.
        features: column -> its description as in `dataset_info.json`: {"_type": "ClassLabel", "names": [...]}.
    """

    root: Path
    splits: dict[str, list[Path]]
    features: dict[str, Any] = field(default_factory=dict)


def layout(path: Path) -> Layout:
    """The splits at a path: `save_to_disk` of a Dataset or a DatasetDict, Parquet files as on the Hub, Arrow files as
    in the library's cache, or a single file.

    Raises:
        UserError: it is none of these, or a file is missing or damaged.
    """
    if path.is_file():
        if path.suffix not in (".parquet", ".arrow"):
            raise UserError(f"data.path={path}", f"is a file of the type {path.suffix!r}", GIVE)
        return Layout(path.parent, {_split_of(path.relative_to(path.parent)) or "train": [path]})
    if (path / "dataset_dict.json").is_file():
        names = _json(path, path / "dataset_dict.json").get("splits")
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise UserError(f"data.path={path}", "dataset_dict.json names no splits", "save the data set again")
        saved = {name: _saved(path, _below(path, name))[1:] for name in names}
        return Layout(path, {n: files for n, (files, _) in saved.items()}, next(iter(saved.values()))[1])
    if (path / "state.json").is_file():
        name, files, features = _saved(path, path)
        return Layout(path, {name: files}, features)
    about = _readme(path)
    features = _features_of_readme(about)
    if (declared := _declared(path, about)) is not None:
        return Layout(path, declared, features)
    return Layout(path, _by_names(path, _tables(path)), features or _features(_json(path, path / "dataset_info.json")))


def _saved(path: Path, folder: Path) -> tuple[str, list[Path], dict[str, Any]]:
    """Split, files and features of a folder that `Dataset.save_to_disk` wrote."""
    state = _json(path, folder / "state.json")
    entries = state.get("_data_files")
    if state.get("_indices_data_files"):
        raise UserError(f"data.path={path}", f"{folder / 'state.json'} has an indices file (an old version's)",
                        "save it again after `dataset.flatten_indices()`")  # fmt: skip
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "filename" in e for e in entries):
        raise UserError(f"data.path={path}", f"{folder / 'state.json'} names no files", "save the data set again")
    files = [_below(folder, str(e["filename"])) for e in entries]
    missing = [f for f in files if not f.is_file()]
    if missing or not files:
        told = f"{len(missing)} of {len(files)} files of {folder / 'state.json'} do not exist: {missing[:1]}"
        raise UserError(f"data.path={path}", told, "copy the folder again")
    return str(state.get("_split") or "train"), files, _features(_json(path, folder / "dataset_info.json"))


def _below(folder: Path, name: str) -> Path:
    """A file or folder in `folder`, which a file of a stranger names."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"data.path={folder}", f"names {name!r}, which is not in it", "save the data set again")
    return folder / name


def _json(path: Path, file: Path) -> dict[str, Any]:
    """The object in a JSON file, empty without the file."""
    if not file.is_file():
        return {}
    try:
        if file.stat().st_size > MOST_TEXT:
            raise ValueError(f"{file.stat().st_size:,} bytes")
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"holds a {type(value).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"data.path={path}", f"{file} is damaged ({error})", "copy it again") from error
    return value


def _features(info: dict[str, Any]) -> dict[str, Any]:
    found = info.get("features")
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def features_of_schema(path: Path, metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """The features in the metadata of an Arrow schema; empty without."""
    text = (metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        info = json.loads(text).get("info")
        return _features(info if isinstance(info, dict) else {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"data.path={path}", f"damaged metadata of the schema ({error})", "save it again") from error


def _readme(path: Path) -> dict[str, Any]:
    """The YAML part of the Hub's README.md, empty without."""
    file = path / "README.md"
    if not file.is_file() or file.stat().st_size > MOST_TEXT:
        return {}
    parts = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", file.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        value = yaml.safe_load(parts[1]) if parts else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"data.path={path}", f"damaged YAML in {file} ({error})", "correct or remove it") from error
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, dict)]


def _features_of_readme(about: dict[str, Any]) -> dict[str, Any]:
    """Image and ClassLabel columns of `dataset_info`, as `dataset_info.json` writes them."""
    infos = _dicts(about.get("dataset_info"))
    chosen = [i for i in infos if i.get("config_name", "default") == "default"] or infos
    found: dict[str, Any] = {}
    for column in _dicts(chosen[0].get("features")) if len(chosen) == 1 else []:
        kind = column.get("dtype")
        if kind == "image":
            found[str(column.get("name"))] = {"_type": "Image"}
        elif isinstance(kind, dict) and isinstance(kind.get("class_label"), dict):
            names = kind["class_label"].get("names")
            if isinstance(names, dict) and all(str(k).isdigit() for k in names):
                names = [names[k] for k in sorted(names, key=int)]
            found[str(column.get("name"))] = {"_type": "ClassLabel", "names": names}
    return found


def _declared(path: Path, about: dict[str, Any]) -> dict[str, list[Path]] | None:
    """The splits of the one configuration (or the default one) that README.md declares; None without."""
    configs = _dicts(about.get("configs"))
    chosen = [c for c in configs if c.get("default") is True or c.get("config_name") == "default"] or configs
    if not chosen:
        return None
    if len(chosen) > 1:
        told = ", ".join(str(c.get("config_name")) for c in chosen[:5])
        raise UserError(f"data.path={path}", f"README.md has {len(chosen)} configurations: {told}",
                        "give the folder or the file of one of them")  # fmt: skip
    given = chosen[0].get("data_files")
    if given is None:
        return None
    by_split = [e for e in _dicts(given) if "split" in e] or [{"split": "train", "path": given}]
    splits: dict[str, list[Path]] = {}
    for entry in by_split:
        files: list[Path] = []
        for pattern in entry["path"] if isinstance(entry.get("path"), list) else [entry.get("path")]:
            if not isinstance(pattern, str) or pattern.startswith("/") or ".." in Path(pattern).parts or not pattern:
                raise UserError(f"data.path={path}", f"README.md names {pattern!r}", "it must lie in the folder")
            files += sorted(f for f in path.glob(pattern) if f.suffix == ".parquet" and f.is_file())
        if not files:
            raise UserError(f"data.path={path}", f"no Parquet file of split {entry['split']!r} that README.md names",
                            "copy the folder again, with all files")  # fmt: skip
        _check_complete(path, files)
        splits[str(entry["split"])] = files
    return splits


def _tables(path: Path) -> list[Path]:
    """Parquet or Arrow files in a folder, relative to it and sorted, without hidden ones and results of the cache."""
    found = []
    for folder, inner, names in os.walk(path):
        inner[:] = [n for n in inner if not n.startswith(".")]
        files = (Path(folder, n) for n in names if n.endswith((".parquet", ".arrow")))
        found += [file.relative_to(path) for file in files if file.is_file() or not file.exists()]  # no FIFO
    found = sorted(f for f in found if not f.name.startswith((".", "cache-", "tmp")))
    if len({f.suffix for f in found}) != 1:
        problem = "holds Parquet files and Arrow files" if found else "holds no Parquet file and no Arrow file"
        raise UserError(f"data.path={path}", problem, GIVE)
    return found


def _by_names(path: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Splits by the names of files and folders, as the library finds them. Without any such name all is `train`."""
    above = {file: [p.lower() in KEYWORDS for p in file.parts[:-1]] for file in files}
    sets = {Path(*f.parts[: here.index(True) if True in here else len(here)]) for f, here in above.items()}
    if len(sets) > 1:
        told = ", ".join(sorted(str(s) for s in sets)[:5])
        raise UserError(f"data.path={path}", f"holds {len(sets)} folders of tables: {told}", "give one of them")
    names = {file: _split_of(file) for file in files}
    without = [file for file, name in names.items() if name is None]
    if without and len(without) < len(files):
        raise UserError(f"data.path={path}", f"the name of {without[0]} tells no split, others do", "rename it")
    splits: dict[str, list[Path]] = {}
    for file, name in names.items():
        splits.setdefault(name or "train", []).append(path / file)
    _check_complete(path, (path / f for f in files))
    return splits


def _split_of(file: Path) -> str | None:
    """The split that a relative path tells: `train-00000-of-00002`, `NAME-train`, `val.parquet`, `test/x.parquet`."""
    if (shard := SHARD.fullmatch(file.stem)) is not None:
        if shard[1] != "data":
            return shard[1]
    elif (
        file.suffix == ".arrow"
        and re.fullmatch(r"\w+(\.\w+)*", end := file.stem.rpartition("-")[2])
        and "-" in file.stem
    ):
        return end
    for part in (file.stem.rpartition("-")[2], file.stem, *reversed(file.parts[:-1])):
        told = {KEYWORDS[w] for w in re.split(r"[^a-z]+", part.lower()) if w in KEYWORDS}
        if len(told) == 1:
            return told.pop()
    return None


def _check_complete(path: Path, files: Iterable[Path]) -> None:
    """Refuse a set of shards I-of-N with gaps."""
    there: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        if (shard := SHARD.fullmatch(file.stem)) is not None:
            there.setdefault((file.parent, shard[1], int(shard[3])), set()).add(int(shard[2]))
    for (_, name, count), numbers in there.items():
        if len(numbers) < count:
            first = next(i for i in range(count) if i not in numbers)
            raise UserError(f"data.path={path}", f"{len(numbers)} of the {count} shards of {name} are there; the first "
                            f"missing one is number {first}", "copy the folder again, with all files")  # fmt: skip
