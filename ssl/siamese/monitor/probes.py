"""The monitor: is it learning, is it healthy? Labels stay on its side of the stop-gradient."""

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from siamese.augment import CleanView
from siamese.data import Loader, some_of
from siamese.distributed import gather, rank
from siamese.errors import Stopped, UserError
from siamese.evaluation import Features, knn_accuracy, view_features
from siamese.evaluation.linear import TINY
from siamese.methods import Batch, Method
from siamese.monitor import health

RANK_SAMPLES = 2048  # rows for RankMe: its singular values cost N * D * min(N, D)
VIEW_IMAGES, VIEWS = 256, 4  # of which alignment and LiDAR are watched


class Probe:
    """Un-augmented features of a fixed choice of images, and what to make of them.

    Args:
        loaders: of the parts `fit` and `val`, or without labels of `any`; the first one is watched for health.
        few: of these images a seeded choice, whose augmented views are watched.
        view: the un-augmented view.
        num_classes: 0 without labels.
        k, temperature: of the kNN.
    """

    def __init__(
        self, loaders: dict[str, Loader], few: Loader, view: CleanView, num_classes: int, k: int, temperature: float
    ):
        self.loaders, self.few, self.view, self.num_classes = loaders, few, view, num_classes
        self.k, self.temperature = k, temperature

    @property
    def labelled(self) -> bool:
        return "val" in self.loaders

    def features(self, backbone: nn.Module, device: torch.device) -> dict[str, Features]:
        """Features of each part."""
        from siamese.evaluation import extract

        return {
            part: extract(backbone, loader, self.view, device, keep_unlabelled=not self.labelled)
            for part, loader in self.loaders.items()
        }

    def rows(self, features: dict[str, Features]) -> Tensor:
        """At most RANK_SAMPLES rows of the first part, the same at every look: not its head, which of sorted classes
        holds a few alone."""
        x = next(iter(features.values())).x
        return x[some_of(len(x), RANK_SAMPLES).to(x.device)]

    def knn(self, features: dict[str, Features]) -> float:
        """Top-1 of the validation part."""
        return knn_accuracy(features["fit"], features["val"], self.num_classes, self.k, self.temperature)


class Monitor(pl.Callback):
    """At the end of every `every` epochs, and of the last: kNN and online linear top-1 on the validation
    part, std of the normalised projections, RankMe of the features. At the end of every epoch: has the
    representation collapsed? Then a warning with the usual causes, or with ``on_collapse="stop"`` the end.

    The online probe is a linear layer on batch-standardised, detached features of the augmented views,
    trained by Adam beside the method on the labels of the training part.
    """

    def __init__(self, probe: Probe, every: int, online_lr: float, on_collapse: str = "warn"):
        if on_collapse not in ("warn", "stop"):
            raise UserError(f"on_collapse={on_collapse}", "not known", "choose warn or stop")
        self.on_collapse = on_collapse
        self.probe, self.every, self.online_lr = probe, every, online_lr
        self.head: nn.Sequential | None = None
        self.optimizer: torch.optim.Adam | None = None
        self.state: dict[str, Any] | None = None
        self.captured: Tensor | None = None
        self.latest: dict[str, float] = {}
        self.collapsed_at: int | None = None
        self.seconds = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Method)
        if not self.probe.labelled or not self.every:
            return
        dim = int(pl_module.backbone.feature_dim)
        with torch.random.fork_rng(devices=[]):  # the monitor draws nothing from the run's randomness
            self.head = nn.Sequential(nn.BatchNorm1d(dim, affine=False), nn.Linear(dim, self.probe.num_classes))
        pl_module.backbone.register_forward_hook(self._capture)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.head is not None:
            self.head.to(pl_module.device)
            self.optimizer = torch.optim.Adam(self.head.parameters(), lr=self.online_lr, fused=True)
            if self.state is not None:
                self.head.load_state_dict(self.state["head"])
                self.optimizer.load_state_dict(self.state["optimizer"])

    def _capture(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if module.training:
            self.captured = output.detach().float()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.head is None or self.captured is None:
            return
        assert isinstance(batch, Batch) and self.optimizer is not None
        # A method may have put several views through at once. Every rank takes the step of the joint batch.
        labels = gather(batch.labels.repeat(len(self.captured) // len(batch.labels)))
        captured = gather(self.captured)
        norm, linear = self.head
        with torch.no_grad(), torch.autocast(self.captured.device.type, enabled=False):
            x = norm(captured)
            # The gradient of the mean cross entropy over the known labels, written out.
            error = linear(x).softmax(1).clamp_(min=TINY).sub_(F.one_hot(labels.clamp(min=0), self.probe.num_classes))
            known = labels >= 0
            error *= (known / known.sum().clamp(min=1)).unsqueeze(1)
            linear.weight.grad, linear.bias.grad = error.T @ x, error.sum(0)
        self.optimizer.step()
        self.captured = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Method)
        epoch = trainer.current_epoch + 1
        assert pl_module.projection is not None
        start = time.perf_counter()
        z = gather(pl_module.projection.float())[:RANK_SAMPLES]  # of a shuffled batch
        std, effective_rank = health.relative_std(z), health.rankme(z)
        # Not finite is not collapsed: `FiniteGradients` has stopped the run or counts the step.
        collapsed = math.isfinite(effective_rank) and health.collapsed(std, effective_rank)
        due = self.every and (collapsed or epoch % self.every == 0 or epoch == trainer.max_epochs)
        if rank() == 0 and due:
            self.latest = {"projection_std": std, "projection_rank": effective_rank, **self.measure(pl_module)}
            for logger in trainer.loggers:
                logger.log_metrics({**self.latest, "epoch": epoch}, step=trainer.global_step)
        self.seconds += time.perf_counter() - start
        if collapsed:
            self._report_collapse(epoch, pl_module, std, effective_rank)

    def _report_collapse(self, epoch: int, method: Method, std: float, effective_rank: float) -> None:
        text = (
            f"epoch {epoch}: the representation has collapsed (projection_std {std:.3f}, healthy is about 1; "
            f"projection_rank {effective_rank:.1f}); usual causes: {method.collapse_causes}"
        )
        first = self.collapsed_at is None
        self.collapsed_at = self.collapsed_at or epoch
        if self.on_collapse == "stop":
            raise Stopped(text)
        if first:
            rank_zero_warn(text)

    @torch.no_grad()
    def measure(self, method: Method) -> dict[str, float]:
        """Figures of the un-augmented features, now."""
        features = self.probe.features(method.backbone, method.device)
        out = health.of_features(self.probe.rows(features))
        assert method.views is not None
        out |= health.of_views(view_features(method.backbone, method.views, self.probe.few, VIEWS, method.device))
        if self.probe.labelled and self.head is not None:
            out["knn_top1"] = self.probe.knn(features)
            self.head.eval()
            out["online_linear_top1"] = (
                (self.head(features["val"].x).argmax(1) == features["val"].y).float().mean().item()
            )
            self.head.train()
        return out

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"collapsed_at": self.collapsed_at}
        if self.head is not None and self.optimizer is not None:
            state |= {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.collapsed_at = state_dict["collapsed_at"]
        self.state = state_dict if "head" in state_dict else None
