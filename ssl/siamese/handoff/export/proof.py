"""Real images through the trained network and through the exported files, and how far the features differ."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from siamese import factory
from siamese.augment import CleanView
from siamese.data import DataSet
from siamese.errors import RunAborted, UserError, printable
from siamese.evaluation.customary import customary
from siamese.files import NO_ROOM
from siamese.handoff.export.base import ExportFormat, Network, ProofImages
from siamese.handoff.network import Source, Trained

TOLERANCE = 1e-5  # of the largest difference, divided by the largest feature if that is above 1
BATCH = 16


@dataclass(frozen=True)
class Proof:
    """How far the exported network is from the trained one.

    Args:
        images: their number, and `name` their data set.
        difference: the largest, absolute.
        largest: feature of the trained network, absolute.
    """

    images: int
    name: str
    difference: float
    largest: float

    @property
    def holds(self) -> bool:
        """Whether the features are equal up to rounding; NaN is not."""
        return self.difference <= TOLERANCE * max(1.0, self.largest)

    def __str__(self) -> str:
        return (
            f"proof: {self.images} images of {self.name}, largest difference {self.difference:.2g} "
            f"of features up to {self.largest:.3g}"
        )


def real_images(source: Source, count: int, shown_on: Console) -> tuple[DictConfig, ProofImages]:
    """The config with what was measured on the images, and `count` training images, a seeded choice.

    Raises:
        UserError: no images are named or they are not there, or they do not fit the network.
    """
    cfg, data = _data_set(source)
    if not source.ours:
        cfg = customary(cfg, source.given, data.pretrain.images, shown_on)
    cfg, told = factory.resolve_images(cfg, data.pretrain)
    if told:
        shown_on.print(f"images: {told}", soft_wrap=True)
    split = data.pretrain.at_most(count)
    view = factory.clean_view(cfg)
    plain = CleanView(
        view.size,
        view.center,
        [0.0] * view.channels,
        [1.0] * view.channels,
        view.interpolation,
        cfg.augment.value_range,
    )
    loading = factory.loader_config(cfg, torch.device("cpu"), data)
    cutter = factory.central_crop(view) if loading.cuts_files(split) else None
    normalised, levels = [], []
    low, high = view.low.view(-1, 1, 1), view.high.view(-1, 1, 1)
    for images, _, aspect_ratio in loading.loader(split, BATCH, shuffle=False, cutter=cutter):
        normalised.append(view(images, aspect_ratio))
        levels.append(plain(images, aspect_ratio) * (high - low) + low)
    return cfg, ProofImages(data.name, torch.cat(normalised), torch.cat(levels))


def _data_set(source: Source) -> tuple[DictConfig, DataSet]:
    cfg, chosen = source.judged, source.given.chooses("data")
    other = "data=NAME, as in data=digits, which comes with scikit-learn"
    if not source.ours and not chosen:
        raise UserError(
            f"ckpt={source.ckpt}", "real images are needed for the proof, and none are named", f"give {other}"
        )
    if source.ours and not source.given.has("data.center"):
        cfg = cfg.copy()
        cfg.data.center = source.trained.data.center  # what the network takes; other images serve the proof
    try:
        return cfg, factory.data_set(cfg)
    except UserError as error:
        if chosen:
            raise
        raise UserError(
            f"data={cfg.data.name}",
            f"real images are needed for the proof, and those of the training "
            f"cannot be read ({error.setting}: {error.problem})",
            f"give data.path=, where they lie now, or {other}",
        ) from error


@torch.no_grad()
def prove(trained: Trained, form: ExportFormat, folder: Path, images: ProofImages) -> Proof:
    """Compare the features of the trained network with those of the files in `folder`, in batches of two sizes.

    Raises:
        RunAborted: the files cannot be loaded, or give other features.
    """
    expected = features(trained.backbone, images.normalised)
    try:
        network = form.load(folder)
        inputs = form.inputs(images)
        found, alone = features(network, inputs), network(inputs[:1])
    except Exception as error:  # libraries raise many kinds
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        reason = printable(str(error))[:200]
        raise RunAborted(
            f"proof: the network that to={form.name} wrote cannot be run ({type(error).__name__}: {reason}); "
            "nothing was kept"
        ) from error
    if found.shape != expected.shape:
        raise RunAborted(
            f"proof: to={form.name} gives features {tuple(found.shape)} for {tuple(expected.shape)}; nothing was kept"
        )
    off = torch.cat([found - expected, alone - expected[:1]]).abs().max()
    proof = Proof(len(expected), images.name, float(off), float(expected.abs().max()))
    if not proof.holds:
        raise RunAborted(f"{proof}: more than rounding ({TOLERANCE:.0e} of it) with to={form.name}; nothing was kept")
    return proof


def features(network: Network, inputs: Tensor) -> Tensor:
    """(N, …) to (N, D) float32, in batches."""
    return torch.cat([network(part).float() for part in inputs.split(BATCH)])
