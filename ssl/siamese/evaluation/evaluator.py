"""eval_linear.py: the one place that uses the test split, which chooses nothing.

`results.json`, schema 2:

| key | content |
|---|---|
| schema | 2 |
| ckpt, ckpt_sha256, format | the checkpoint, and whose layout it has |
| recipe | a digest of the pretraining's config, equal if only the seed differs; of the file for a third-party one |
| method, backbone, epochs, seed | of the pretraining, as far as it went; epochs is null for a third-party file |
| data | the data set that is judged first: the pretraining's unless `data=` chooses another |
| protocols | for each protocol a description and its settings |
| supervised | of `eval.supervised`: ckpt, ckpt_sha256, recipe, backbone, epochs, seed; or null |
| results | data set -> {path, images: {fit, val, test}, classes, multilabel, split, view, rows, published} |
| knn_top1, linear_top1 | of the checkpoint on the first data set, if these protocols ran |
| knn_map, logistic_map | in their place where its images may have several labels: macro mAP |
| baselines | row -> protocol -> figures of the first data set, without the checkpoint's own row |
| versions, device, seconds, command | environment, run time and command line |

Rows are `raw_pixels`, `random_init` (the untrained backbone), `supervised` if a checkpoint is given, and the method's
name. Figures: top-1, `map` (macro mean average precision) and `micro_map` are fractions in [0, 1]; `chosen` holds what
a validation split chose, and its figure there; `classes_left_out` counts labels that no test image has, over which
`map` is no mean; {mean, interval95, values} are over seeds, interval95 being half the width of Student's interval.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from siamese import factory, run_dir
from siamese.checkpoints import reading
from siamese.config import to_dict
from siamese.data import DataSet
from siamese.data.duplicates import named_pairs, shared
from siamese.environment import command_line, device_name, versions
from siamese.errors import RunAborted, UserError
from siamese.evaluation.build import Evaluation, build, check
from siamese.evaluation.published import published_figures
from siamese.evaluation.several_labels import takes_one_label
from siamese.evaluation.tables import table
from siamese.evaluation.target import SPLITS, EvalTarget
from siamese.files import write_json
from siamese.output import print_table
from siamese.pages.evaluations import add_to_report, read_evaluation
from siamese.progress import within
from siamese.recipe import recipe_digest

HEADLINES = (("knn", "top1"), ("linear", "top1"), ("knn", "map"), ("logistic", "map"))  # repeated at the top
COMPARED = 100_000  # images of a data set up to which duplicates are looked for; mode=check of train.py always does


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
            for note in (*data.notes, *seen_before(data)):
                say(f"{label}: {note}")
        results = {}
        for label, (data, cfg) in evaluation.data.items():
            prefix = f"{label}: " if len(evaluation.data) > 1 else ""
            results[label] = _on(evaluation, data, cfg, _printer(evaluation.console, prefix))
        out = _results(evaluation, results)
        out |= {"seconds": round(plan.watch(), 2), "command": command_line()}
        write_json(plan.folder / "results.json", out)
        print_table(evaluation.console, table(results, plan.protocols))
        for figure in results[plan.judged.data.name]["published"]:
            say("published: {method}, {epochs} epochs, {protocol}: {top1:g} ({source})".format(**figure))
        if evaluation.cache.found:
            say(f"{evaluation.cache.found} sets of features were found in {evaluation.cache.folder}")
        say(f"results: {plan.folder / 'results.json'}")
        if plan.ours and (told := add_to_run(plan.file, plan.folder)):
            say(told)
        return out


def add_to_run(file: Path, folder: Path) -> str:
    """Add the results to the report of the run whose checkpoint was judged, if it has one.

    Args:
        file: the checkpoint.
        folder: of results.json.

    Returns:
        A line for the user, or nothing where the run has no report.
    """
    run = file.parent.parent
    if file.parent.name != "checkpoints" or not (run / "report.json").is_file():
        return ""
    try:
        found = read_evaluation(folder / "results.json")[1]
        if run.resolve() == folder.resolve():  # its lock is ours already
            add_to_report(run, found)
        else:
            with run_dir.RunDirLock(run, resume="auto", overwrite=False):
                add_to_report(run, found)
    except (UserError, RunAborted) as error:
        return f"not added to the report of the run: {error}"
    return f"added to {run / 'report.html'}"


def seen_before(data: DataSet) -> list[str]:
    """A line that names the test images which are training images too, if there are any."""
    if data.test is None or len(data.pretrain) + len(data.test) > COMPARED:
        return []
    train, test = data.pretrain.images, data.test.images
    pairs = shared(train, test)
    if not pairs:
        return []
    (first,) = named_pairs(train, pairs[:1], test)
    return [f"{len(pairs):,} of {len(data.test):,} test images are training images, too: {first}"]


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
    loading = factory.loader_config(cfg, plan.device, data)
    held = {name: getattr(data, name) for name in SPLITS}
    labelled = data.labelled and data.test is not None
    unable = takes_one_label(plan.protocols, data)
    if unable:
        say(f"{data.name} has several labels an image, which {', '.join(unable)} cannot judge: left out")
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
        wanted = {n: p for n, p in plan.protocols.items()
                  if n not in unable and (row.network is not None or not p.needs_network)}  # fmt: skip
        if wanted:
            figures[row.name] = {}
            for name, protocol in wanted.items():
                with within(f"{data.name}, {row.name}, {name}"):
                    figures[row.name][name] = protocol.evaluate(target)
    seen = factory.clean_view(plan.judged)
    split = {k: cfg.data[k] for k in ("val_fraction", "split_seed") if k in cfg.data}
    first = cfg is plan.judged
    return {
        "path": None if cfg.data.get("path") is None else str(cfg.data.path),
        "images": {key: len(held[name]) for key, name in zip(("fit", "val", "test"), SPLITS, strict=True)
                   if held[name] is not None},
        "classes": data.num_classes,
        "multilabel": data.multilabel,
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
    for key in ("mean", "std", "value_range"):
        cfg.augment[key] = trained.augment[key]
    return factory.views(cfg)


def _results(evaluation: Evaluation, results: dict[str, Any]) -> dict[str, Any]:
    """The content of results.json."""
    plan, trained = evaluation.plan, evaluation.plan.trained
    name, sha256 = trained.method.name, plan.sha256
    first = results[plan.judged.data.name]["rows"]
    ran = {protocol for one in results.values() for figures in one["rows"].values() for protocol in figures}
    return {
        "schema": 2,
        "ckpt": str(plan.file),
        "ckpt_sha256": sha256,
        "recipe": recipe_digest(to_dict(trained)) if plan.ours else sha256[:8],
        "format": plan.kind,
        "method": name,
        "backbone": plan.judged.backbone.name,
        "epochs": reading.epochs_of(plan.state, trained.epochs) if plan.ours else None,
        "seed": trained.seed,
        "data": plan.judged.data.name,
        "supervised": evaluation.supervised,
        "protocols": {
            n: {"what": p.description, "settings": p.settings()} for n, p in plan.protocols.items() if n in ran
        },
        "results": results,
        **{f"{n}_{figure}": first[name][n][figure] for n, figure in HEADLINES if figure in first[name].get(n, {})},
        "baselines": {row: figures for row, figures in first.items() if row != name},
        "versions": versions(),
        "device": device_name(plan.device),
    }
