"""to=hf: timm's folder with a model card, ready to be uploaded to the Hugging Face Hub."""

from pathlib import Path

from omegaconf import DictConfig

from siamese.handoff.export.base import ExportFormat, Network
from siamese.handoff.export.card import card
from siamese.handoff.export.timm_folder import TimmFolder
from siamese.handoff.network import Trained


class HfFolder(ExportFormat):
    """The files of `TimmFolder` and README.md."""

    name = "hf"

    def __init__(self) -> None:
        self.timm = TimmFolder()
        self.timm.name = self.name  # for messages

    def check_installed(self) -> None:
        self.timm.check_installed()

    def refusal(self, cfg: DictConfig) -> str:
        return self.timm.refusal(cfg)

    def write(self, trained: Trained, folder: Path) -> list[str]:
        self.timm.write(trained, folder)
        (folder / "README.md").write_text(card(trained), encoding="utf-8")
        return []

    def load(self, folder: Path) -> Network:
        return self.timm.load(folder)

    def line(self, folder: Path) -> str:
        return self.timm.line(folder)
