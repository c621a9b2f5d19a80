"""to=onnx: a graph for ONNX Runtime and whatever else reads ONNX."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from siamese.errors import UserError, printable
from siamese.handoff.export.base import ExportFormat, Network, ProofImages, origin, preprocessing, write_config
from siamese.handoff.network import Trained

MOST = 2**31 - 1  # images of a batch; without a bound torch 2.6 cannot export a Vision Transformer
LARGEST = 2 * 10**9  # bytes of an ONNX file, protobuf's limit


class Normalised(nn.Module):
    """A backbone that takes grey levels in the stored range: (B, C, S, S) to (B, D)."""

    image_low: Tensor
    image_high: Tensor
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, trained: Trained):
        super().__init__()
        self.backbone = trained.backbone
        for name in ("low", "high", "mean", "std"):  # torch 2.6 calls results by their operators, such as "mean"
            self.register_buffer(f"image_{name}", getattr(trained.view, name).detach().cpu().view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = ((images - self.image_low) / (self.image_high - self.image_low)).clamp(0, 1)
        return self.backbone((x - self.image_mean) / self.image_std)  # type: ignore[no-any-return]


def dynamic(model: Any) -> bool:
    """Whether the first dimension of the input of an onnx.ModelProto is free."""
    return bool(model.graph.input[0].type.tensor_type.shape.dim[0].dim_param)


class OnnxFile(ExportFormat):
    """model.onnx with a dynamic batch: "images" (B, C, S, S) float32 to "features" (B, D). Crop and resize are left to
    the user; config.json and the model's metadata_props say which.

    Args:
        levels: the images are grey levels in the stored range; False: they are normalised.
        opset: version of ONNX's operators.
    """

    name = "onnx"
    extra = ("onnx", ("onnx", "onnxruntime", "onnxscript"))

    def __init__(self, levels: bool, opset: int):
        self.levels, self.opset = levels, opset

    def write(self, trained: Trained, folder: Path) -> list[str]:
        weight = sum(t.numel() * t.element_size() for t in trained.backbone.state_dict().values())
        if weight > LARGEST:
            raise UserError("to=onnx", f"{weight / 1e9:.3g} GB are more than an ONNX file holds", "use to=safetensors")
        said: list[str] = []
        network = (
            Normalised(trained).eval() if self.levels else trained.backbone
        )  # the older exporter restores its mode
        example = torch.zeros(2, trained.channels, trained.view.size, trained.view.size)
        model = self._graph(network, example, folder, said)
        told = {
            "input": "images (B, C, S, S) float32, "
            + ("grey levels in value_range; the graph clips and normalises them" if self.levels else "normalised"),
            "output": f"features (B, {trained.backbone.feature_dim}) float32",
            "left_to_the_user": "crop the central square, resize it"
            + ("" if self.levels else ", clip to value_range, scale to [0, 1], subtract mean, divide by std"),
            "preprocessing": preprocessing(trained),
            "origin": origin(trained),
        }
        for key, value in told.items():
            model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        write_config(folder, {"library": "onnx", "opset": self.opset, **told})
        return said

    def _graph(self, network: nn.Module, example: Tensor, folder: Path, said: list[str]) -> Any:
        """The network as onnx.ModelProto."""
        import onnx

        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["features"], "opset_version": self.opset}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                made = torch.onnx.export(
                    network, (example,), dynamo=True, verbose=False,
                    dynamic_shapes=({0: torch.export.Dim("batch", max=MOST)},), **names,
                )  # fmt: skip
            assert made is not None
            model = made.model_proto
            if not dynamic(model):  # torch 2.6 may fix the batch without a word
                raise ValueError("the batch is not dynamic")
        except Exception as error:  # what cannot be exported raises many kinds
            file = folder / "model.onnx"
            batch: Any = {"images": {0: "batch"}, "features": {0: "batch"}}
            with contextlib.redirect_stdout(io.StringIO()):
                torch.onnx.export(network, (example,), file, dynamo=False, dynamic_axes=batch, **names)
            model = onnx.load(file)
            reason = printable(re.sub(r"\x1b\[[0-9;]*m", "", str(error)))[:120]  # without colours
            said.append(f"torch's exporter on torch.export failed ({type(error).__name__}: {reason}); the one on "
                        "TorchScript was used")  # fmt: skip
        found = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if found != self.opset:
            raise UserError(f"onnx.opset={self.opset}", f"torch {torch.__version__} gives {found}", f"use {found}")
        onnx.checker.check_model(model)
        return model

    def load(self, folder: Path) -> Network:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])

    def line(self, folder: Path) -> str:
        return f'session = onnxruntime.InferenceSession("{folder / "model.onnx"}")'

    def inputs(self, images: ProofImages) -> Tensor:
        return images.levels if self.levels else images.normalised
