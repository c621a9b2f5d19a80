"""to=safetensors: the tensors and the config of any backbone."""

from pathlib import Path

from omegaconf import OmegaConf

from siamese import factory
from siamese.backbones import Backbone
from siamese.config import to_dict
from siamese.handoff.export.base import (
    ExportFormat,
    origin,
    preprocessing,
    without_paths,
    write_config,
    write_safetensors,
)
from siamese.handoff.network import Trained


class SafetensorsFile(ExportFormat):
    """model.safetensors, whose names are the backbone's own, and config.json with the nodes `backbone`, `data` and
    `augment` of the training, without paths."""

    name = "safetensors"

    def write(self, trained: Trained, folder: Path) -> list[str]:
        write_safetensors(trained, folder)
        nodes = {key: to_dict(trained.cfg)[key] for key in ("backbone", "data", "augment")}
        if "pretrained" in nodes["backbone"]:
            nodes["backbone"]["pretrained"] = False  # the file has the weights
        nodes["data"] = without_paths(nodes["data"])
        write_config(
            folder,
            {"library": "siamese-ssl", "preprocessing": preprocessing(trained), **nodes, "origin": origin(trained)},
        )
        return []

    def load(self, folder: Path) -> Backbone:
        from safetensors.torch import load_file

        made = factory.backbone(OmegaConf.load(folder / "config.json"))  # type: ignore[arg-type] # JSON is YAML
        made.load_state_dict(load_file(folder / "model.safetensors"))
        return made.eval()

    def line(self, folder: Path) -> str:
        return f'state = safetensors.torch.load_file("{folder / "model.safetensors"}")'
