"""The base class of all methods: views of a batch, optimiser, updates after a step."""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from siamese.augment import Views, described
from siamese.backbones import Backbone
from siamese.checkpoints import reading
from siamese.config import make
from siamese.data import to_device
from siamese.distributed import rank
from siamese.errors import RunAborted, UserError
from siamese.optim import OptimizerRecipe, scaled_groups
from siamese.schema.check import arguments, locate
from siamese.schema.saved import trusted
from siamese.schema.types import Count, Name


@dataclass
class Batch:
    """The input of a training step.

    Args:
        views: each (B, C, h, w) float, augmented and normalised.
        labels: (B,) int64, -1 where unknown or held out; or (B, K), a row of 255 there. Online evaluation and the
            methods with `uses_labels` use them, the loss of a self-supervised method never.
    """

    views: list[Tensor]
    labels: Tensor


class Method(pl.LightningModule, ABC):
    """A way to pretrain a backbone. A subclass builds its heads and writes `loss`.

    Args:
        backbone: (B, C, h, w) to (B, D), with ``.feature_dim``. It is kept, exported and probed.
        name: as in `method=`, for reports.
        views: makes the views of a batch; not needed to call `loss`.
        optimizer: how to train; not needed to call `loss`.
        global_batch, steps_per_epoch: images and optimiser steps over all devices, for `optimizer`.
    """

    uses_labels = False  # `loss` takes (views, labels), and only labelled images are trained on
    num_views: int | None = 2  # that `loss` takes; None is any number
    needs_vit = False  # the backbone must be a Vision Transformer of timm's class
    projects_features = False  # `projection` holds features, and `loss` does not call the backbone as a whole
    # Arguments that may be "auto" -> their values with a convolutional backbone, and with a transformer.
    by_backbone: ClassVar[dict[str, tuple[Any, Any]]] = {}
    collapse_causes = "a learning rate that is too high, or views that have little in common"
    sync_batchnorm = True  # BatchNorm over all devices; MoCo v1 and v2 need it apart

    def __init__(
        self,
        backbone: Backbone,
        name: Name = "",
        views: Views | None = None,
        optimizer: OptimizerRecipe | None = None,
        global_batch: int = 0,
        steps_per_epoch: int = 0,
    ):
        super().__init__()
        self.name = name
        self.backbone = backbone
        self.views = views
        self.optimizer_recipe = optimizer
        self.global_batch, self.steps_per_epoch = global_batch, steps_per_epoch
        self.step = 0  # optimiser steps before this batch
        self.micro_batch = 0  # number of this batch within its optimiser step
        self.step_skipped = False  # an optimiser step was skipped; `drop_step` follows
        self.latest_loss: Tensor | None = None  # detached
        self.projection: Tensor | None = None  # of the last step, detached; monitored
        self.origin: dict[str, Any] | None = None  # config and classes, for checkpoints that Lightning writes

    @abstractmethod
    def loss(self, views: list[Tensor]) -> Tensor:
        """Views, each (B, C, h, w), to a scalar. Reads like the paper's pseudocode. A method with `uses_labels` takes
        (views, labels), the labels (B,) int64, -1 where unknown."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of trainable parameters; ``fixed_lr=True`` excludes a group from the schedule's decay."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def after_step(self, step: int, total_steps: int) -> None:
        """After each optimiser step, with the new weights: targets, queues. `step` counts from 0."""

    def drop_step(self) -> None:
        """Called in place of `after_step` when an optimiser step was skipped."""

    def held_back(self) -> list[nn.Parameter]:
        """Parameters that the optimiser leaves as they are in this step: their gradients are dropped."""
        return []

    @property
    def epoch(self) -> float:
        """Epochs before this batch, with their fraction."""
        return self.step / max(1, self.steps_per_epoch)

    def check_views(self, sizes: list[int]) -> None:
        """Refuse views that `loss` cannot take, before the training starts.

        Args:
            sizes: sides of the views, pixels, in their order.
        """
        takes = len(sizes) if self.num_views is None else self.num_views
        if len(sizes) != takes or len(set(sizes)) > 1:
            wanted = f"{takes} view{'s' if takes > 1 else ''}" if len(sizes) != takes else "views"
            raise UserError(
                f"augment.views={described(sizes)}", f"method={self.name} takes {wanted} of one size",
                f"give augment.views=[{','.join(['{}'] * takes)}]",
            )  # fmt: skip

    def check(self, global_batch: int, micro_batch: int) -> None:
        """Refuse a combination of settings that cannot work, before the training starts.

        Args:
            global_batch: images of an optimiser step.
            micro_batch: images that a device sees at once.
        """

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = None, trust: bool = False
    ) -> "Method":
        """The method with its weights, of a checkpoint of train.py, or of Lightning with `siamese.ImageData`. No code
        in the file is run. It has no views and no optimiser.

        Args:
            trust: its config may name classes of your own, which are imported.

        Raises:
            UserError: it is missing, of something else, or of another method.
        """
        content, setting = reading.load(checkpoint_path), f"ckpt={checkpoint_path}"
        about = content[reading.KEY]
        cfg = trusted(about["config"], setting, trust)
        for node in filter(None, (cfg.backbone, cfg.method.get("teacher"))):
            if "pretrained" in node:
                node.pretrained = False  # the file has the weights
        target = locate("method._target_", cfg.method._target_)
        if not (isinstance(target, type) and issubclass(target, cls)):
            raise UserError(setting, f"is of {cfg.method._target_}", f"load it by {cfg.method._target_.split('.')[-1]}")
        extra = {"num_classes": about["num_classes"]} if "num_classes" in arguments(target) else {}
        made: Method = make(cfg.method, backbone=make(cfg.backbone), **extra)
        try:
            made.load_state_dict(reading.tensors(content))
        except RuntimeError as error:
            raise UserError(
                setting, f"its tensors do not fit ({str(error).split(chr(10))[0]})", "use another"
            ) from error
        return made.to(map_location) if map_location is not None else made

    # Lightning's hooks. Nothing below synchronises with the device.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.origin is not None:
            checkpoint.setdefault(reading.KEY, self.origin)

    def setup(self, stage: str) -> None:
        if self.views is not None:
            self.views.start(rank())
        if rank():  # for dropout; the weights exist already, from the same seed on every rank
            torch.manual_seed(torch.initial_seed() + rank())

    def compile_networks(self) -> None:
        """Compile every network of the method in place, but for modules with `stays_eager`; state dict and hooks do not
        change."""
        for name, child in self.named_children():
            if name != "views":
                for module in child.modules():
                    if getattr(module, "stays_eager", False):
                        module.forward = torch.compiler.disable(module.forward)
                child.compile()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Images and labels; the aspect ratios stay on the host, where the crops are drawn."""
        images, labels, aspect_ratio = batch
        return to_device(images, device), labels.to(device, non_blocking=True), aspect_ratio

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Images (see `Loader`), labels, aspect ratios to a `Batch` of views."""
        assert self.views is not None
        images, labels, aspect_ratio = batch
        return Batch(self.views(images, aspect_ratio), labels)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.step, self.micro_batch = self.global_step, batch_idx % self.trainer.accumulate_grad_batches

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        arguments = (batch.views, batch.labels) if self.uses_labels else (batch.views,)
        loss = self.loss(*arguments)  # type: ignore[arg-type, call-arg]
        if self.projection is None:
            raise RunAborted(f"method={self.name}: loss() must set self.projection, detached (N, D), for the monitors")
        return self.report(loss, batch)

    def report(self, loss: Tensor, batch: Batch) -> Tensor:
        """Log the loss; it stays on the device."""
        self.latest_loss = loss.detach()
        self.log("loss", self.latest_loss, on_step=True, on_epoch=False, batch_size=len(batch.labels))
        return loss

    def configure_optimizers(self) -> Any:
        assert self.optimizer_recipe is not None and self.trainer.max_epochs is not None
        groups = scaled_groups(self.param_groups(), self.backbone, self.optimizer_recipe.backbone_lr_scale)
        optimizer, schedule = self.optimizer_recipe.build(
            groups, self.global_batch, self.steps_per_epoch, self.trainer.max_epochs
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        # The checkpoint's rate for the next step follows its own number of epochs, which may have grown since.
        schedule = self.lr_schedulers()
        if isinstance(schedule, LambdaLR):
            bases = zip(schedule.base_lrs, schedule.lr_lambdas, schedule.optimizer.param_groups, strict=True)
            for base, factor, group in bases:
                group["lr"] = base * factor(schedule.last_epoch)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for parameter in self.held_back():
            parameter.grad = None

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        # Called once per optimiser step; on_train_batch_end is called once per micro-batch.
        assert self.trainer.max_epochs is not None and self.optimizer_recipe is not None
        step, total_steps = self.global_step, self.trainer.max_epochs * self.steps_per_epoch
        self.optimizer_recipe.set_weight_decay(optimizer, step, total_steps)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.step_skipped:
            self.step_skipped = False
            self.drop_step()
            return
        self.after_step(step, total_steps)


class MultiCrop(Method):
    """A method that takes any number of views: the first `global_views` of one size, the others of any sizes.

    Args:
        global_views: the large views (SwAV, arXiv:2006.09882, section 3.3).
    """

    num_views = None

    def __init__(self, backbone: Backbone, global_views: Count = 2, **base: Any):
        super().__init__(backbone, **base)
        self.global_views = global_views

    def check_views(self, sizes: list[int]) -> None:
        if len(sizes) < max(2, self.global_views) or len(set(sizes[: self.global_views])) > 1:
            raise UserError(
                f"augment.views={described(sizes)}",
                f"method={self.name} takes 2 views or more, the first {self.global_views} of one size",
                f"give augment.views=[{{count:{max(2, self.global_views)}}}], or method.global_views",
            )


def by_size(network: nn.Module, views: list[Tensor]) -> list[Tensor]:
    """The network's output for each view, by one forward pass for each size: BatchNorm sees all views of a size."""
    sizes: dict[int, list[int]] = {}
    for i, view in enumerate(views):
        sizes.setdefault(view.shape[-1], []).append(i)
    out: dict[int, Tensor] = {}
    for members in sizes.values():
        out.update(zip(members, network(torch.cat([views[i] for i in members])).chunk(len(members)), strict=True))
    return [out[i] for i in range(len(views))]


def frozen_copy(*modules: nn.Module) -> nn.Sequential:
    """The start of a target network: a copy in training mode (batch statistics, running statistics of its
    own) whose parameters take no gradient."""
    return nn.Sequential(*copy.deepcopy(modules)).requires_grad_(False)
