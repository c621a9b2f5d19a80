"""eval_linear.py: the one place that uses the test split, which chooses nothing.

`results.json`, schema 2:

| key | content |
|---|---|
| schema | 2 |
| ckpt, ckpt_sha256, format | the checkpoint, and whose layout it has |
| recipe | a digest of the pretraining's config, equal if only the seed differs; of the file for a third-party one |
| method, backbone, epochs, seed | of the pretraining; epochs is null for a third-party file |
| data | the data set that is judged first: the pretraining's unless `data=` chooses another |
| protocols | for each protocol a description and its settings |
| supervised | of `eval.supervised`: ckpt, ckpt_sha256, recipe, backbone, epochs, seed; or null |
| results | data set -> {path, images: {fit, val, test}, classes, split, view, rows, published} |
| knn_top1, linear_top1 | of the checkpoint on the first data set, if these protocols ran |
| baselines | row -> protocol -> figures of the first data set, without the checkpoint's own row |
| versions, device, seconds, command | environment, run time and command line |

Rows are `raw_pixels`, `random_init` (the untrained backbone), `supervised` if a checkpoint is given, and the method's
name. Figures: top-1 is a fraction in [0, 1]; `chosen` holds what a validation split chose, and its figure there;
{mean, interval95, values} are over seeds, interval95 being half the width of Student's interval.
"""

import functools
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from siamese import factory, run_dir
from siamese.config import to_dict
from siamese.data import DataSet
from siamese.environment import device_name, versions
from siamese.evaluation.build import Evaluation, build, check
from siamese.evaluation.published import published_figures
from siamese.evaluation.tables import table
from siamese.evaluation.target import SPLITS, EvalTarget
from siamese.files import digest_of_file, write_json
from siamese.recipe import recipe_digest


def evaluate(cfg: DictConfig, overrides: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate a checkpoint: check, build, run. Returns the content of results.json.

    Args:
        cfg: conf/eval_linear.yaml.
        overrides: the command line's; None asks Hydra.
    """
    return run(build(check(cfg, overrides)))


def run(evaluation: Evaluation) -> dict[str, Any]:
    """Extract, choose, score; print the table and write results.json.

    Raises:
        UserError: the run folder is in use by another process.
    """
    plan = evaluation.plan
    with run_dir.RunDirLock(plan.folder, resume=None, overwrite=plan.cfg.overwrite):
        say = _printer(evaluation.console)
        say(f"checkpoint: {plan.kind}")
        for label, (data, _) in evaluation.data.items():
            for note in data.notes:
                say(f"{label}: {note}")
        results = {}
        for label, (data, cfg) in evaluation.data.items():
            prefix = f"{label}: " if len(evaluation.data) > 1 else ""
            results[label] = _on(evaluation, data, cfg, _printer(evaluation.console, prefix))
        out = _results(evaluation, results)
        out |= {"seconds": round(plan.watch(), 2), "command": shlex.join(["python", *sys.argv])}
        write_json(plan.folder / "results.json", out)
        evaluation.console.print(table(results, plan.protocols))
        for figure in results[plan.judged.data.name]["published"]:
            say("published: {method}, {epochs} epochs, {protocol}: {top1:g} ({source})".format(**figure))
        if evaluation.cache.found:
            say(f"{evaluation.cache.found} sets of features were found in {evaluation.cache.folder}")
        say(f"results: {plan.folder / 'results.json'}")
        return out


def _printer(console: Console, prefix: str = "") -> Callable[[str], None]:
    """Prints each line once."""
    printed: set[str] = set()

    def say(line: str) -> None:
        if line not in printed:
            printed.add(line)
            console.print(f"{prefix}{line}", soft_wrap=True)

    return say


def _on(evaluation: Evaluation, data: DataSet, cfg: DictConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """An entry of `results`: all rows on one data set."""
    plan = evaluation.plan
    batch_size = plan.cfg.batch_size
    loading = factory.loader_config(cfg, plan.device)
    held = {name: getattr(data, name) for name in SPLITS}
    labelled = data.labelled and data.test is not None
    loaders = {name: loading.loader(held[name], batch_size, shuffle=False) for name in SPLITS} if labelled else {}
    figures: dict[str, dict[str, Any]] = {}
    for row in evaluation.rows:
        view = factory.clean_view(row.trained)
        view.center = cfg.data.center
        own = row.name == plan.trained.method.name
        target = EvalTarget(
            row.name, row.network, view.to(plan.device), to_dict(row.trained.augment),
            functools.partial(_views, plan.judged, row.trained), data, loading, loaders, batch_size,
            evaluation.cache, say, evaluation.projector if own else None,
        )  # fmt: skip
        wanted = {n: p for n, p in plan.protocols.items() if row.network is not None or not p.needs_network}
        if wanted:
            figures[row.name] = {name: protocol.evaluate(target) for name, protocol in wanted.items()}
    seen = factory.clean_view(plan.judged)
    split = {k: cfg.data[k] for k in ("val_fraction", "split_seed") if k in cfg.data}
    first = cfg is plan.judged
    return {
        "path": None if cfg.data.get("path") is None else str(cfg.data.path),
        "images": {key: len(held[name]) for key, name in zip(("fit", "val", "test"), SPLITS, strict=True)
                   if held[name] is not None},
        "classes": data.num_classes,
        "split": {"val": "as published"} if data.published_val else split,
        "view": {
            "size": seen.size,
            "center": cfg.data.center,
            "interpolation": seen.interpolation,
            **{k: [round(v, 6) for v in getattr(seen, k).tolist()] for k in ("mean", "std")},
        },
        "rows": figures,
        "published": published_figures(data.name, plan.judged.backbone) if first else [],
    }  # fmt: skip


def _views(cfg: DictConfig, trained: DictConfig) -> Any:
    """The training's views, with the normalisation of a row's own training."""
    cfg = cfg.copy()
    cfg.augment.compiled = False
    cfg.augment.mean, cfg.augment.std = trained.augment.mean, trained.augment.std
    return factory.views(cfg)


def _results(evaluation: Evaluation, results: dict[str, Any]) -> dict[str, Any]:
    """The content of results.json."""
    plan, trained = evaluation.plan, evaluation.plan.trained
    name, sha256 = trained.method.name, digest_of_file(evaluation.plan.file)
    first = results[plan.judged.data.name]["rows"]
    return {
        "schema": 2,
        "ckpt": str(plan.file),
        "ckpt_sha256": sha256,
        "recipe": recipe_digest(to_dict(trained)) if plan.ours else sha256[:8],
        "format": plan.kind,
        "method": name,
        "backbone": plan.judged.backbone.name,
        "epochs": trained.epochs if plan.ours else None,
        "seed": trained.seed,
        "data": plan.judged.data.name,
        "supervised": evaluation.supervised,
        "protocols": {n: {"what": p.description, "settings": p.settings()} for n, p in plan.protocols.items()},
        "results": results,
        **{f"{n}_top1": first[name][n]["top1"] for n in ("knn", "linear") if n in first[name]},
        "baselines": {row: figures for row, figures in first.items() if row != name},
        "versions": versions(),
        "device": device_name(plan.device),
    }
