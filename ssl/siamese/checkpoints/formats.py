"""Third-party checkpoints: recognised by the names of their tensors; every tensor of the backbone must match."""

import logging
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from siamese.checkpoints import reading
from siamese.errors import UserError

MOCO_V3 = "official MoCo v3"
# Format and the prefix of its backbone's tensors. The first prefix that occurs is taken, so longer ones come
# first. Names: facebookresearch/moco, /moco-v3, /simsiam and /dino, solo-learn, lightly.
FORMATS = (
    ("official MoCo v1 or v2", "module.encoder_q."),
    (MOCO_V3, "module.base_encoder."),
    ("official SimSiam", "module.encoder."),
    ("file of DistributedDataParallel (DINO, Barlow Twins, VICReg)", "module.backbone."),
    ("Lightning file (solo-learn, lightly)", "backbone."),
    ("Lightning file (older solo-learn)", "encoder."),
    ("state dict of a DataParallel module", "module."),
    ("plain state dict (torchvision, timm)", ""),
)
OURS = "train.py's own"
TIMM = "timm:"  # in place of a file
SOLO_LEARN = "of solo-learn"  # has an online classifier beside the backbone
MAE_DECODER = ("mask_token", "decoder_")  # beside the encoder in files of MAE, which have decoder_embed
HEADS = ("fc.", "head.", "head_dist.", "heads.", "classifier.")  # classifiers of the backbone's class; never probed
# lightly's examples build nn.Sequential from a torchvision ResNet's children.
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def recognise(file: str, content: Any, key: str = "ckpt", keep: Collection[str] = ()) -> tuple[str, dict[str, Tensor]]:
    """The format of a loaded file, and the backbone's tensors under the backbone's own names, without heads.

    Args:
        keep: names of the backbone that must not be taken for a head's (timm's ConvNeXt has head.norm) or for numbered
            children (lightly's small ResNet).

    Raises:
        UserError: the file holds no tensors.
    """
    state = content
    wrappers = ("state_dict", "model", "teacher")  # DINO's files hold a student, too; its teacher is judged
    within = next((w for w in wrappers if isinstance(state, dict) and isinstance(state.get(w), dict)), None)
    if within is not None:
        state = state[within]
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
    if within == "teacher" and "student" in content:
        name = "official DINO, the teacher"
    if "decoder_embed.weight" in found:
        name = f"MAE, {name}"
        found = {k: v for k, v in found.items() if not k.startswith(MAE_DECODER)}
    return name, {k: v for k, v in found.items() if k in keep or not k.startswith(HEADS)}


def load_backbone(backbone: nn.Module, file: str, key: str) -> str:
    """Load the backbone of any checkpoint, ours or third-party, or timm's weights into `backbone`. Returns the format,
    and what became of the first layer.

    Args:
        file: a file, or timm:NAME.
        key: the setting that names it.

    Raises:
        UserError: the file is not a checkpoint, or is of another backbone.
    """
    if str(file).startswith(TIMM):
        found = timm_weights(str(file), backbone, key)
        adapted = fill(file, "timm's weights", backbone, found, key)
        return f"timm's weights; {adapted}" if adapted else "timm's weights"
    content = reading.read(file, key)
    if reading.is_ours(content):
        kind, found = OURS, reading.backbone_state(content)
    else:
        kind, found = recognise(file, content, key, backbone.state_dict())
    adapted = fill(file, kind, backbone, found, key)
    return f"{kind}; {adapted}" if adapted else kind


def timm_weights(name: str, backbone: nn.Module, key: str) -> dict[str, Tensor]:
    """The published weights of timm:NAME, from timm's cache or downloaded, for a backbone with the same names. Position
    embeddings are resized to the backbone's images.

    Raises:
        UserError: timm has no such model or weights, or they cannot be had.
    """
    import timm

    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # it tells of each attempt
    model = name.removeprefix(TIMM)
    if not timm.is_model(model):
        near = get_close_matches(model, timm.list_models(), n=3)
        told = f"did you mean {', '.join(TIMM + n for n in near)}?" if near else "see timm.list_pretrained()"
        raise UserError(f"{key}={name}", "timm has no such model", told)
    size: Any = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    options: dict[str, Any] = {} if size is None else {"img_size": tuple(size)}
    try:
        tensors = timm.create_model(model, pretrained=True, **options).state_dict()
    except Exception as error:  # of the network, the hub's client, or other tensors
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{key}={name}", f"its weights cannot be had ({reason})", "check the connection, or give them as a file"
        ) from error
    keep = backbone.state_dict()
    return {k: v for k, v in tensors.items() if k in keep or not k.startswith(HEADS)}


def first_layer(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """The name of the first convolution's weight (O, C, h, w) if the tensors differ in nothing but its number of
    channels C."""
    other = [k for k in own if k in found and found[k].shape != own[k].shape]
    if len(other) != 1 or set(own) != set(found):
        return None
    a, b = own[other[0]].shape, found[other[0]].shape
    return other[0] if len(a) == len(b) == 4 and (a[0], *a[2:]) == (b[0], *b[2:]) else None


def adapted_weight(weight: Tensor, channels: int) -> Tensor:
    """Weights (O, C, h, w) of a convolution for another number of channels, as timm's `adapt_input_conv`: the sum for
    one channel, else repeated, and scaled so that the sum over the channels stays that of C channels of equal values.
    """
    old = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight.repeat(1, -(-channels // old), 1, 1)[:, :channels] * (old / channels)


def fill(file: str, kind: str, backbone: nn.Module, found: dict[str, Tensor], key: str = "ckpt") -> str:
    """Load tensors into the backbone; names, types and shapes must match exactly. A first layer for another number of
    channels is adapted if `backbone.adapt_first_layer` is true.

    Returns:
        What became of the first layer, for the user; "" if it fits.

    Raises:
        UserError: lists what is missing, left over, or of another type or shape; or the tensors fit although they
            come from a different network (solo-learn's small stem, MoCo v3's ViT-Small).
    """
    own, told = backbone.state_dict(), ""
    first = first_layer(own, found)
    if first is not None and getattr(backbone, "adapt_first_layer", False):
        old, new = found[first].shape[1], own[first].shape[1]
        found = {**found, first: adapted_weight(found[first].float(), new)}
        told = f"first layer {first}: weights of {old} channels {'summed' if new == 1 else 'repeated'} for {new}"
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
        where = "backbone@method.teacher.backbone" if key.startswith("method.teacher.") else "backbone"
        told = "; ".join(
            f"{len(names)} {what}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
            for what, names in wrong.items()
            if names
        )
        raise UserError(
            f"{key}={file}", f"({kind}, {len(found)} tensors) does not fit the backbone: {told}",
            _adapting(own[first].shape[1])
            if first is not None
            else f"leave {where}= out, or give the one it was trained with" if kind == OURS
            else f"name the right one, as in {where}={like}",
        )  # fmt: skip
    trap = _another_network(kind, backbone)
    if trap is not None:
        problem, setting, value = trap
        raise UserError(f"{key}={file}", f"({kind}): {problem}", f"add {setting}={value}")
    backbone.load_state_dict(found)
    return told


def _adapting(channels: int) -> str:
    """The remedy for a first layer of another number of channels than the images have."""
    repeated = "data.channels=3 to repeat grey images, or " if channels == 1 else ""
    return f"add {repeated}backbone.adapt_first_layer=true to sum or repeat the layer's channels"


def _like(found: Tensor, own: Tensor) -> bool:
    """Whether both are plain tensors of one kind of number; the precision may differ."""
    plain = found.layout == torch.strided and found.device.type == "cpu" and not found.is_quantized
    return plain and found.is_floating_point() == own.is_floating_point() and not found.is_complex()


def _another_network(kind: str, backbone: nn.Module) -> tuple[str, str, int] | None:
    """(problem, setting, value) if the tensors fit this network but come from one with other features, else None."""
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
            setting = getattr(backbone, "heads_setting", "+backbone.options.num_heads")
            return f"its ViT-Small has 12 heads, this backbone {heads}", setting, 12
    return None
