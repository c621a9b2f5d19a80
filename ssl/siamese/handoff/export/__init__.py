"""A trained backbone as the files of another library, proved on real images before the folder appears.

A format is one file with one `ExportFormat`. `proof` compares it with the trained network, `folder` makes the folder.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from siamese.config import to_dict
from siamese.errors import UserError
from siamese.handoff import network
from siamese.handoff.export.base import ExportFormat, preprocessing
from siamese.handoff.export.folder import check_out, new_folder
from siamese.handoff.export.hf import HfFolder
from siamese.handoff.export.onnx_file import OnnxFile
from siamese.handoff.export.proof import prove, real_images
from siamese.handoff.export.safetensors_file import SafetensorsFile
from siamese.handoff.export.timm_folder import TimmFolder
from siamese.handoff.export.torchvision_file import TorchvisionFile
from siamese.handoff.network import Trained
from siamese.output import console
from siamese.schema import check_export

__all__ = ["export"]


def export(cfg: DictConfig) -> None:
    """Export a checkpoint: read, build, write into a temporary folder, prove, rename.

    The proof runs on the CPU in float32, where both networks compute the same numbers up to rounding.

    Args:
        cfg: conf/export.yaml.

    Raises:
        UserError: the settings, the checkpoint, the images or the format cannot work; nothing has been written.
        RunAborted: the disk is full, or the exported network gives other features; nothing is left.
    """
    if OmegaConf.is_missing(cfg, "to"):
        raise UserError("to=", "no format was given", "give to=timm, hf, torchvision, onnx or safetensors")
    check_export(cfg)
    if OmegaConf.is_missing(cfg, "ckpt") or cfg.ckpt is None:
        raise UserError("ckpt=", "no checkpoint was given", "give ckpt=FILE, or ckpt=timm:NAME")
    out = check_out(cfg.out)
    formats = all_formats(cfg)
    form = formats[cfg.to]
    form.check_installed()
    shown_on = console()
    source = network.read(cfg.ckpt, cfg.foreign, cfg.trust_config, to_dict(cfg.data))
    refuse(form, formats, source.judged)
    resolved, images = real_images(source, cfg.images, shown_on)
    refuse(form, formats, resolved)
    trained = network.build(source, resolved)
    if trained.told:
        shown_on.print(trained.told, soft_wrap=True)
    shown_on.print(described(trained), soft_wrap=True)
    with new_folder(out) as folder, quiet():
        for note in form.write(trained, folder):
            shown_on.print(note, soft_wrap=True)
        found = prove(trained, form, folder, images)
    shown_on.print(str(found), soft_wrap=True)
    shown_on.print(f"exported: {out}", soft_wrap=True)
    shown_on.print(f"load it by: {form.line(out)}", soft_wrap=True)


def all_formats(cfg: DictConfig) -> dict[str, ExportFormat]:
    """What `to=` may be."""
    made: list[ExportFormat] = [
        TimmFolder(), TorchvisionFile(), SafetensorsFile(), OnnxFile(cfg.onnx.preprocessing, cfg.onnx.opset), HfFolder()
    ]  # fmt: skip
    return {form.name: form for form in made}


def refuse(form: ExportFormat, formats: dict[str, ExportFormat], cfg: DictConfig) -> None:
    """Raise UserError if the format has no class for the backbone, and name the formats that take it."""
    problem = form.refusal(cfg)
    if problem:
        works = [f"to={name}" for name, other in formats.items() if not other.refusal(cfg)]
        raise UserError(f"to={form.name} backbone={cfg.backbone.name}", problem, f"use {', '.join(works)}")


def described(trained: Trained) -> str:
    """One line: what the network takes. Of a third party's file it is what the settings say."""
    seen = preprocessing(trained)
    of_each = ", ".join(f"{key} {seen[key]}" for key in ("mean", "std"))
    return f"input: {seen['channels']} channels of {seen['size']} x {seen['size']} pixels, {of_each}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' warnings and log lines: the proof judges what they made."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
