"""The best setting of a sweep as an experiment that `experiment=` takes."""

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from siamese.config import quoted
from siamese.files import write
from siamese.options import is_group, own_conf, roots
from siamese.sweep.gather import MATTERS

# Where and how a trial ran; kept where the trials differ in it.
PLACES = ("run_dir", "trainer", "logger", "callbacks", "report", "compile", "resume", "overwrite", "seed")


def experiment(settings: Mapping[str, str], told: str, kept: Collection[str] = ()) -> str:
    """An experiment file.

    Args:
        settings: key -> value as typed, of one trial.
        told: a line about their origin.
        kept: keys that stay although they are of `PLACES`.
    """
    kept = (*kept, *MATTERS)
    chosen = {k: v for k, v in settings.items() if k in kept or k.split(".")[0] not in PLACES}
    space = chosen.pop("sweep", None)
    groups = _groups_of_space(space) if space else {}
    values: dict[str, Any] = {}
    lost: list[str] = []
    base = chosen.pop("experiment", None)
    for name, typed in chosen.items():
        if name.startswith("~"):
            lost.append(name)
            continue
        value = _plain(OverridesParser.create().parse_override(f"{name}={typed}").value())
        if is_group(name):
            groups[name] = value
            continue
        *path, last = name.split(".")
        node: dict[str, Any] = values
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    overrides = [{f"override /{name}": value} for name, value in groups.items()]
    defaults = [*([f"/experiment/{base}"] if base else []), *overrides]
    content = {"defaults": [*defaults, "_self_"]} if defaults else {}
    head = f"# @package _global_\n# {told}\n" + "".join(f"# not here: {name}\n" for name in lost)
    return head + yaml.safe_dump({**content, **values}, sort_keys=False, default_flow_style=None, allow_unicode=True)


def write_best(folder: Path, settings: Mapping[str, str], told: str, kept: Collection[str]) -> str:
    """Write `conf/experiment/best.yaml` into the folder of a sweep.

    Returns:
        The command that trains it.
    """
    file = folder / "conf" / "experiment" / "best.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, experiment(settings, told, kept))
    places = [f"file://{place.resolve()}" for place in (folder / "conf", own_conf()) if place is not None]
    listed = ",".join(map(quoted, places))
    return f"python train.py experiment=best {shlex.quote(f'hydra.searchpath=[{listed}]')}"


def _groups_of_space(name: str) -> dict[str, Any]:
    """What `sweep=NAME` chooses beside its space: the method."""
    files = [root / "sweep" / f"{name}.yaml" for root in roots()]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        return {}
    entries = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults") or []
    found = {k: v for entry in entries if isinstance(entry, dict) for k, v in entry.items()}
    names = {k.removeprefix("override /"): v for k, v in found.items() if k.startswith("override /")}
    return {k: v for k, v in names.items() if not k.startswith("hydra/") and k.split("@")[0] not in PLACES}


def _plain(value: Any) -> Any:
    """A value of Hydra's parser as yaml has it."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return value
