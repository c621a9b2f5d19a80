"""What `eval_linear.py` does: the one place that touches the test set, which chooses nothing.

`results.json`, schema 2:

| key | what |
|---|---|
| schema | 2 |
| ckpt, ckpt_sha256, format | the checkpoint, and whose layout it has |
| recipe | a digest of the pretraining's config, equal where the seed alone differs; of a foreign file itself |
| method, backbone, epochs, seed | of the pretraining; epochs is null for a foreign file |
| data | the data set of the pretraining, the first of `results` |
| protocols | for each protocol what it does, and its settings |
| supervised | of `eval.supervised`: ckpt, ckpt_sha256, recipe, backbone, epochs, seed; or null |
| results | data set -> {path, images: {fit, val, test}, classes, split, view, rows, published} |
| knn_top1, linear_top1 | of the checkpoint on the first data set, where these protocols ran |
| baselines | row -> protocol -> figures of the first data set, without the checkpoint's own row |
| versions, device, seconds, command | what it ran on, how long, and how |

Rows are `raw_pixels`, `random_init` (the backbone as it was before training), `supervised` where a checkpoint is
given, and the method's name. Figures: top-1 is a fraction in [0, 1]; `chosen` holds what a validation part chose,
and its figure there; {mean, interval95, values} are over seeds, interval95 being half the width of Student's interval.
"""

import copy
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table
from torch import nn

from siamese import build, checkpoint, foreign, run
from siamese.data import DataSet
from siamese.errors import UserError, printable
from siamese.evaluation.features import FeatureCache
from siamese.evaluation.finetune import FineTune
from siamese.evaluation.knn import knn_grid
from siamese.evaluation.linear import LinearGrid
from siamese.evaluation.linear_crops import LinearCrops
from siamese.evaluation.logistic import Logistic
from siamese.evaluation.lowshot import LowShot
from siamese.evaluation.subject import PARTS, Subject
from siamese.evaluation.unlabelled import Unlabelled
from siamese.memory import channels_last, keep_freed_memory
from siamese.output import console
from siamese.paths import expand_path
from siamese.schema import check_eval, check_train
from siamese.schema.files import trusted
from siamese.schema.groups import CONF

PROTOCOLS = {
    "knn": "un-augmented features; cosine, weighted votes; bank of all training labels; `top1` by the training's k and "
    "temperature, `chosen` by the validation part",
    "linear": "un-augmented features, extracted once; a grid of heads trained on the training labels without the "
    "validation part, the best there trained again on all training labels, test scored once",
    "logistic": "as linear, but solved to convergence by L-BFGS for a range of L2 strengths",
    "linear_crops": "frozen backbone in eval mode, random resized crops and flips, a forward pass an epoch; chosen on "
    "the validation part by heads that do not learn from it, test scored once by the chosen one's twin, which learns "
    "from all training labels",
    "lowshot": "few labels, each class alike, over seeds; linear, and fine-tuned: the whole network with BatchNorm in "
    "train mode; both settings chosen by cross-validation within the few labels, for each row alike, the middle of the "
    "lists where no class has two; with chosen_by=validation_part the fine-tuning's by more labels than the few",
    "finetune": "the whole network on all training labels, random resized crops and flips; with several rates the best "
    "on the validation part",
    "unlabelled": "backbone features of training images, no labels",
}
WITHOUT_NETWORK = ("knn", "linear", "logistic", "lowshot")  # what raw pixels can be judged by


class Evaluation:
    """What `eval_linear.py` does.

    Args:
        cfg: conf/eval_linear.yaml.

    Raises:
        UserError: the checkpoint, the data or a setting cannot work; nothing has been written yet.
    """

    def __init__(self, cfg: DictConfig):
        self.cfg, self.console, self.watch = cfg, console(), run.Stopwatch()
        check_eval(cfg)
        self.protocols = _protocols(cfg)
        if HydraConfig.initialized():
            check_used(HydraConfig.get().overrides.task, self.protocols)
        if OmegaConf.is_missing(cfg, "ckpt") or cfg.ckpt is None:
            raise UserError("ckpt=", "no checkpoint was given", "give ckpt=outputs/…/checkpoints/last.ckpt")
        self.file = expand_path(cfg.ckpt, "ckpt")
        state = checkpoint.read(cfg.ckpt)
        self.ours = checkpoint.is_ours(state)
        self.format = foreign.OURS
        tensors: dict[str, torch.Tensor] = {}
        self.trained: DictConfig
        if self.ours:
            if cfg.foreign:
                raise UserError(f"foreign={cfg.foreign}", "this checkpoint holds its own config", "leave it out")
            self.trained = self._trusted(state, f"ckpt={cfg.ckpt}")
        else:
            self.format, tensors = foreign.recognise(cfg.ckpt, state)
            self.trained = self._described(len(tensors))
        given = {k: v for k, v in cfg.data.items() if v is not None}
        for key in [k for k in given if k not in self.trained.data]:
            raise UserError(
                f"data.{key}={given[key]}", f"data={self.trained.data.name} has no such key", "leave it out"
            )
        self.trained.data.update(given)
        self._settings()
        self.device = _device(cfg.device)
        default = f"outputs/eval_linear/{self.trained.data.name}/{self.trained.method.name}"
        self.folder = run.choose(cfg, default)
        run.check(self.folder, resume=None, overwrite=cfg.overwrite)
        keep_freed_memory()
        self.data = {self.trained.data.name: (self._data_set(self.trained), self.trained)}
        known = state[checkpoint.KEY].get("num_classes") if self.ours else 0
        if isinstance(known, bool) or not isinstance(known, int):
            raise UserError(f"ckpt={cfg.ckpt}", "does not say how many classes it knows", "use another checkpoint")
        first = self.data[self.trained.data.name][0]
        if known and first.num_classes != known:
            raise UserError(
                f"data={first.name}",
                f"has {first.num_classes} classes now, {known} when the checkpoint was trained",
                "check data.path",
            )
        for item in cfg.eval.data:
            name, other = self._other_data(str(item))
            self.data[name] = self._data_set(other), other
        pl.seed_everything(self.trained.seed, verbose=False)  # the untrained backbone is the one that was trained
        self.backbone = build.backbone(self.trained)
        self.untrained = build.backbone(self.trained)
        self.untrained.load_state_dict(self.backbone.state_dict())
        if self.ours:
            foreign.fill(cfg.ckpt, self.format, self.backbone, checkpoint.backbone_state(state))
        else:
            own = foreign.recognise(cfg.ckpt, state, keep=self.backbone.state_dict())[1]
            foreign.fill(cfg.ckpt, self.format, self.backbone, own)
        self.networks = [
            ("random_init", self.untrained, self.trained),
            *self._supervised(),
            (self.trained.method.name, self.backbone, self.trained),
        ]
        self.projector = self._projector(state) if self.ours and "unlabelled" in self.protocols else None
        for _, network, _ in self.networks:
            channels_last(network).to(self.device).requires_grad_(False).eval()

    def _settings(self) -> None:
        """Build the protocols' recipes."""
        e = self.cfg.eval
        for key in ("k", "temperature"):
            if e.knn[key] is None:
                e.knn[key] = self.trained.eval.knn[key]
        if e.linear.epochs is None:
            e.linear.epochs = self.trained.eval.linear.epochs
        self.cache = FeatureCache(None if e.cache is None else expand_path(e.cache, "eval.cache"), e.in_memory_mb)
        self.grid: LinearGrid = build.make(e.linear)
        self.logistic: Logistic = build.make(e.logistic)
        self.linear_crops: LinearCrops = build.make(e.linear_crops)
        self.finetune: FineTune = build.make(e.finetune)
        self.lowshot: LowShot = build.make(e.lowshot)
        self.unlabelled: Unlabelled = build.make(e.unlabelled)

    def _trusted(self, state: dict[str, Any], setting: str) -> DictConfig:
        """The config of a checkpoint of ours, which may come from elsewhere: nothing is fetched or packed for its
        sake."""
        trained = trusted(state[checkpoint.KEY]["config"], setting, self.cfg.trust_config)
        if "pretrained" in trained.backbone:
            trained.backbone.pretrained = False  # the file has the weights
        if "download" in trained.data:
            trained.data.download = False
        if "packed" in trained.data:
            trained.data.packed = None
        return trained

    def _described(self, tensors: int) -> DictConfig:
        """The config of a run that could have made somebody else's checkpoint, from `foreign`."""
        if not self.cfg.foreign:
            raise UserError(
                f"ckpt={self.cfg.ckpt}",
                f"was not written by train.py ({self.format}, {tensors} tensors of a backbone)",
                "say what it is and on what to judge it, as in foreign=[backbone:resnet50,data:imagenet,data.path:DIR]",
            )
        described = _composed(f"foreign={list(self.cfg.foreign)}", [str(o) for o in self.cfg.foreign])
        described.method.name = "checkpoint"
        return described

    def _other_data(self, item: str) -> tuple[str, DictConfig]:
        """An entry of eval.data, "name" or "name:path", to a config with this data set and the checkpoint's view."""
        name, _, path = item.partition(":")
        label = item if name in self.data and path else name  # of the results: a second one of a kind has its path
        if label in self.data:
            raise UserError(f"eval.data=[{item}]", "is judged already", "name each data set once")
        other = _composed(f"eval.data=[{item}]", [f"data:{name}", *([f"data.path:{path}"] if path else [])])
        other.data.crop, other.augment = self.trained.data.crop, self.trained.augment
        for key in ("resident", "resident_mb", "workers"):
            other.data[key] = self.cfg.data[key]
        return label, other

    def _data_set(self, cfg: DictConfig) -> DataSet:
        data = build.data_set(cfg)
        if set(self.protocols) != {"unlabelled"} and (not data.labelled or not data.test or not len(data.test)):
            raise UserError(
                f"data={data.name}",
                "has no labels or no test part with labels",
                "these protocols need both; eval=unlabelled does not",
            )
        return data

    def _supervised(self) -> list[tuple[str, Any, DictConfig]]:
        """The row of eval.supervised: a checkpoint of ours with labels, of the same data set and split."""
        file = self.cfg.eval.supervised
        self.supervised: dict[str, Any] | None = None
        if file is None:
            return []
        if self.trained.method.name == "supervised":
            raise UserError(
                f"eval.supervised={file}", "the checkpoint itself is of method=supervised",
                "leave it out, and put two evaluations side by side by compare=",
            )  # fmt: skip
        state = checkpoint.load(file, "eval.supervised")
        cfg = self._trusted(state, f"eval.supervised={file}")
        if cfg.method.name != "supervised" or cfg.data.name != self.trained.data.name:
            raise UserError(
                f"eval.supervised={file}", f"is of method={cfg.method.name} on {cfg.data.name}",
                f"give a checkpoint of method=supervised data={self.trained.data.name}",
            )  # fmt: skip
        # Another split would have shown it the labels that choose here.
        where = (*build.LOADING, "path", "test_path", "download", "packed", "on_error", "_target_")
        ours, theirs = ({k: v for k, v in c.data.items() if k not in where} for c in (self.trained, cfg))
        differs = [f"data.{k}={theirs.get(k)} (here {ours.get(k)})" for k in ours if ours[k] != theirs.get(k)]
        first, found = self.data[self.trained.data.name][0], state[checkpoint.KEY]
        if found.get("num_classes") != first.num_classes or found.get("images", len(first.fit)) != len(first.fit):
            there, here = (found.get("num_classes"), found.get("images")), (first.num_classes, len(first.fit))
            differs.append(f"{there[0]} classes and {there[1]} images (here {here[0]} and {here[1]})")
        if differs:
            raise UserError(
                f"eval.supervised={file}", f"saw other training labels: {', '.join(differs)}",
                "give one that was trained on the same data set and split",
            )  # fmt: skip
        network = build.backbone(cfg)
        foreign.fill(file, foreign.OURS, network, checkpoint.backbone_state(state), "eval.supervised")
        self.supervised = {
            "ckpt": str(file),
            "ckpt_sha256": run.digest_of_file(expand_path(file, "eval.supervised")),
            "recipe": build.recipe_digest(build.plain(cfg)),
            "backbone": cfg.backbone.name,
            "epochs": cfg.epochs,
            "seed": cfg.seed,
        }
        return [("supervised", network, cfg)]

    def _projector(self, state: dict[str, Any]) -> nn.Module | None:
        """The checkpoint's projector."""
        prefix = "projector."
        found = {k.removeprefix(prefix): v for k, v in checkpoint.tensors(state).items() if k.startswith(prefix)}
        if not found:
            return None
        try:
            method = build.method(self.trained, copy.deepcopy(self.backbone), self.data[self.trained.data.name][0])
            projector = cast(nn.Module, method.projector)
            projector.load_state_dict(found)
        except Exception as error:  # a method of the user's own, which is not at hand here; other tensors
            told = printable(str(error))[:200]
            self.console.print(f"the projector is not judged: method={self.trained.method.name} ({told})")
            return None
        return projector.to(self.device).requires_grad_(False).eval()

    def run(self) -> dict[str, Any]:
        """Extract, choose, score; print the tables and write results.json.

        Raises:
            UserError: another process is at work in the run folder.
        """
        with run.Hold(self.folder, resume=None, overwrite=self.cfg.overwrite):
            return self._run()

    def _run(self) -> dict[str, Any]:
        say = lambda text: self.console.print(text, highlight=False, soft_wrap=True)  # noqa: E731
        say(f"checkpoint: {self.format}")
        for data_name, (data, _) in self.data.items():
            for note in data.notes:
                say(f"{data_name}: {note}")
        name = self.trained.method.name
        results = {data_name: self._on(*pair) for data_name, pair in self.data.items()}
        first = results[self.trained.data.name]
        mine = first["rows"][name]
        settings = OmegaConf.to_container(self.cfg.eval, resolve=True)
        assert isinstance(settings, dict)
        sha256 = run.digest_of_file(self.file)
        shared = {k: v for k, v in settings["finetune"].items() if f"finetune.{k}" not in READERS}
        settings["lowshot"] |= {"linear": settings["linear"], "finetune": shared}  # what it takes from others
        out = {
            "schema": 2,
            "ckpt": str(self.file),
            "ckpt_sha256": sha256,
            "recipe": build.recipe_digest(build.plain(self.trained)) if self.ours else sha256[:8],
            "format": self.format,
            "method": name,
            "backbone": self.trained.backbone.name,
            "epochs": self.trained.epochs if self.ours else None,
            "seed": self.trained.seed,
            "data": self.trained.data.name,
            "supervised": self.supervised,
            "protocols": {p: {"what": PROTOCOLS[p], "settings": settings[p]} for p in self.protocols},
            "results": results,
            **{f"{p}_top1": mine[p]["top1"] for p in ("knn", "linear") if p in mine},
            "baselines": {row: figures for row, figures in first["rows"].items() if row != name},
            "versions": run.versions(),
            "device": run.device_name(self.device),
            "seconds": round(self.watch(), 2),
            "command": shlex.join(["python", *sys.argv]),
        }
        run.write_json(self.folder / "results.json", out)
        self.console.print(table(results))
        for figure in first["published"]:
            say("published: {method}, {epochs} epochs, {protocol}: {top1:g} ({source})".format(**figure))
        if self.cache.found:
            say(f"{self.cache.found} sets of features were found in {self.cache.folder}")
        say(f"results: {self.folder / 'results.json'}")
        return out

    def _on(self, data: DataSet, cfg: DictConfig) -> dict[str, Any]:
        """All rows on one data set."""
        loading = build.Loading.of(cfg, self.device)
        held = {part: getattr(data, part) for part in PARTS}
        labelled = data.labelled and data.test is not None
        loaders = {p: loading.loader(held[p], self.cfg.batch_size, shuffle=False) for p in PARTS} if labelled else {}
        common = {"data": data, "loading": loading, "loaders": loaders, "batch_size": self.cfg.batch_size}
        rows: dict[str, dict[str, Any]] = {}
        for name, network, trained in [("raw_pixels", None, self.trained), *self.networks]:
            view = build.clean_view(trained)
            view.center = cfg.data.center
            subject = Subject(
                name, network, view.to(self.device), build.plain(trained.augment), cache=self.cache,
                projector=self.projector if network is self.backbone else None, **common,
            )  # fmt: skip
            wanted = [p for p in self.protocols if network is not None or p in WITHOUT_NETWORK]
            if wanted:
                rows[name] = {p: getattr(self, f"_{p}")(subject) for p in wanted}
        published: Any = OmegaConf.to_container(OmegaConf.load(CONF / "published.yaml"))
        mine = {"data": data.name, "backbone": published_name(self.trained.backbone)}
        seen = build.clean_view(self.trained)
        split = {k: cfg.data[k] for k in ("val_fraction", "split_seed") if k in cfg.data}
        return {
            "path": None if cfg.data.get("path") is None else str(cfg.data.path),
            "images": {part: len(p) for part, p in held.items() if p is not None},
            "classes": data.num_classes,
            "split": {"val": "as published"} if data.published_val else split,
            "view": {
                "size": seen.size,
                "center": cfg.data.center,
                "interpolation": seen.interpolation,
                **{k: [round(v, 6) for v in getattr(seen, k).tolist()] for k in ("mean", "std")},
            },
            "rows": rows,
            "published": [f for f in published["figures"] if {k: f[k] for k in mine} == mine and cfg is self.trained],
        }

    # One method a protocol, by its name.

    def _knn(self, subject: Subject) -> dict[str, Any]:
        e, classes = self.cfg.eval.knn, subject.data.num_classes
        bank, whole, test = subject.features("fit"), subject.whole(), subject.features("test")
        if max([e.k, *e.ks]) > len(whole) and subject.name == "raw_pixels":
            self.console.print(
                f"kNN: every k above {len(whole)}, the labelled images, is {len(whole)}", highlight=False
            )
        ks = sorted({min(k, len(whole)) for k in (e.k, *e.ks)})
        temperatures = sorted({e.temperature, *e.temperatures})
        val = subject.features("val")
        right = (knn_grid(whole, test, classes, ks, temperatures) == test.y.to(test.at)).float().mean(2)
        held_out = (knn_grid(bank, val, classes, ks, temperatures) == val.y.to(val.at)).float().mean(2)
        i, j = divmod(int(held_out.argmax()), len(temperatures))
        main = right[ks.index(min(e.k, len(whole))), temperatures.index(e.temperature)].item()
        return {
            "top1": main,
            "k": min(e.k, len(whole)),
            "temperature": e.temperature,
            "chosen": {"k": ks[i], "temperature": temperatures[j], "validation_top1": held_out[i, j].item(),
                       "top1": right[i, j].item()},
            "grid": [{"k": k, "temperature": t, "top1": right[a, b].item()}
                     for a, k in enumerate(ks) for b, t in enumerate(temperatures)],
        }  # fmt: skip

    def _linear(self, subject: Subject) -> dict[str, Any]:
        classes = subject.data.num_classes
        chosen = self.grid.choose(subject.features("fit"), subject.features("val"), classes)
        final = self.grid.score(subject.whole(), subject.features("test"), classes, chosen)
        return {
            "top1": final.top1,
            "chosen": {"lr": chosen.lr, "weight_decay": chosen.weight_decay, "validation_top1": chosen.top1},
            "heads": len(self.grid.settings()),
            "epochs": self.grid.epochs,
        }

    def _logistic(self, subject: Subject) -> dict[str, Any]:
        parts = subject.features("fit"), subject.features("val"), subject.whole(), subject.features("test")
        return self.logistic.evaluate(*parts, subject.data.num_classes)

    def _linear_crops(self, subject: Subject) -> dict[str, Any]:
        return self.linear_crops.evaluate(subject)

    def _finetune(self, subject: Subject) -> dict[str, Any]:
        return self.finetune.evaluate(subject)

    def _lowshot(self, subject: Subject) -> dict[str, Any]:
        found = self.lowshot.evaluate(subject, self.grid, self.finetune)
        way = {"raw_pixels": "linear", "random_init": "finetuned"}.get(subject.name, "")  # once: true of every row
        for line in self.lowshot.remarks(found, way, self.finetune):
            self.console.print(line, highlight=False, soft_wrap=True)
        return found

    def _unlabelled(self, subject: Subject) -> dict[str, Any]:
        cfg = self.trained.copy()
        cfg.augment.compiled = False
        cfg.augment.mean, cfg.augment.std = subject.augment["mean"], subject.augment["std"]  # the supervised row's own
        return self.unlabelled.evaluate(subject, subject.data.pretrain, build.views(cfg))


def published_name(backbone: Any) -> str:
    """The option of conf/backbone that builds the network of a run's `backbone` node, as conf/published.yaml names it;
    with another stem it is another network. A network without an option has a name that occurs nowhere."""
    name = str(backbone.name)
    if str(backbone.get("_target_")).endswith(".lightly_resnet"):
        return "lightly" if name == "resnet-18" else f"lightly {name}"
    if not backbone.get("small_stem"):
        return name
    padding = backbone.get("stem_padding")
    return name + {None: "_small", 1: "_small", 2: "_solo_learn"}.get(padding, f" padded by {padding}")


def table(results: dict[str, dict[str, Any]]) -> Table:
    """`results` of results.json; a line a figure, a column a kind of features."""
    names = list(dict.fromkeys(name for one in results.values() for name in one["rows"]))
    out = Table(title="top-1 % on the test part", title_justify="left")
    out.add_column("data")
    out.add_column("protocol", overflow="fold")
    for name in names:
        out.add_column(name, justify="right")
    for data_name, one in results.items():
        columns = {name: cells(figures) for name, figures in one["rows"].items()}
        for line in dict.fromkeys(line for column in columns.values() for line in column):
            out.add_row(data_name, line, *(columns.get(name, {}).get(line, "-") for name in names))
        out.add_section()
    return out


def cells(figures: dict[str, Any]) -> dict[str, str]:
    """protocol -> figures, of one kind of features, to line of the table -> what it shows."""
    out: dict[str, str] = {}
    for protocol, figure in figures.items():
        if protocol == "unlabelled":
            out |= {f"{k}, no labels": f"{v:.3f}" for k, v in figure.items() if isinstance(v, float)}
        elif protocol == "lowshot":
            for share, ways in figure.items():
                for way in ("linear", "finetuned"):
                    if way in ways:
                        half = ways[way]["interval95"]
                        spread = "" if half is None else f" ± {100 * half:.2f}"
                        out[f"{share} of the labels, {way}"] = f"{100 * ways[way]['mean']:.2f}{spread}"
        else:
            line = f"kNN (k {figure['k']}, T {figure['temperature']})" if protocol == "knn" else protocol
            out[line] = f"{100 * figure['top1']:.2f}" + ("" if figure.get("converged", True) else " (not converged)")
    return out


def _protocols(cfg: DictConfig) -> list[str]:
    wanted = [str(p) for p in cfg.eval.protocols]
    unknown = [p for p in wanted if p not in PROTOCOLS]
    if unknown:
        raise UserError(
            f"eval.protocols={wanted}",
            f"{', '.join(unknown)}: no such protocol",
            f"choose of {', '.join(PROTOCOLS)}, or eval=all",
        )
    return wanted


# A node of `eval` -> the protocols that read it.
READERS = {p: {p} for p in PROTOCOLS} | {
    "linear": {"linear", "lowshot"}, "finetune": {"finetune", "lowshot"},
    **{f"finetune.{key}": {"finetune"} for key in ("lrs", "epochs", "seed")},  # few labels have their own
}  # fmt: skip


def check_used(overrides: Sequence[str], protocols: Sequence[str]) -> None:
    """Refuse settings of a protocol that is not run: they would do nothing."""
    for given in overrides:
        node = re.match(r"[+~]*eval[./]((\w+)(?:\.\w+)?)[.=]", given)
        if node is None:
            continue
        key, name = node.groups()
        if not READERS.get(key, READERS.get(name, set(protocols))) & set(protocols):
            raise UserError(
                given, f"{name} is not run, but {', '.join(protocols)}",
                f"add eval={name}, or eval.protocols=[{','.join([*protocols, name])}]",
            )  # fmt: skip


def _composed(setting: str, overrides: list[str]) -> DictConfig:
    """The config of train.py with overrides given as key:value."""
    try:
        cfg = compose("train", overrides=[o.replace(":", "=", 1) for o in overrides])
        check_train(cfg)
        OmegaConf.resolve(cfg)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a group named by a number
        raise UserError(setting, str(error).splitlines()[0], "give settings of train.py") from error
    except UserError as error:
        raise UserError(setting, f"{error.setting}: {error.problem}", error.remedy) from error
    OmegaConf.set_struct(cfg, False)
    return cfg


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda", "this machine has no CUDA device", "use device=cpu or device=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
