"""Checkpoint files of our own: safe loading."""

import argparse
import math
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siamese.errors import UserError
from siamese.paths import expand_path

KEY = "siamese"  # marks a checkpoint of ours: config, class count, run id, random states


def read(file: str | Path, key: str = "ckpt") -> Any:
    """The content of a checkpoint file (`.safetensors` too), tensors on the CPU. No code in the file is run.

    Args:
        key: the setting that names the file, for messages.

    Raises:
        UserError: the file is missing or truncated, or holds anything but tensors and plain values.
    """
    path = expand_path(file, key)
    if not path.is_file():
        near = sorted(path.glob("**/last.ckpt"))[:3] if path.is_dir() else []
        remedy = f"did you mean {', '.join(map(str, near))}?" if near else f"looked at {path.absolute()}"
        raise UserError(f"{key}={file}", "is not a file", remedy)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # in many published files; holds settings, no code
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        if kind is None:
            raise UserError(
                f"{key}={file}", "is not a checkpoint, or holds objects that could run code",
                "only tensors and plain values are loaded",
            ) from error  # fmt: skip
        load = f"torch.load('{file}', weights_only=False)['state_dict']"
        raise UserError(
            f"{key}={file}", f"holds a {kind.group(1)}, and loading such objects could run code",
            f'if you trust it, keep only its tensors: python -c "import torch; torch.save({load}, \'tensors.pt\')"',
        ) from error  # fmt: skip
    except Exception as error:  # damaged bytes make the unpickler raise anything
        raise UserError(
            f"{key}={file}",
            f"cannot be read; it may be truncated, or not a checkpoint ({type(error).__name__}: {str(error)[:100]})",
            "use another checkpoint",
        ) from error


def epochs_of(state: Any, planned: int) -> int:
    """Epochs that a checkpoint of ours has been trained; `planned` if it does not say, or if the training has ended by
    itself (`EarlyStopping`, `Pruning`): seeds of one recipe may end at different epochs."""
    try:
        done = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        ends = [c for c in state["callbacks"].values() if isinstance(c, dict)]
        ended = any(c.get("ended") is True or c.get("wait_count", 0) >= c.get("patience", math.inf) for c in ends)
    except (KeyError, TypeError, AttributeError):
        return planned
    return planned if ended or not isinstance(done, int) else done


def is_ours(content: Any) -> bool:
    """Whether a training run of ours wrote it."""
    meta, tensors = (content.get(KEY), content.get("state_dict")) if isinstance(content, dict) else (None, None)
    return isinstance(meta, dict) and isinstance(meta.get("config"), dict) and isinstance(tensors, dict)


def load(file: str | Path, key: str = "ckpt") -> dict[str, Any]:
    """The content of a checkpoint of ours, tensors on the CPU.

    Raises:
        UserError: as `read`, or the file was not written by train.py.
    """
    state = read(file, key)
    if not is_ours(state):
        raise UserError(
            f"{key}={file}", "was not written by train.py", "give the checkpoints/last.ckpt of a run folder"
        )
    return state  # type: ignore[no-any-return]


def newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint file to resume from and its content: `last.ckpt`; if that is damaged or missing, `previous.ckpt`,
    with a warning that names both.

    Raises:
        UserError: neither can be read.
    """
    last, previous = folder / "last.ckpt", folder / "previous.ckpt"
    try:
        return last, load(last, "resume=true")
    except UserError as error:
        if not previous.is_file():
            raise
        state = load(previous, "resume=true")
        reason = str(error).replace("resume=true=", "", 1)
        warnings.warn(f"{reason.split('; ')[0]}; continued from {previous} instead", stacklevel=2)
        return previous, state


def backbone_state(state: dict[str, Any]) -> dict[str, Tensor]:
    """The backbone's tensors, under the backbone's own names."""
    prefix = "backbone."
    return {k[len(prefix) :]: v for k, v in tensors(state).items() if k.startswith(prefix)}


def tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    """All named tensors of the state dict."""
    return {k: v for k, v in state["state_dict"].items() if isinstance(k, str) and isinstance(v, Tensor)}
