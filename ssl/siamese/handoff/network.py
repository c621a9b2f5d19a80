"""A trained backbone with the images that it takes: of any checkpoint, or of timm."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from siamese import factory
from siamese.augment import CleanView
from siamese.backbones import Backbone
from siamese.checkpoints import formats, reading
from siamese.config import to_dict
from siamese.environment import channels_last
from siamese.errors import UserError
from siamese.evaluation import settings
from siamese.evaluation.cache import structure
from siamese.evaluation.customary import IMAGENET
from siamese.files import digest_of_file
from siamese.paths import expand_path
from siamese.recipe import MEASURED_KEYS, recipe_digest
from siamese.schema.types import EIGHT_BITS

TIMM = formats.TIMM


@dataclass(frozen=True)
class Source:
    """A checkpoint that was read, or a model of timm.

    Args:
        ckpt: as given.
        kind: the format.
        trained, judged: configs of the training and of what is asked for now; see `settings.pretraining`.
        state: content of the file, None for timm.
        given: settings of the command line.
        sha256: of the file when it was read, None for timm.
    """

    ckpt: str
    kind: str
    trained: DictConfig
    judged: DictConfig
    state: Any
    given: settings.Given
    sha256: str | None = None

    @property
    def ours(self) -> bool:
        """Whether train.py wrote it."""
        return self.kind == formats.OURS

    def about(self) -> dict[str, Any]:
        """What is known of the training, for cards and reports."""
        out = {"ckpt": self.ckpt, "format": self.kind, "backbone": self.judged.backbone.name}
        if self.sha256 is not None:
            out["ckpt_sha256"] = self.sha256
        if self.ours:
            t = self.trained
            done = reading.epochs_of(self.state, t.epochs)
            out |= {"method": t.method.name, "data": t.data.name, "epochs": done, "seed": t.seed,
                    "batch_size": t.batch_size, "recipe": recipe_digest(to_dict(t))}  # fmt: skip
        return out


@dataclass(frozen=True)
class Trained:
    """A frozen backbone in eval mode.

    Args:
        backbone: (B, C, h, w) normalised images to (B, D).
        view: images as stored, (B, C, H, W), to the backbone's input: central crop, resize, normalise.
        cfg: config with the nodes backbone, data and augment, without ``auto``.
        source: where it comes from.
        told: what became of its first layer, "" if nothing.
    """

    backbone: Backbone
    view: CleanView
    cfg: DictConfig
    source: Source
    told: str = ""

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return int(self.cfg.data.channels)


def read(
    ckpt: str | None, foreign: Sequence[str] = (), trust: bool = False, data: Mapping[str, Any] | None = None,
    images: str | None = None,
) -> Source:  # fmt: skip
    """Read a checkpoint, ours or a third party's, or name a model of timm.

    Args:
        ckpt: FILE, or timm:NAME.
        foreign: settings of train.py's groups data, backbone and augment, as on the command line.
        trust: see `settings.trusted_config`.
        data: keys of the evaluation's own `data`, None values left out; see `settings.update_data`.
        images: the option of `data` whose view a third party's network takes, if none is given; None is train.py's.

    Raises:
        UserError: it is missing, of something else, or the settings do not fit it.
    """
    if ckpt is None:
        raise UserError("ckpt=", "no checkpoint was given", "give ckpt=FILE, or ckpt=timm:NAME")
    cfg = OmegaConf.create(
        {"ckpt": str(ckpt), "foreign": list(foreign), "trust_config": trust, "data": {"path": None, **(data or {})}}
    )
    given = settings.Given(cfg.foreign)
    if str(ckpt).startswith(TIMM):
        judged = of_timm(str(ckpt), given)
        settings.update_data(judged, cfg)
        return Source(str(ckpt), "timm's weights", judged, judged, None, given)
    state = reading.read(ckpt)
    sha256 = digest_of_file(expand_path(ckpt, "ckpt"))
    if images is not None and foreign and not given.chooses("data") and not reading.is_ours(state):
        cfg.foreign = [f"data={images}", *foreign]
    trained, judged, kind = settings.pretraining(cfg, state)
    return Source(str(ckpt), kind, trained, judged, state, given, sha256)


def of_timm(ckpt: str, given: settings.Given) -> DictConfig:
    """The config for timm's published weights: size, interpolation, mean and std are those of their training."""
    import timm

    name = ckpt.removeprefix(TIMM)
    if given.chooses("backbone"):
        raise UserError(ckpt, "names the backbone already", "leave backbone= out")
    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if known is None:
        raise UserError(f"ckpt={ckpt}", "timm has no published weights of this name", "see timm.list_pretrained()")
    own = {
        "channels": known.input_size[0],
        "crop": known.input_size[-1],
        "mean": list(known.mean),
        "std": list(known.std),
    }
    chosen = [] if given.chooses("data") else ["data=folder"]
    sized = [f"data.{key}={value}".replace(" ", "") for key, value in own.items() if not given.has(f"data.{key}")]
    more = ["backbone=timm", f"backbone.name={name}", "backbone.pretrained=true"]
    described = settings.composed(given.setting or f"ckpt={ckpt}", [*more, *chosen, *given.overrides, *sized])
    described.method.name = "timm"
    if known.interpolation in ("bilinear", "bicubic"):
        described.augment.interpolation = known.interpolation
    if not given.has("data.center"):
        described.data.center = float(known.crop_pct or 1)
    return described


def build(source: Source, cfg: DictConfig | None = None, device: torch.device | str = "cpu") -> Trained:
    """The network of a source.

    Args:
        cfg: config with the measured values of the images at hand, from `factory.resolve_images`; None takes those of
            the source, and where they were not measured ImageNet's, by which such files are customarily trained.

    Raises:
        UserError: the tensors do not fit the backbone.
    """
    cfg = without_images(source.judged, source.ckpt) if cfg is None else cfg
    try:
        network = factory.backbone(cfg)
    except UserError as error:
        if source.state is not None:
            raise
        raise UserError(
            f"ckpt={source.ckpt}", f"cannot be had from timm ({error.problem})",
            "give the weights as a file: ckpt=FILE backbone=timm backbone.name=NAME",
        ) from error  # fmt: skip
    told = ""
    if source.state is not None:
        tensors = (
            reading.backbone_state(source.state)
            if source.ours
            else formats.recognise(source.ckpt, source.state, keep=network.state_dict())[1]
        )
        told = formats.fill(source.ckpt, source.kind, network, tensors)
    channels_last(network).to(device).requires_grad_(False).eval()
    view = factory.clean_view(cfg).to(device)
    return Trained(network, view, cfg, source, told)


def without_images(cfg: DictConfig, ckpt: str) -> DictConfig:
    """A copy with ImageNet's customary values in the place of ``auto``, which would be measured."""
    values = {"channels": 3, "value_range": list(EIGHT_BITS), **IMAGENET}
    out = cfg.copy()
    for key in MEASURED_KEYS:
        for node in (n for n in (out.data, out.augment, out.backbone) if n.get(key) == "auto"):
            node[key] = values[key]
    takes = out.backbone.get("channels", 3)
    if len(out.augment.mean) not in (1, takes):
        raise UserError(
            f"ckpt={ckpt}", f"takes {takes} channels, mean and std of {len(out.augment.mean)} are known",
            "give data=folder data.path=FOLDER, whose images are measured, or data.mean=[…] data.std=[…]",
        )  # fmt: skip
    return out


def digest(trained: Trained) -> str:
    """Sixteen hexadecimal digits of network, weights and view."""
    found = hashlib.blake2b(structure(trained.backbone).encode(), digest_size=8)
    for name, tensor in sorted(trained.backbone.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        plain = tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.detach().cpu()
        found.update(plain.numpy().tobytes())
    v = trained.view
    found.update(
        repr(
            (v.size, v.center, v.interpolation, v.mean.tolist(), v.std.tolist(), v.low.tolist(), v.high.tolist())
        ).encode()
    )
    return found.hexdigest()
