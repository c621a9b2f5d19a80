"""Linear evaluation of a checkpoint on cached features: the one place that touches the test set."""

import hashlib
import sys
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from siamese import build, checkpoint, foreign, run
from siamese.data import DataSet
from siamese.errors import UserError, check_number
from siamese.evaluation.features import Features, extract, raw_pixels
from siamese.evaluation.knn import knn_accuracy
from siamese.evaluation.linear import LinearGrid
from siamese.memory import channels_last, keep_freed_memory

PROTOCOL = (
    "frozen backbone in eval mode, un-augmented features extracted once; linear: a grid of heads trained on the "
    "training labels without the validation part, the head with the best validation top-1 retrained on all training "
    "labels, test scored once; kNN: cosine, weighted, bank of all training labels; last epoch of the checkpoint"
)


class LinearEvaluation:
    """What `eval_linear.py` does.

    Args:
        cfg: conf/eval_linear.yaml.

    Raises:
        UserError: the checkpoint, the data or a setting cannot work; nothing has been written yet.
    """

    def __init__(self, cfg: DictConfig):
        self.cfg, self.console = cfg, Console()
        if OmegaConf.is_missing(cfg, "ckpt"):
            raise UserError("ckpt=", "no checkpoint was given", "give ckpt=outputs/…/checkpoints/last.ckpt")
        self.file = build.as_path(cfg.ckpt)
        state = checkpoint.read(cfg.ckpt)
        self.ours = checkpoint.is_ours(state)
        self.format = foreign.OURS
        tensors: dict[str, torch.Tensor] = {}
        self.trained: DictConfig
        if self.ours:
            if cfg.foreign:
                raise UserError(f"foreign={cfg.foreign}", "this checkpoint holds its own config", "leave it out")
            self.trained = OmegaConf.create(state[checkpoint.KEY]["config"])
        else:
            self.format, tensors = foreign.recognise(cfg.ckpt, state)
            self.trained = self._described(len(tensors))
        given = {k: v for k, v in cfg.data.items() if v is not None}
        for key in [k for k in given if k not in self.trained.data]:
            raise UserError(
                f"data.{key}={given[key]}", f"data={self.trained.data.name} has no such key", "leave it out"
            )
        self.trained.data.update(given)
        for key in ("k", "temperature"):
            if cfg.eval.knn[key] is None:
                cfg.eval.knn[key] = self.trained.eval.knn[key]
        if cfg.eval.linear.epochs is None:
            cfg.eval.linear.epochs = self.trained.eval.linear.epochs
        check_number("eval.knn.temperature", cfg.eval.knn.temperature, 0, above=True)
        self.device = _device(cfg.device)
        for key, low in (("batch_size", 1), ("eval.knn.k", 1), ("data.workers", 0)):
            check_number(key, OmegaConf.select(cfg, key), low)
        self.grid: LinearGrid = build.make(cfg.eval.linear)
        default = f"outputs/eval_linear/{self.trained.data.name}/{self.trained.method.name}"
        self.folder = run.choose(cfg, default)
        run.check(self.folder, resume=False, overwrite=cfg.overwrite)
        keep_freed_memory()
        self.data: DataSet = build.data_set(self.trained)
        if not self.data.labelled or self.data.test is None or not len(self.data.test):
            raise UserError(f"data={self.data.name}", "has no labels or no test part", "linear evaluation needs both")
        classes = state[checkpoint.KEY]["num_classes"] if self.ours else self.data.num_classes
        if self.data.num_classes != classes:
            raise UserError(
                f"data={self.data.name}",
                f"has {self.data.num_classes} classes now, {classes} when the checkpoint was trained",
                "check data.path",
            )
        pl.seed_everything(self.trained.seed, verbose=False)  # the untrained backbone is the one that was trained
        self.backbone = build.backbone(self.trained)
        self.untrained = build.backbone(self.trained)
        self.untrained.load_state_dict(self.backbone.state_dict())
        if not self.ours:
            foreign.fill(cfg.ckpt, self.format, self.backbone, tensors)
        else:
            self._fill(state)
        for network in (self.backbone, self.untrained):
            channels_last(network).to(self.device).requires_grad_(False).eval()

    def _described(self, tensors: int) -> DictConfig:
        """The config of a run that could have made somebody else's checkpoint, from `foreign`."""
        if not self.cfg.foreign:
            raise UserError(
                f"ckpt={self.cfg.ckpt}",
                f"was not written by train.py ({self.format}, {tensors} tensors of a backbone)",
                "say what it is and on what to judge it, as in foreign=[backbone:resnet50,data:imagenet,data.path:DIR]",
            )
        try:
            described = compose("train", overrides=[str(o).replace(":", "=", 1) for o in self.cfg.foreign])
            OmegaConf.resolve(described)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(
                f"foreign={list(self.cfg.foreign)}", str(error).splitlines()[0], "give settings of train.py"
            ) from error
        OmegaConf.set_struct(described, False)
        described.method.name = "checkpoint"
        return described

    def _fill(self, state: dict[str, Any]) -> None:
        try:
            self.backbone.load_state_dict(checkpoint.backbone_state(state))
        except RuntimeError as error:
            raise UserError(
                f"ckpt={self.cfg.ckpt}", f"does not fit its own backbone ({error})", "use another checkpoint"
            ) from error

    def run(self) -> dict[str, Any]:
        """Extract, choose, score; print the table and write results.json."""
        data, name = self.data, self.trained.method.name
        self.console.print(f"checkpoint: {self.format}", highlight=False, soft_wrap=True)
        loading = build.Loading.of(self.trained, self.device)
        view = build.clean_view(self.trained)
        assert data.test is not None
        parts = {"fit": data.fit, "val": data.val, "test": data.test}
        loaders = {part: loading.loader(p, self.cfg.batch_size, shuffle=False) for part, p in parts.items()}
        rows: dict[str, dict[str, Any]] = {}
        features = {part: raw_pixels(loader, self.device) for part, loader in loaders.items()}
        rows["raw_pixels"] = self._score(features)
        for row, network in (("random_init", self.untrained), (name, self.backbone)):
            features = {part: extract(network, loader, view, self.device) for part, loader in loaders.items()}
            rows[row] = self._score(features)
        results = {
            "schema": 1,
            "ckpt": str(self.file),
            "ckpt_sha256": hashlib.sha256(self.file.read_bytes()).hexdigest(),
            "format": self.format,
            "method": name,
            "data": data.name,
            "backbone": self.trained.backbone.name,
            "epochs": self.trained.epochs if self.ours else None,
            "seed": self.trained.seed,
            "protocol": PROTOCOL,
            "knn": {"k": self.cfg.eval.knn.k, "temperature": self.cfg.eval.knn.temperature},
            "images": {part: len(p) for part, p in parts.items()},
            **rows[name],
            "baselines": {row: rows[row] for row in ("raw_pixels", "random_init")},
            "versions": run.versions(),
            "device": run.device_name(self.device),
            "command": " ".join(["python", *sys.argv]),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        run.write_json(self.folder / "results.json", results)
        self.console.print(self._table(rows, len(data.test)))
        self.console.print(f"results: {self.folder / 'results.json'}", highlight=False, soft_wrap=True)
        return results

    def _score(self, f: dict[str, Features]) -> dict[str, Any]:
        classes, knn = self.data.num_classes, self.cfg.eval.knn
        chosen = self.grid.choose(f["fit"], f["val"], classes)
        whole = Features(torch.cat([f["fit"].x, f["val"].x]), torch.cat([f["fit"].y, f["val"].y]))
        return {
            "knn_top1": knn_accuracy(whole, f["test"], classes, knn.k, knn.temperature),
            "linear_top1": self.grid.score(whole, f["test"], classes, chosen).top1,
            "linear_head": {"lr": chosen.lr, "weight_decay": chosen.weight_decay, "validation_top1": chosen.top1},
        }

    def _table(self, rows: dict[str, dict[str, Any]], images: int) -> Table:
        knn = self.cfg.eval.knn
        table = Table(title=f"{self.data.name}: top-1 % on the test part ({images:,} images)", title_justify="left")
        for column in ("features", f"kNN (k {knn.k}, T {knn.temperature})", "linear", "chosen on validation: lr, wd"):
            table.add_column(column, justify="left" if column == "features" else "right")
        for name, row in rows.items():
            head = row["linear_head"]
            table.add_row(
                name,
                f"{100 * row['knn_top1']:.2f}",
                f"{100 * row['linear_top1']:.2f}",
                f"{head['lr']:g}, {head['weight_decay']:g}",
            )
        return table


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={name}", "not known", "choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda", "this machine has no CUDA device", "use device=cpu or device=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
