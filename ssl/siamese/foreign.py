"""Other people's checkpoints: recognised by the names of their tensors, and loaded whole or not at all."""

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from siamese import checkpoint
from siamese.errors import UserError

MOCO_V3 = "official MoCo v3"
# What the file is, how its backbone's tensors begin. The first whose beginning occurs is taken, so the
# longer ones come first. Names: facebookresearch/moco, /moco-v3 and /simsiam, solo-learn, lightly.
FORMATS = (
    ("official MoCo v1 or v2", "module.encoder_q."),
    (MOCO_V3, "module.base_encoder."),
    ("official SimSiam", "module.encoder."),
    ("Lightning file (solo-learn, lightly)", "backbone."),
    ("Lightning file (older solo-learn)", "encoder."),
    ("state dict of a DataParallel module", "module."),
    ("plain state dict (torchvision, timm)", ""),
)
OURS = "train.py's own"
SOLO_LEARN = "of solo-learn"  # has its online classifier beside the backbone
HEADS = ("fc.", "head.", "head_dist.", "heads.", "classifier.")  # of the backbone's own class; never what is probed
# lightly's examples make nn.Sequential of a torchvision ResNet's children.
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def recognise(file: str, content: Any, key: str = "ckpt", keep: Collection[str] = ()) -> tuple[str, dict[str, Tensor]]:
    """A loaded file to (format, the backbone's tensors under the backbone's own names, heads left out).

    Args:
        keep: names that are the backbone's own though they begin like a head's (timm's ConvNeXt has head.norm), or are
            numbered (lightly's small ResNet).

    Raises:
        UserError: there are no tensors in it.
    """
    state = content
    for within in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(within), dict):
            state = state[within]
            break
    named = state.items() if isinstance(state, dict) else ()
    tensors = {k: v for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise UserError(f"{key}={file}", "holds no named tensors", "give a checkpoint or a state dict")
    name, prefix = next((n, p) for n, p in FORMATS if any(k.startswith(p) for k in tensors))
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if all(re.match(r"\d+\.", k) for k in found) and not set(found) & set(keep):
        parts = {k: k.split(".", 1) for k in found}
        found = {f"{CHILDREN.get(parts[k][0], parts[k][0])}.{parts[k][1]}": v for k, v in found.items()}
        name += ", numbered children of a ResNet"
    elif prefix in ("backbone.", "encoder.") and "classifier.weight" in tensors:
        name = f"Lightning file {SOLO_LEARN}" + (", older" if prefix == "encoder." else "")
    return name, {k: v for k, v in found.items() if k in keep or not k.startswith(HEADS)}


def load_backbone(backbone: nn.Module, file: str, key: str) -> str:
    """The backbone of any checkpoint, ours or others', into `backbone`. Returns what the file is.

    Args:
        key: the setting that names the file.

    Raises:
        UserError: no checkpoint, or of another backbone.
    """
    content = checkpoint.read(file, key)
    if checkpoint.is_ours(content):
        kind, found = OURS, checkpoint.backbone_state(content)
    else:
        kind, found = recognise(file, content, key, backbone.state_dict())
    fill(file, kind, backbone, found, key)
    return kind


def fill(file: str, kind: str, backbone: nn.Module, found: dict[str, Tensor], key: str = "ckpt") -> None:
    """Load the tensors into the backbone; every one must have its place, and every place its tensor.

    Raises:
        UserError: lists what is missing, left over, or of another shape; or they fit another network than the
            one that was trained (solo-learn's small stem, MoCo v3's ViT-Small).
    """
    own = backbone.state_dict()
    wrong = {
        "missing": [k for k in own if k not in found],
        "left over": [k for k in found if k not in own],
        "of another type": [f"{k} {found[k].dtype}" for k in own if k in found and not _like(found[k], own[k])],
        "of another shape": [
            f"{k} {tuple(found[k].shape)} for {tuple(own[k].shape)}"
            for k in own
            if k in found and found[k].shape != own[k].shape
        ],
    }
    if any(wrong.values()):
        numbered = "numbered" in kind and any(".shortcut." in k for k in found)
        like = "lightly" if numbered else "resnet50"
        told = "; ".join(
            f"{len(names)} {what}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
            for what, names in wrong.items()
            if names
        )
        raise UserError(
            f"{key}={file}", f"({kind}, {len(found)} tensors) does not fit the backbone: {told}",
            "name the right one, as in " + (f"foreign=[backbone:{like}]" if key == "ckpt" else f"backbone={like}"),
        )  # fmt: skip
    trap = _another_network(kind, backbone)
    if trap is not None:
        problem, setting, value = trap
        add = f"foreign=[…,{setting}:{value}]" if key == "ckpt" else f"{setting}={value}"
        raise UserError(f"{key}={file}", f"({kind}): {problem}", f"add {add}")
    backbone.load_state_dict(found)


def _like(found: Tensor, own: Tensor) -> bool:
    """Plain tensors of numbers of one kind; half precision will do."""
    plain = found.layout == torch.strided and found.device.type == "cpu" and not found.is_quantized
    return plain and found.is_floating_point() == own.is_floating_point() and not found.is_complex()


def _another_network(kind: str, backbone: nn.Module) -> tuple[str, str, int] | None:
    """What differs, the setting and its value, where tensors of one network fit another one whose features differ."""
    # solo-learn, BaseMethod: on CIFAR Conv2d(3, 64, 3, 1, padding=2).
    if SOLO_LEARN in kind and getattr(backbone, "stem_padding", 0) is None:
        return (
            "its 3x3 first convolution pads by 2, backbone=…_small by 1 unless that is said",
            "backbone.stem_padding",
            2,
        )
    # facebookresearch/moco-v3, vits.py: ViT-Small has 12 heads, timm's 6.
    blocks: Any = getattr(backbone, "blocks", None)
    if kind == MOCO_V3 and blocks is not None and getattr(backbone, "embed_dim", 0) == 384:
        heads = blocks[0].attn.num_heads
        if heads != 12:
            return f"its ViT-Small has 12 heads, this backbone {heads}", "+backbone.options.num_heads", 12
    return None
