"""The outcomes of runs in any folders: sweeps, parts of one from several machines, single runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from siamese.errors import UserError
from siamese.paths import expand_path
from siamese.schema.saved import check_plain
from siamese.sweep.folder import FILE
from siamese.sweep.outcome import Outcome, read_all

DEPTH = 4  # of runs below a folder
# Keys of a config that make no other setting: place, loading, watching, and what follows from `data`.
PLACES = ("mode", "run_dir", "resume", "overwrite", "report", "compile", "deterministic", "logger", "callbacks",
          "checkpoint", "monitor", "trainer", "probe", "seed", "on_nonfinite", "on_collapse", "augment_scale",
          "augment_recipe")  # fmt: skip
MATTERS = ("trainer.precision", "trainer.accumulate_grad_batches", "trainer.gradient_clip_val",
           "trainer.gradient_clip_algorithm")  # fmt: skip
NAMED = {"method": "method.name", "data": "data.name", "backbone": "backbone.name"}
Config = dict[str, Any]


def outcomes(folders: Sequence[str]) -> list[Outcome]:
    """What became of the runs in the folders. Each run counts once.

    Args:
        folders: of sweeps, of runs, or of several of these.

    Raises:
        UserError: a folder does not exist or holds no run, or a file is damaged.
    """
    found: dict[Path, Outcome] = {}
    single: dict[Path, tuple[Config, Mapping[str, Any]]] = {}
    for given in folders:
        folder = expand_path(given, "siamese.sweep")
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise UserError(given, what, "give folders of sweeps or of runs")
        sweeps = [folder, *_below(folder, "trials")]
        held = 0
        for sweep in sweeps:
            for one in read_all(sweep):
                held += 1
                place = sweep / f"{one.number:02d}"
                run = place if one.run_dir is not None and place.is_dir() else None  # folders may have been moved
                known = (run or Path(one.run_dir or f"{sweep}/{one.number:02d}")).resolve()
                where = one.run_dir if run is None else str(run)
                found[known] = Outcome(one.number, one.overrides, where, one.summary, one.error)
        for run in [folder, *_below(folder, "summary.json")]:
            of_sweep = run.resolve() in found or (run.parent / FILE).is_file()
            if not of_sweep and (run / "config.yaml").is_file() and (run / "summary.json").is_file():
                single[run.resolve()] = _config(run), _summary(run)
                held += 1
        if not held:
            raise UserError(given, "holds no trial and no run that has written a summary", "give other folders")
    described = _described({run: config for run, (config, _) in single.items()})
    runs = [Outcome(len(found) + i, described[run], str(run), _finished(summary), _error(summary))
            for i, (run, (_, summary)) in enumerate(single.items())]  # fmt: skip
    return [*found.values(), *runs]


def _below(folder: Path, name: str) -> list[Path]:
    patterns = ["/".join(["*"] * depth) + f"/{name}" for depth in range(1, DEPTH + 1)]
    return sorted({file.parent for pattern in patterns for file in folder.glob(pattern)})


def _config(run: Path) -> Config:
    file = run / "config.yaml"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(str(file), f"is damaged ({type(error).__name__})", "leave this run out") from error
    if not isinstance(found, dict) or not {"method", "data", "backbone"} <= set(found):
        raise UserError(str(file), "is not the config of a run", "leave this folder out")
    check_plain(found, str(file))
    return found


def _summary(run: Path) -> Mapping[str, Any]:
    file = run / "summary.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(type(found).__name__)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(str(file), f"is damaged ({error})", "leave this run out") from error
    return found


def _finished(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return summary if summary.get("finished") is True else None


def _error(summary: Mapping[str, Any]) -> str | None:
    return None if summary.get("finished") is True else f"not finished: step {summary.get('steps', '?')}"


def _described(configs: Mapping[Path, Config]) -> dict[Path, list[str]]:
    """Settings of single runs as overrides: method, data and backbone, and the keys in which runs with the same ones
    differ."""
    flat = {run: _flat(config) for run, config in configs.items()}
    kinds = {run: tuple(str(values.get(name)) for name in NAMED.values()) for run, values in flat.items()}
    out = {}
    for run, values in flat.items():
        alike = [flat[other] for other, kind in kinds.items() if kind == kinds[run]]
        keys = sorted({k for one in alike for k in one if any(one.get(k) != other.get(k) for other in alike)})
        own = [k for k in keys if k in MATTERS or (k.split(".")[0] not in PLACES and not k.startswith("data.path"))]
        told = [f"{group}={value}" for group, value in zip(NAMED, kinds[run], strict=True)]
        out[run] = [*told, *(f"{k}={values.get(k, '-')}" for k in own), f"seed={values.get('seed')}"]
    return out


def _flat(node: Config, prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in node.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
