"""to=torchvision: a state dict of torchvision's own class."""

import io
from pathlib import Path

import torch
from omegaconf import DictConfig

from siamese.backbones import torchvision_resnet
from siamese.handoff.export.base import ExportFormat, Network, origin, preprocessing, state_of, write_config
from siamese.handoff.network import Trained
from siamese.schema.check import locate


class TorchvisionFile(ExportFormat):
    """model.pth, without the classifier, and config.json."""

    name = "torchvision"

    def refusal(self, cfg: DictConfig) -> str:
        if locate("backbone._target_", cfg.backbone._target_) is not torchvision_resnet:
            return "torchvision has no class for this network"
        if cfg.backbone.small_stem:
            return "torchvision's ResNets have no 3x3 stem"
        if cfg.backbone.get("channels", 3) not in (3, "auto"):
            return f"torchvision's ResNets take 3 channels, this one {cfg.backbone.channels}"
        return ""

    def write(self, trained: Trained, folder: Path) -> list[str]:
        stream = io.BytesIO()  # torch reports a full disk as an error of its own
        torch.save(state_of(trained), stream)
        (folder / "model.pth").write_bytes(stream.getvalue())
        write_config(
            folder,
            {"library": "torchvision", "name": trained.cfg.backbone.name, "classifier": None, "num_features":
             trained.backbone.feature_dim, **preprocessing(trained), "origin": origin(trained)},
        )  # fmt: skip
        return []

    def load(self, folder: Path) -> Network:
        import json

        import torchvision

        name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["name"]
        model = torchvision.models.get_model(name, weights=None)
        model.fc = torch.nn.Identity()
        model.load_state_dict(torch.load(folder / "model.pth", weights_only=True))
        return model.eval()

    def line(self, folder: Path) -> str:
        import json

        name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["name"]
        return (
            f'model = torchvision.models.get_model("{name}"); model.fc = torch.nn.Identity(); '
            f'model.load_state_dict(torch.load("{folder / "model.pth"}", weights_only=True))'
        )
