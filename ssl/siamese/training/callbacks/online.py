"""Online evaluation: metrics while a run trains. Labels stay on its side of a stop-gradient."""

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from siamese import progress
from siamese.distributed import gather, rank
from siamese.errors import RunAborted
from siamese.methods import Batch, Method
from siamese.probes import metrics, view_features
from siamese.probes.linear import TINY
from siamese.training.probe import RANK_SAMPLES, VIEWS, Probe
from siamese.training.state import EVALUATED, RunState


class OnlineEvaluation(pl.Callback):
    """At the end of every `every` epochs and of the last one: kNN and online linear top-1 on the validation split (kNN
    mAP alone where an image may have several labels), std of the normalised projections, metrics without labels. At the
    end of every epoch it checks for collapse: a warning with the usual causes, or with ``on_collapse="stop"`` the end
    of the run.

    The online probe is a linear layer on batch-standardised, detached features of the augmented views, trained by Adam
    beside the method on the labels of the training split.

    Args:
        probe: the images and how they are judged.
        state: receives the figures, their seconds and the epoch of a collapse.
        every: epochs between two evaluations; 0 is never.
        online_lr: of the online probe's Adam.
        on_collapse: ``warn`` or ``stop``.
    """

    def __init__(self, probe: Probe, state: RunState, every: int, online_lr: float, on_collapse: str = "warn"):
        self.state, self.on_collapse = state, on_collapse
        self.probe, self.every, self.online_lr = probe, every, online_lr
        self.head: nn.Sequential | None = None
        self.optimizer: torch.optim.Adam | None = None
        self.restored: dict[str, Any] | None = None
        self.captured: Tensor | None = None
        self.captured_size = 0  # side of its views

    @property
    def state_key(self) -> str:
        return "Monitor"  # its name in checkpoints since 2026-11

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Method)
        if not self.probe.labelled or self.probe.multilabel or not self.every:
            return
        dim = int(pl_module.backbone.feature_dim)
        with torch.random.fork_rng(devices=[]):  # leave the run's random state as it is
            self.head = nn.Sequential(nn.BatchNorm1d(dim, affine=False), nn.Linear(dim, self.probe.num_classes))
        pl_module.backbone.register_forward_hook(self._capture)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.head is not None:
            self.head.to(pl_module.device)
            self.optimizer = torch.optim.Adam(self.head.parameters(), lr=self.online_lr, fused=True)
            if self.restored is not None:
                self.head.load_state_dict(self.restored["head"])
                self.optimizer.load_state_dict(self.restored["optimizer"])

    def _capture(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        size = inputs[0].shape[-1]
        if module.training and (self.captured is None or size >= self.captured_size):  # not the small views of many
            self.captured, self.captured_size = output.detach().float(), size

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if isinstance(pl_module, Method) and pl_module.projects_features and pl_module.projection is not None:
            self.captured = pl_module.projection.float()
        if self.head is None or self.captured is None:
            return
        assert isinstance(batch, Batch) and self.optimizer is not None
        # A method may pass several views at once. Every rank takes the step of the joint batch.
        labels = gather(batch.labels.repeat(len(self.captured) // len(batch.labels)))
        captured = gather(self.captured).nan_to_num(0, 0, 0)  # a skipped step's would stay in head and statistics
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
        std, effective_rank = metrics.relative_std(z), metrics.rankme(z)
        # Not finite is not collapsed: `NonFiniteGradients` handles it.
        collapsed = math.isfinite(effective_rank) and metrics.collapsed(std, effective_rank)
        due = self.every and (collapsed or epoch % self.every == 0 or epoch == trainer.max_epochs)
        if rank() == 0 and due:
            self.state.figures = {"projection_std": std, "projection_rank": effective_rank, **self.measure(pl_module)}
            for logger in trainer.loggers:
                logger.log_metrics({**self.state.figures, "epoch": epoch}, step=trainer.global_step)
        if due:  # to callbacks that monitor a figure, on all ranks
            shared = trainer.strategy.broadcast(self.state.figures)
            pl_module.log_dict({**shared, EVALUATED: float(epoch)}, logger=False, rank_zero_only=False)
        self.state.probe_seconds += time.perf_counter() - start
        if collapsed:
            self._report_collapse(epoch, pl_module, std, effective_rank)

    def _report_collapse(self, epoch: int, method: Method, std: float, effective_rank: float) -> None:
        text = (
            f"epoch {epoch}: the representation has collapsed (projection_std {std:.3f}, healthy is about 1; "
            f"projection_rank {effective_rank:.1f}); usual causes: {method.collapse_causes}"
        )
        first = self.state.collapsed_at is None
        self.state.collapsed_at = self.state.collapsed_at or epoch
        if self.on_collapse == "stop":
            raise RunAborted(text)
        if first:
            rank_zero_warn(text)

    def names(self) -> list[str]:
        """The figures that `measure` gives."""
        some = torch.eye(4)
        out = ["projection_std", "projection_rank", *metrics.of_features(some)]
        out += metrics.of_views(torch.stack([some, some], 1))
        if self.probe.labelled:
            out += ["knn_map"] if self.probe.multilabel else ["knn_top1", "online_linear_top1"]
        return out

    @progress.muted()
    @torch.no_grad()
    def measure(self, method: Method) -> dict[str, float]:
        """The figures of the features as they are now."""
        features = self.probe.features(method.backbone, method.device)
        out = metrics.of_features(self.probe.rows(features))
        assert method.views is not None
        out |= metrics.of_views(view_features(method.backbone, method.views, self.probe.few, VIEWS, method.device))
        if self.probe.labelled:
            out |= self.probe.knn(features)
        if self.head is not None:
            self.head.eval()
            out["online_linear_top1"] = (
                (self.head(features["val"].x).argmax(1) == features["val"].y).float().mean().item()
            )
            self.head.train()
        return out

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"collapsed_at": self.state.collapsed_at}
        if self.head is not None and self.optimizer is not None:
            state |= {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state.collapsed_at = state_dict["collapsed_at"]
        self.restored = state_dict if "head" in state_dict else None
