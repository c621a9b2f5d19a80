"""WebDataset: images in tar shards, a sample being the members of one key. Each shard is indexed once by its headers;
an image is then read by its offset. Nothing is extracted, and no pickle is read."""

import glob
import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siamese.data.containers.source import ClassLabels, Source, unlabelled
from siamese.data.containers.tar import Member, compression, members
from siamese.data.listing.tree import SUFFIXES as IMAGE_SUFFIXES
from siamese.errors import UserError, printable
from siamese.paths import expand_path

SUFFIXES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
PICKLES = ("pyd", "pickle", "pkl", "pth", "pt")
MOST_SHARDS = 1_000_000
MOST_LABEL = 1 << 20  # bytes of a label member
MOST_SUFFIXES = 1000  # that are counted for messages
CHOOSE = "give the suffix of the images, as in data.image=[jpg]"
PARTS = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)", re.DOTALL)  # key (folder, name to its first dot) and suffix


def webdataset(shards: str | Sequence[str], image: Sequence[str] | None = None, label: str | None = None) -> Source:
    """Images of tar shards in WebDataset's layout.

    Args:
        shards: patterns with braces ("train-{000..009}.tar", "{a,b}.tar") and globs, or folders of `.tar` files.
        image: suffixes of the image members ("jpg", "left.png"); None for the usual ones.
        label: suffix of the label member: `cls` (a whole number), `json:KEY`, or another one (a text); None for
            `cls` where it exists; '' for no labels.

    Raises:
        UserError: a shard is missing, packed, cut or damaged, or its samples are not as said above.
    """
    setting = f"data.path={shards if isinstance(shards, str) else ','.join(shards)}"
    given = [image] if isinstance(image, str) else image
    suffixes = SUFFIXES if given is None else tuple(s.lower().lstrip(".") for s in given)
    for suffix in (*suffixes, label or ""):
        if suffix.rsplit(".", 1)[-1] in PICKLES:
            raise UserError(setting, f"members .{suffix} are pickles, which can run code", "name another suffix")
    if not suffixes or "" in suffixes:
        raise UserError("data.image", "an empty suffix", "give suffixes as in data.image=[jpg,png]")
    files = expand_shards([shards] if isinstance(shards, str) else shards)
    return TarShards(setting, files, suffixes, label)


class TarShards(Source):
    """The samples of tar shards. See `webdataset`; the index takes 20 bytes a sample and its name."""

    def __init__(self, setting: str, files: list[Path], suffixes: Sequence[str], label: str | None):
        self.setting, self.files = setting, files
        self.selection = f"webdataset {','.join(suffixes)}"
        root = Path(os.path.commonpath([file.absolute().parent for file in files]))
        self.titles = [str(file.absolute().relative_to(root)) for file in files]
        self.states = [_state(file.stat()) for file in files]
        shard, offsets, sizes, ends, names = array("i"), array("q"), array("q"), array("q"), bytearray()
        labels = LabelMembers(label)
        seen: Counter[str] = Counter()
        without = 0
        for number, file in enumerate(files):
            samples, alone = self._samples(file, suffixes, labels, seen)
            without += alone
            for member in samples:
                shard.append(number)
                offsets.append(member.offset)
                sizes.append(member.size)
                names += member.name.encode("utf-8", "surrogateescape")
                ends.append(len(names))
        if not shard:
            found = ", ".join(suffix for suffix, _ in seen.most_common(5)) or "none"
            raise UserError(
                setting, f"no sample has an image ({', '.join(suffixes[:10])}); suffixes found: {found}",
                CHOOSE,
            )  # fmt: skip
        self.shard, self.offsets = np.frombuffer(shard, np.int32), np.frombuffer(offsets, np.int64)
        self.sizes, self.ends = np.frombuffer(sizes, np.int64), np.frombuffer(ends, np.int64)
        self.member_names = bytes(names)
        self.classes, self.labels = labels.finish(len(shard), seen)
        if without:
            self.notes += (f"{without} samples without an image were left out of {setting}",)

    def _samples(
        self, file: Path, suffixes: Sequence[str], labels: "LabelMembers", seen: Counter[str]
    ) -> tuple[list[Member], int]:
        """The images of one shard in order, their labels appended to `labels`; and the samples without an image."""
        images: dict[str, Member | None] = {}
        values: dict[str, Any] = {}
        names: set[str] = set()
        last: Member | None = None

        def refuse(problem: str, remedy: str = "write the shard again, or leave it out") -> UserError:
            return UserError(self.setting, f"{file}: {problem}", remedy)

        try:
            with file.open("rb") as stream:
                for last in members(stream.fileno()):
                    parts = _parts(last.name)
                    if parts is None:
                        continue
                    key, suffix = parts
                    if last.name in names:
                        raise refuse(f"two members are named {last.name!r}")
                    names.add(last.name)
                    seen[suffix] += suffix in seen or len(seen) < MOST_SUFFIXES
                    before = images.setdefault(key, None)
                    if suffix in suffixes:
                        if before is not None:
                            raise refuse(f"sample {key!r} has two images, {before.name!r} and {last.name!r}", CHOOSE)
                        images[key] = last
                    elif labels.wants(suffix):
                        if key in values:
                            raise refuse(f"sample {key!r} has two labels")
                        values[key] = labels.parse(stream.fileno(), last)
        except (OSError, ValueError) as error:
            raise refuse(str(error)) from error
        if last is not None and last.offset + last.size > file.stat().st_size:
            if last not in images.values():
                raise refuse(f"{last.name!r} is cut")
            self.notes += (f"{file} is cut in {last.name!r}; samples that followed are lost",)
        found = [(key, member) for key, member in images.items() if member is not None]
        before_shard = len(labels.collected)
        try:
            labels.collected.extend(values.get(key) for key, _ in found)
        except ValueError as error:
            key = found[len(labels.collected) - before_shard][0]
            raise refuse(f"sample {key!r}: {error}", "correct the labels") from error
        return [member for _, member in found], len(images) - len(found)

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, index: int) -> bytes:
        file, size = self.files[self.shard[index]], int(self.sizes[index])
        with file.open("rb") as stream:
            state = os.fstat(stream.fileno())
            if _state(state) != self.states[self.shard[index]]:
                raise OSError(printable(f"{file} has changed since it was indexed"))
            stream.seek(int(self.offsets[index]))
            content = stream.read(min(size, state.st_size))
        if len(content) < size:
            raise ValueError(printable(f"{self.name(index)} is cut: {len(content):,} of {size:,} bytes"))
        return content

    def name(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index % len(self) else 0
        member = self.member_names[start : int(self.ends[index])].decode("utf-8", "surrogateescape")
        return f"{self.titles[self.shard[index]]}/{member}"


class LabelMembers:
    """Reads the label members, which are small, while shards are indexed. See `webdataset` for `label`."""

    def __init__(self, label: str | None):
        self.label, self.found = label, False
        self.suffix, _, self.key = ("cls" if label is None else label).partition(":")
        if bool(self.key) != (self.suffix.rsplit(".", 1)[-1] == "json") or (label and not self.suffix):
            raise UserError(f"data.label={label}", "is no suffix of a label", "give cls, txt or json:KEY")
        self.keys: Counter[str] = Counter()
        self.collected = ClassLabels()

    def wants(self, suffix: str) -> bool:
        return self.label != "" and suffix == self.suffix

    def parse(self, fd: int, member: Member) -> Any:
        """The value of a label member of the shard that is open as `fd`.

        Raises:
            ValueError: it is too large, cut, or not of its kind.
        """
        if member.size > MOST_LABEL:
            raise ValueError(f"{member.name!r} has {member.size:,} bytes, a label at most {MOST_LABEL:,}")
        content = os.pread(fd, member.size, member.offset)
        if len(content) < member.size:
            raise ValueError(f"{member.name!r} is cut")
        try:
            text = content.decode("utf-8").strip()
            if self.key:
                record = json.loads(text)
                self.keys.update(record.keys())
                self.found = self.found or self.key in record
                return record.get(self.key)
            self.found = True
            if self.suffix.rsplit(".", 1)[-1] != "cls":
                return text
            if not re.fullmatch(r"-?[0-9]+", text):
                raise ValueError("other characters than digits")
            return int(text)
        except (ValueError, AttributeError, RecursionError) as error:
            kind = {"cls": "a whole number", "json": "a JSON object"}.get(self.suffix.rsplit(".", 1)[-1], "UTF-8 text")
            raise ValueError(f"{member.name!r} is not {kind}: {content[:40]!r}") from error

    def finish(self, count: int, seen: Counter[str]) -> tuple[list[str], Any]:
        if self.found:
            return self.collected.finish()
        if self.label:
            found = self.keys if self.key and self.keys else seen
            told = ", ".join(name for name, _ in found.most_common(10))
            raise UserError(f"data.label={self.label}", f"no sample has it; there are {told}", "choose one of these")
        return unlabelled(count)


def expand_shards(patterns: Sequence[str]) -> list[Path]:
    """The shards of patterns, in order; globs and folders sorted.

    Raises:
        UserError: a shard is missing, is named twice, or is not a plain tar file.
    """
    found: list[Path] = []
    for pattern in patterns:
        setting = f"data.path={pattern}"
        if re.match(r"[a-z][a-z0-9]*:", pattern):
            raise UserError(setting, "is an address", "copy the shards to this machine and give their paths")
        whole = expand_path(pattern, "data.path")
        if whole.is_dir():
            names = sorted(n for n in os.listdir(whole) if n.endswith(".tar") and not n.startswith("."))
            some = [whole / name for name in names]
        else:
            some = [whole] if whole.exists() else _matching(setting, pattern)
        if not some:
            raise UserError(setting, "no .tar file is there", "give the shards, as in 'shards/train-{000..009}.tar'")
        missing = [file for file in some if not file.is_file()]
        if missing:
            raise UserError(
                setting, f"{len(missing)} of {len(some)} shards do not exist, the first: {missing[0]}", "correct it"
            )
        found += some
    given = f"data.path={','.join(patterns)}"
    if not found:
        raise UserError(given, "names no shard", "give the shards, as in 'shards/train-{000..009}.tar'")
    real: dict[str, Path] = {}
    for file in found:
        if (program := compression(file)) is not None:
            raise UserError(given, f"{file} is compressed by {program}, so that an image cannot be read alone",
                            "decompress it to a .tar file")  # fmt: skip
        if real.setdefault(os.path.realpath(file), file) is not file:
            raise UserError(given, f"{file} occurs twice", "name each shard once")
    return found


def _matching(setting: str, pattern: str) -> list[Path]:
    out: list[Path] = []
    for one in _braces(setting, pattern):
        path = str(expand_path(one, "data.path"))
        globbed = glob.has_magic(path) and not os.path.exists(path)
        out += [Path(name) for name in sorted(glob.glob(path))] if globbed else [Path(path)]
        if len(out) > MOST_SHARDS:
            raise UserError(setting, f"stands for more than {MOST_SHARDS:,} shards", "give fewer")
    return out


def _braces(setting: str, pattern: str) -> Iterator[str]:
    """The texts that a pattern stands for: {001..010} (with a step: {0..10..2}) and {a,b}, as a shell expands them."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None or "{" in pattern[: match.start()]:
        if "{" in pattern or "}" in pattern:
            raise UserError(setting, "braces that do not match or lie in each other", "write {000..009} or {a,b}")
        yield pattern
        return
    start, inner, rest = pattern[: match.start()], match[1], pattern[match.end() :]
    choices: Any = inner.split(",")
    if (numbers := re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})(?:\.\.(\d{1,18}))?", inner)) is not None:
        low, high, step = int(numbers[1]), int(numbers[2]), int(numbers[3] or 1)
        padded = any(len(n) > 1 and n[0] == "0" for n in numbers.groups()[:2])
        width = max(len(numbers[1]), len(numbers[2])) if padded else 0
        values = range(low, high + 1, step or 1) if low <= high else range(low, high - 1, -(step or 1))
        choices = (f"{value:0{width}d}" for value in values)
    elif len(choices) == 1:
        raise UserError(setting, f"{{{inner}}} is neither a range nor a list", "write {000..009} or {a,b}")
    for choice in choices:
        for tail in _braces(setting, rest):
            yield f"{start}{choice}{tail}"


def _parts(name: str) -> tuple[str, str] | None:
    """Key and suffix of a member; None for a hidden one and one without a suffix."""
    match = PARTS.fullmatch(name)
    return None if match is None or "__MACOSX/" in name else (match[1], match[2].lower())


def _state(about: os.stat_result) -> tuple[int, int]:
    return about.st_size, about.st_mtime_ns
