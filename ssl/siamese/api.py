"""For notebooks and scripts: load a checkpoint, pretrain, train by hand with Lightning. `import siamese` has these."""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from siamese import factory, training
from siamese.config import make, to_dict
from siamese.data import DataSet, Loader
from siamese.environment import channels_last
from siamese.errors import UserError
from siamese.handoff import network
from siamese.handoff.transform import Transform
from siamese.methods import Method
from siamese.options import CONF
from siamese.paths import expand_path
from siamese.schema import check_train
from siamese.schema.messages import all_keys, explain
from siamese.training.devices import micro_batch_and_steps, resolve_auto


class Pretrained:
    """A trained backbone, ready for use.

    Attributes:
        backbone: (B, C, h, w) to (B, D), frozen, in eval mode; ``.feature_dim`` is D. For fine-tuning:
            ``backbone.requires_grad_(True).train()``.
        transform: an image (file, PIL, array, tensor) to the (C, h, w) that the backbone takes.
        trained_on: what is known of the training: method, data, epochs, seed, checkpoint, …
        summary: summary.json of the run, {} without one.
        config: the resolved config, plain values.
    """

    def __init__(self, trained: network.Trained, summary: dict[str, Any]):
        self.backbone, self.transform = trained.backbone, Transform(trained.view)
        self.trained_on, self.summary, self.config = trained.source.about(), summary, to_dict(trained.cfg)

    def __repr__(self) -> str:
        told = ", ".join(f"{k}={v}" for k, v in self.trained_on.items() if k in ("method", "data", "epochs", "format"))
        return f"Pretrained({self.trained_on['backbone']}, {self.backbone.feature_dim} features, {told})"


def load(ckpt: str | Path, *settings: str, device: str = "cpu", trust: bool = False) -> Pretrained:
    """A checkpoint's backbone. No code in the file is run. Without ``data=`` the transform of a third party's network
    is ImageNet's: 224 pixels, of the central 0.875, its mean and std.

    Args:
        ckpt: of train.py, of a third party, or timm:NAME.
        settings: as on the command line of `siamese eval`; a third party's file needs its backbone, as in
            ``load("moco_v2_800ep_pretrain.pth.tar", "backbone=resnet50", "data.crop=224")``.
        trust: its config may name classes of your own, which are imported.

    Raises:
        UserError: it is missing, of something else, or the settings do not fit it.
    """
    with hydra():
        trained = network.build(network.read(str(ckpt), list(settings), trust, images="folder"), device=device)
    summary: dict[str, Any] = {}
    if trained.source.ours and (folder := expand_path(ckpt, "ckpt").parent).name == "checkpoints":
        with contextlib.suppress(OSError, ValueError):
            summary = json.loads((folder.parent / "summary.json").read_text(encoding="utf-8"))
    return Pretrained(trained, summary)


def pretrain(
    images: str | Path | None = None, method: str = "simclr", settings: Sequence[str] = (), **more: Any
) -> Pretrained:
    """Pretrain as `siamese train` does, with its run folder.

    Args:
        images: a folder of images; None leaves the data to the settings (digits).
        method: as in `method=`.
        settings: as on the command line, as in ``["backbone=resnet18", "data.crop=96"]``.
        more: top-level settings, as in ``epochs=100, batch_size=128, run_dir="outputs/photos"``.

    Raises:
        UserError: the settings cannot work; nothing has been written.
        RunAborted: the training cannot go on.
    """
    cfg = config(images, method, settings, **more)
    with hydra():
        _, run = training.run(training.build(training.check(cfg)))
    return load(run.folder / "checkpoints" / "last.ckpt", trust=True)


def config(
    images: str | Path | None = None, method: str = "simclr", settings: Sequence[str] = (), **more: Any
) -> DictConfig:
    """The config of a training; arguments as of `pretrain`."""
    chosen = [] if images is None else ["data=folder", f"data.path={_quoted(str(images))}"]
    given = [
        f"{key}={_quoted(value) if isinstance(value, (str, Path)) else _plain(value)}" for key, value in more.items()
    ]
    if isinstance(settings, str):
        raise UserError(f"settings={settings}", "is text", "give a list, as in settings=['backbone=resnet18']")
    overrides = [f"method={method}", *chosen, *map(str, settings), *given]
    with hydra():
        try:
            return compose("train", overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error, overrides, all_keys(compose("train"))) from error


class ImageData(pl.LightningDataModule):
    """Images for Lightning's own `Trainer`, and the method to train on them.

        data = siamese.ImageData("photos", "simclr", ["backbone=small", "data.crop=32"], epochs=10)
        model = data.make_method()
        pl.Trainer(max_epochs=data.epochs, callbacks=[…]).fit(model, data)
        SimCLR.load_from_checkpoint(FILE)

    Lightning's checkpoints of it are read by `load` and `siamese eval`. Only `siamese train` resumes bit by bit.

    Args:
        images, method, settings, more: as of `pretrain`.

    Attributes:
        cfg: the resolved config.
        data: the data set, with its splits.
        views: makes the views of a batch.
        epochs: of the training.
    """

    data: DataSet

    def __init__(
        self, images: str | Path | None = None, method: str = "simclr", settings: Sequence[str] = (), **more: Any
    ):
        super().__init__()
        # The method makes its views after the transfer; a data module changes nothing about that.
        warnings.filterwarnings(
            "ignore", ".*overridden `\\w+` in `LightningModule` but have passed in a `LightningData"
        )
        cfg = config(images, method, settings, **more)
        check_train(cfg)
        cfg = resolve_auto(cfg)
        self.data = factory.data_set(cfg)
        self.split = self.data.train_labeled if factory.uses_labels(cfg) else self.data.pretrain
        cfg, _ = factory.resolve_images(cfg, self.split)
        self.network = factory.backbone(cfg)
        self.cfg = factory.resolve_method(cfg, self.network)
        self.views, self.epochs = factory.views(self.cfg), int(self.cfg.epochs)
        micro_batch_and_steps(self.cfg, 1, len(self.split))  # refuses a batch that the images do not fill
        self.steps_per_epoch = len(self.split) // self.cfg.batch_size

    def make_method(self) -> Method:
        """The method around a new backbone, from the seed of the config."""
        pl.seed_everything(self.cfg.seed, verbose=False)
        base = {"optimizer": make(self.cfg.optimizer), "global_batch": self.cfg.batch_size,
                "steps_per_epoch": self.steps_per_epoch}  # fmt: skip
        made = factory.method(self.cfg, factory.backbone(self.cfg), self.data, views=self.views, **base)
        made.origin = {"config": to_dict(self.cfg), "num_classes": self.data.num_classes, "images": len(self.split),
                       "labels": self.data.labels_digest}  # fmt: skip
        channels_last(made)
        return made

    def train_dataloader(self) -> Loader:
        """Batches of this process's share, on its device where they are resident."""
        if self.trainer is None:
            raise RuntimeError("give it to Trainer.fit(model, data)")
        cfg = self.cfg.copy()
        cfg.trainer.accumulate_grad_batches = self.trainer.accumulate_grad_batches
        micro_batch, steps = micro_batch_and_steps(cfg, self.trainer.world_size, len(self.split))
        device = self.trainer.strategy.root_device
        self.views.prepare(self.epochs * steps * cfg.batch_size, device)
        crops = factory.random_crops(self.views.views, cfg.seed)  # type: ignore[arg-type]
        batches = steps * cfg.trainer.accumulate_grad_batches
        loaders = factory.loader_config(cfg, device, self.data)
        return loaders.loader(self.split, micro_batch, shuffle=True, epoch_batches=batches, cutter=crops)


@contextlib.contextmanager
def hydra() -> Iterator[None]:
    """Where configs can be composed, also outside of `hydra.main`."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def _quoted(text: str | Path) -> str:
    return QuotedString(str(text), Quote.single).with_quotes()


def _plain(value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        raise UserError(f"{value}", "is not a plain value", "give it in settings, as on the command line")
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
