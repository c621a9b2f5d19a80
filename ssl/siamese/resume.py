"""Is a training state whole, so that a run goes on exactly or not at all?"""

import re
from typing import Any

import torch
from torch import Tensor

from siamese.checkpoint import KEY
from siamese.errors import UserError
from siamese.methods import Method


def check_resumable(state: dict[str, Any], method: Method, setting: str) -> None:
    """Refuse a training state that lacks a part.

    Args:
        state: the content of a checkpoint of ours.
        method: what is to be trained on, before Lightning has it.

    Raises:
        UserError: names `setting` and the parts.
    """
    own, found, meta = method.state_dict(), state["state_dict"], state[KEY]
    tensors = sorted(str(k) for k in {*own, *found} if k not in own or k not in found or not _alike(own[k], found[k]))
    step, random = state.get("global_step"), meta.get("random")
    parts = {
        f"{len(tensors)} tensors ({', '.join(tensors[:3])})": not tensors,
        "global_step": isinstance(step, int) and 0 <= step < 2**53,
        "optimizer_states": _single(state.get("optimizer_states"), "param_groups", "state"),
        "lr_schedulers": _single(state.get("lr_schedulers"), "last_epoch"),
        "callbacks": isinstance(state.get("callbacks"), dict) and bool(state["callbacks"]),
        "pytorch-lightning_version": bool(re.match(r"\d+\.\d+", str(state.get("pytorch-lightning_version")))),
        "random states": _random(random),
        "images": isinstance(meta.get("images", 0), int),
    }
    bad = [name for name, good in parts.items() if not good]
    if bad:
        raise UserError(setting, f"its checkpoint is damaged: {', '.join(bad)}", "start another run, or use init_from=")


def _alike(own: Any, found: Any) -> bool:
    if isinstance(own, Tensor):
        return isinstance(found, Tensor) and own.shape == found.shape and own.dtype == found.dtype
    return isinstance(found, dict)  # the generator of the views


def _single(states: Any, *keys: str) -> bool:
    return isinstance(states, list) and len(states) == 1 and isinstance(states[0], dict) and set(keys) <= set(states[0])


def _random(states: Any) -> bool:
    """A row a process of every generator's state."""
    rows = states.values() if isinstance(states, dict) else ()
    whole = all(isinstance(x, Tensor) and x.dtype == torch.uint8 and x.ndim == 2 and x.shape[1] >= 16 for x in rows)
    return whole and isinstance(states, dict) and {"torch", "views"} <= set(states)
