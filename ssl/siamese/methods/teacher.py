"""Teachers of `distill`: frozen networks, and the normalisation of their images (`conf/method/teacher`)."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from siamese.augment.views import Scaled
from siamese.backbones import Backbone, timm_model
from siamese.checkpoints import reading
from siamese.checkpoints.formats import fill, load_backbone
from siamese.config import make, to_dict
from siamese.errors import UserError
from siamese.schema.saved import trusted
from siamese.schema.types import EIGHT_BITS, Channels, KnownMean, KnownStd, Name, PathText, Pixels, ValueRange


class Teacher(nn.Module):
    """A frozen network in eval mode.

    Args:
        network: (B, C, h, w) to (B, D).
        mean, std, value_range: as in `siamese.augment.View`, those of the network's own training.
        setting: names it in messages.
    """

    factor: Tensor
    offset: Tensor

    def __init__(self, network: Backbone, mean: KnownMean, std: KnownStd, value_range: ValueRange, setting: str):
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.scale = Scaled(mean, std, value_range)
        self.feature_dim, self.setting, self.converts = network.feature_dim, setting, False

    def train(self, mode: bool = True) -> "Teacher":
        """The network stays in eval mode."""
        return self

    def sees(self, theirs: Scaled) -> None:
        """Let it take images that are normalised as those of `theirs`, the views of the run.

        Raises:
            UserError: the images have another number of channels.
        """
        own = self.scale
        if own.channels != theirs.channels:
            raise UserError(
                self.setting, f"takes {own.channels} channels, the images have {theirs.channels}", "use another teacher"
            )
        span = own.high - own.low
        factor = theirs.std * (theirs.high - theirs.low) / span / own.std
        black = theirs.mean * (theirs.high - theirs.low) / span + (theirs.low - own.low) / span
        self.register_buffer("factor", factor.view(-1, 1, 1), persistent=False)
        self.register_buffer("offset", ((black - own.mean) / own.std).view(-1, 1, 1), persistent=False)
        self.converts = True

    def check_size(self, size: int) -> None:
        """Refuse views that it cannot take.

        Args:
            size: side of the views, pixels.
        """
        try:
            self.network(torch.zeros(1, self.scale.channels, size, size))
        except Exception as error:  # networks raise many kinds
            reason = f"cannot take views of {size} pixels ({error})"
            raise UserError(self.setting, reason, "use another teacher, or another data.crop") from error

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Views (B, C, h, w) of the run to features (B, D)."""
        if self.converts:
            x = x * self.factor + self.offset
        return self.network(x)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _named_as_teachers() -> Iterator[None]:
    """Errors about `backbone.KEY`, which is the student's, name `method.teacher.KEY`."""
    try:
        yield
    except UserError as error:
        if not error.setting.startswith("backbone."):
            raise
        setting = f"method.teacher.{error.setting.removeprefix('backbone.')}"
        raise UserError(setting, error.problem, error.remedy.replace("backbone.", "method.teacher.")) from error


def checkpoint_teacher(file: PathText | None) -> Teacher:
    """The backbone of a checkpoint of train.py.

    Raises:
        UserError: there is no file, or it is of something else.
    """
    setting = f"method.teacher.file={file}"
    if file is None:
        raise UserError(
            "method.teacher.file=null", "distill needs a teacher",
            "give a checkpoint of train.py, or method/teacher=timm, method/teacher=third_party",
        )  # fmt: skip
    content = reading.read(str(file), "method.teacher.file")
    if not reading.is_ours(content):
        raise UserError(setting, "was not written by train.py", "give method/teacher=third_party and its backbone")
    cfg = trusted(content[reading.KEY]["config"], setting, trust=False)
    if "pretrained" in cfg.backbone:
        cfg.backbone.pretrained = False  # the file has the weights
    a = to_dict(cfg.augment)
    if "auto" in (a["mean"], a["std"], a["value_range"]):
        raise UserError(setting, "does not say how its images were normalised", "use a checkpoint of a whole run")
    with _named_as_teachers():
        network = make(cfg.backbone)
        fill(str(file), "train.py's own", network, reading.backbone_state(content), "method.teacher.file")
    return Teacher(network, a["mean"], a["std"], a["value_range"], setting)


def third_party_teacher(
    file: PathText | None, backbone: Backbone, mean: KnownMean, std: KnownStd, value_range: ValueRange = EIGHT_BITS
) -> Teacher:
    """Any checkpoint that `eval_linear.py` reads.

    Args:
        file: the checkpoint.
        backbone: the network that it is of.
        mean, std, value_range: of its training.
    """
    if file is None:
        raise UserError("method.teacher.file=null", "distill needs a teacher", "give a checkpoint")
    load_backbone(backbone, str(file), "method.teacher.file")
    return Teacher(backbone, mean, std, value_range, f"method.teacher.file={file}")


def timm_teacher(
    name: Name, image_size: Pixels, pretrained: bool, options: dict[str, Any], channels: Channels = 3,
    value_range: ValueRange = EIGHT_BITS,
) -> Teacher:  # fmt: skip
    """A model of timm, with timm's published weights (downloaded) or, for a test, without.

    Args:
        name, image_size, pretrained, options, channels: as in `siamese.backbones.timm_model`.
        value_range: the values that are 0 and 1 to it, those of the run.
    """
    with _named_as_teachers():
        network = timm_model(name, image_size, pretrained, options, channels)
    about: Any = getattr(network, "pretrained_cfg", {})
    mean, std = ([float(x) for x in about.get(key, default)] for key, default in (("mean", [0.5]), ("std", [0.5])))
    count = channels if isinstance(channels, int) else 3
    if len(mean) != count:
        mean, std = [sum(mean) / len(mean)] * count, [sum(std) / len(std)] * count
    return Teacher(network, mean, std, value_range, f"method.teacher.name={name}")
