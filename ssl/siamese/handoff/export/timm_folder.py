"""to=timm: a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` takes."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from siamese.backbones import timm_model, torchvision_resnet, vit
from siamese.backbones.vit import patch_side
from siamese.config import to_dict
from siamese.errors import UserError
from siamese.handoff.export.base import ExportFormat, Network, origin, preprocessing, write_config, write_safetensors
from siamese.handoff.network import Trained
from siamese.schema.check import locate

OLDEST = (1, 0, 26)  # timm that reads safetensors from local-dir:, which 1.0.16 to 1.0.25 take for a pickle
# Entry points of timm's VisionTransformer. All other sizes are arguments, too.
VITS = {192: "vit_tiny_patch16_224", 384: "vit_small_patch16_224", 768: "vit_base_patch16_224"}
# Options of `timm.create_model` that say where weights come from, or how the code is compiled.
NOT_OF_THE_MODEL = (
    "checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay", "scriptable", "exportable", "no_jit",
)  # fmt: skip


class TimmFolder(ExportFormat):
    """model.safetensors and config.json in the layout of timm's models on the Hugging Face Hub."""

    name = "timm"

    def check_installed(self) -> None:
        import timm

        if version_of(timm.__version__) < OLDEST:
            least = ".".join(map(str, OLDEST))
            raise UserError(
                f"to={self.name}", f"timm {timm.__version__} cannot load a model from a folder",
                f"pip install 'timm>={least}'",
            )  # fmt: skip

    def refusal(self, cfg: DictConfig) -> str:
        made_by = locate("backbone._target_", cfg.backbone._target_)
        if made_by not in (timm_model, torchvision_resnet, vit):
            return "timm has no class for this network"
        if made_by is torchvision_resnet and cfg.backbone.small_stem:
            return "timm's ResNets have no 3x3 stem without stride"
        return ""

    def write(self, trained: Trained, folder: Path) -> list[str]:
        write_config(folder, config(trained))
        write_safetensors(trained, folder)
        return []

    def load(self, folder: Path) -> Network:
        import timm

        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

    def line(self, folder: Path) -> str:
        return f'model = timm.create_model("local-dir:{folder}", pretrained=True)'


def version_of(text: str) -> tuple[int, ...]:
    """The first three numbers of a version."""
    return tuple(int(n) for n in re.findall(r"\d+", text)[:3])


def config(trained: Trained) -> dict[str, Any]:
    """The content of config.json.

    `pretrained_cfg` holds what timm builds its transforms from. Its mean and std are those of values in [0, 1]; images
    that are not of 8 bits become such by `value_range`, which is in `siamese`.
    """
    import timm

    name, arguments = model_arguments(trained.cfg)
    seen, channels = preprocessing(trained), trained.channels
    known = timm.get_pretrained_cfg(name)
    pool = arguments.get("global_pool", getattr(trained.backbone, "global_pool", None))
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": trained.backbone.feature_dim,
        **({"global_pool": pool} if isinstance(pool, str) else {}),
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {
            "input_size": [channels, seen["size"], seen["size"]],
            "fixed_input_size": bool(known and known.fixed_input_size),
            "interpolation": seen["interpolation"],
            "crop_pct": seen["center"],
            "crop_mode": "center",
            "mean": seen["mean"],
            "std": seen["std"],
            "num_classes": 0,
            # timm before 1.0.31 would adapt a first layer of other than 3 channels from 3, whatever the file has.
            "first_conv": known.first_conv if known and channels == 3 else None,
            "classifier": known.classifier if known else None,
        },
        "siamese": {**origin(trained), "preprocessing": seen},
    }


def model_arguments(cfg: DictConfig) -> tuple[str, dict[str, Any]]:
    """timm's name of a backbone, without a tag, and the arguments of `timm.create_model` that make it."""
    node = to_dict(cfg)["backbone"]
    made_by = locate("backbone._target_", node["_target_"])
    channels = {"in_chans": node["channels"]} if node.get("channels", 3) != 3 else {}
    if made_by is vit:
        side = patch_side(node["image_size"]) if node["patch_size"] == "auto" else node["patch_size"]
        return VITS.get(node["width"], VITS[192]), {
            "img_size": node["image_size"], "patch_size": side, "embed_dim": node["width"], "depth": node["depth"],
            "num_heads": node["heads"], "global_pool": "avg" if node["pool"] == "mean" else "token",
            "fc_norm": False, "dynamic_img_size": True, **channels,
        }  # fmt: skip
    if made_by is torchvision_resnet:
        return node["name"], channels
    import timm

    name = node["name"].split(".")[0]
    options = {k: v for k, v in node["options"].items() if k not in NOT_OF_THE_MODEL}
    known = timm.get_pretrained_cfg(node["name"])
    if known is not None and known.fixed_input_size:
        options.setdefault("img_size", node["image_size"])
    return name, {**channels, **options}
