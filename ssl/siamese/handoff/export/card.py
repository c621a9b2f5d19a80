"""The model card of an export: README.md of a repository on the Hugging Face Hub."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from siamese.config import to_dict
from siamese.environment import versions
from siamese.errors import printable
from siamese.handoff.export.base import origin, preprocessing, without_paths
from siamese.handoff.network import Trained
from siamese.paths import expand_path

FIGURES = {
    "knn_top1": "kNN top-1", "linear_top1": "linear top-1", "knn_map": "kNN mAP", "logistic_map": "logistic mAP",
    "linear_map": "linear mAP", "feature_rank": "rank of the features",
}  # fmt: skip
PROTOCOLS = {"top1": "top-1", "map": "mAP"}
RECIPE = ("method", "optimizer", "augment", "epochs", "batch_size", "seed")  # nodes that the card repeats
LARGEST = 1 << 22  # bytes of a file of figures that is read


def card(trained: Trained) -> str:
    """The card: YAML front matter and Markdown. It names no path of this machine."""
    name, about = text(trained.cfg.backbone.name), origin(trained)
    tags = ["timm", "image-feature-extraction", "self-supervised-learning", "siamese-ssl"]
    front = {"library_name": "timm", "pipeline_tag": "image-feature-extraction", "tags": tags}
    by = f" by {text(about['method'])} on {text(about['data'])}" if trained.source.ours else ""
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {name}, pretrained{by}",
        f"A backbone without a classifier: an image to {trained.backbone.feature_dim} features.",
        *_use(trained),
        "## Training\n\n" + table(("", ""), ((key.replace("_", " "), value) for key, value in about.items())),
        *_recipe(trained),
        "## Figures\n\n" + figures(trained),
        "## Licence\n\nThe licence of these weights is for whoever publishes them to choose, within the terms of the "
        "training images. Name it here and as `license:` in the front matter.",
        f"## Made by\n\n`siamese export ckpt={Path(trained.source.ckpt).name} to=hf out=FOLDER`, "
        + ", ".join(f"{package} {version}" for package, version in versions().items())
        + ". Before the folder was made, real images gave the same features by the trained network and by timm from "
        "these files.",
    ]
    return "\n\n".join(parts) + "\n"


def _use(trained: Trained) -> Iterator[str]:
    seen = preprocessing(trained)
    yield (
        "## Use\n\nFeatures for probes (kNN, linear), retrieval and clustering, and a start for fine-tuning. The "
        "network was not trained to name classes, and no decision about people should rest on it without an evaluation "
        "of its own.\n\n```python\nimport timm\nimport torch\n\n"
        'model = timm.create_model("hf-hub:USER/NAME", pretrained=True).eval()  # or "local-dir:FOLDER"\n'
        f"features = model(torch.zeros(1, {seen['channels']}, {seen['size']}, {seen['size']}))"
        f"  # (1, {trained.backbone.feature_dim})\n```"
    )
    rows = ((key.replace("_", " "), value) for key, value in seen.items())
    yield (
        "## Input\n\nIn this order: the central square that covers `center` of the short side, resized to `size` "
        "pixels, clipped to `value range` and scaled to [0, 1], minus `mean`, divided by `std`. "
        "`timm.data.create_transform(**timm.data.resolve_model_data_config(model))` does it for 8-bit images.\n\n"
        + table(("", ""), rows)
    )


def _recipe(trained: Trained) -> Iterator[str]:
    if trained.source.ours:
        cfg = to_dict(trained.source.trained)
        shown = yaml.safe_dump(without_paths({key: cfg[key] for key in RECIPE if key in cfg}), sort_keys=False)
        yield f"<details><summary>Recipe</summary>\n\n```yaml\n{shown}```\n\n</details>"


def table(head: tuple[str, ...], rows: Any) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(text(cell) for cell in line)} |" for line in lines)


def text(value: Any) -> str:
    """One line without what Markdown's tables and HTML would take for their own."""
    return printable(str(value)).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def figures(trained: Trained) -> str:
    """What summary.json and results.json of the checkpoint's run folder say, if they are of this checkpoint."""
    found = [*_of_summary(trained), *_of_results(trained)] if trained.source.ours else []
    if not found:
        return "No evaluation lay beside the checkpoint."
    return table(("row", "figure", "images", "value"), found)


def _of_summary(trained: Trained) -> Iterator[tuple[str, ...]]:
    t = trained.source.trained
    content = _beside(trained, "summary.json")
    own = {"method": t.method.name, "data": t.data.name, "backbone": t.backbone.name, "seed": t.seed}
    own["steps"] = trained.source.state.get("global_step")  # of the last checkpoint, not of an earlier one
    if content.get("finished") is not True or any(content.get(k) != v for k, v in own.items()):
        return
    rows = {str(t.method.name): content, **_mappings(content.get("baselines"))}
    for row, values in rows.items():
        yield from (
            (row, told, "validation", shown(values[key])) for key, told in FIGURES.items() if number(values.get(key))
        )


def _of_results(trained: Trained) -> Iterator[tuple[str, ...]]:
    content = _beside(trained, "results.json")
    if content.get("ckpt_sha256") != trained.source.about()["ckpt_sha256"]:
        return
    for data, result in _mappings(content.get("results")).items():
        for row, protocols in _mappings(result.get("rows")).items():
            for protocol, values in _mappings(protocols).items():
                for key, told in PROTOCOLS.items():
                    if number(values.get(key)):
                        yield row, f"{protocol} {told}", f"{data}, test", shown(values[key])


def _beside(trained: Trained, name: str) -> dict[str, Any]:
    """A JSON file of the checkpoint's run folder, {} if there is none that can be read."""
    folder = expand_path(trained.source.ckpt, "ckpt").absolute().parent
    for place in (folder, folder.parent) if folder.name == "checkpoints" else (folder,):
        try:
            with (place / name).open(encoding="utf-8") as stream:
                content = json.loads(stream.read(LARGEST))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            return content
    return {}


def _mappings(value: Any) -> dict[str, Mapping[str, Any]]:
    items = value.items() if isinstance(value, dict) else ()
    return {str(k): v for k, v in items if isinstance(v, dict)}


def number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def shown(value: float) -> str:
    """Four decimals."""
    return f"{value:.4f}"
