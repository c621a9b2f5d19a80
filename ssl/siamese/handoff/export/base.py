"""What all formats have in common."""

import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

import siamese
from siamese.config import to_dict
from siamese.errors import UserError
from siamese.handoff.network import Trained

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ProofImages:
    """N real images, cropped and resized as the trained network sees them.

    Args:
        name: of their data set.
        normalised: (N, C, S, S), the backbone's input.
        levels: (N, C, S, S), the same as grey levels in the stored range, float32.
    """

    name: str
    normalised: Tensor
    levels: Tensor


class ExportFormat(ABC):
    """A format of `to=`.

    Attributes:
        name: its value.
        extra: the extra of siamese-ssl that it needs, and the packages in it.
    """

    name: str
    extra: tuple[str, tuple[str, ...]] = ("", ())

    def check_installed(self) -> None:
        """Raise UserError if a package is missing."""
        extra, packages = self.extra
        missing = [p for p in packages if importlib.util.find_spec(p) is None]
        if missing:
            remedy = f"pip install 'siamese-ssl[{extra}]'"
            raise UserError(f"to={self.name}", f"needs {', '.join(missing)}, not installed here", remedy)

    def refusal(self, cfg: DictConfig) -> str:
        """Why the format has no place for the backbone of a config, "" if it has."""
        return ""

    @abstractmethod
    def write(self, trained: Trained, folder: Path) -> list[str]:
        """Write all files. Returns lines for the user."""

    @abstractmethod
    def load(self, folder: Path) -> Network:
        """The network as the format's own library reads it from the folder: (B, C, S, S) to (B, D)."""

    @abstractmethod
    def line(self, folder: Path) -> str:
        """Python code that does the same."""

    def inputs(self, images: ProofImages) -> Tensor:
        """What the loaded network takes."""
        return images.normalised


def state_of(trained: Trained) -> dict[str, Tensor]:
    """The backbone's tensors on the CPU, each with its own memory, in the order of its dimensions."""
    return {k: v.detach().cpu().clone().contiguous() for k, v in trained.backbone.state_dict().items()}


def preprocessing(trained: Trained) -> dict[str, Any]:
    """From stored images to the backbone's input, in this order: central square, resize, clip, normalise."""
    view, augment = trained.view, to_dict(trained.cfg)["augment"]
    return {
        "channels": view.channels,
        "center": view.center,  # share of the short side that the square covers
        "size": view.size,
        "interpolation": view.interpolation,
        "value_range": view.value_range,  # of each channel, the values that become 0 and 1
        "mean": augment["mean"],
        "std": augment["std"],
    }


def origin(trained: Trained) -> dict[str, Any]:
    """Where the weights come from, without paths of this machine."""
    about = {k: v for k, v in trained.source.about().items() if k != "ckpt"}
    return {"siamese_version": siamese.__version__, **about, "feature_dim": trained.backbone.feature_dim}


def without_paths(value: Any) -> Any:
    """Plain values in which null stands for every text with a slash: what is published names no folder of this
    machine."""
    if isinstance(value, dict):
        return {k: without_paths(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_paths(v) for v in value]
    return None if isinstance(value, str) and ("/" in value or "\\" in value) else value


def write_config(folder: Path, values: dict[str, Any]) -> None:
    """Write config.json."""
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_safetensors(trained: Trained, folder: Path) -> None:
    """Write model.safetensors, with `origin` as its metadata.

    The bytes are made first, because safetensors reports a full disk as an error of its own.
    """
    from safetensors.torch import save

    metadata = {"format": "pt", **{k: str(v) for k, v in origin(trained).items()}}
    (folder / "model.safetensors").write_bytes(save(state_of(trained), metadata))
