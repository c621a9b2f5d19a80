"""The group and the tags of a run, the same for every tracker."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from siamese.config import in_sweep
from siamese.recipe import RESUME_MUTABLE_KEYS
from siamese.training.tracking.privacy import is_secret, without_passwords

LONGEST = 64  # characters of a tag of wandb
NAMED = ("method", "data", "backbone", "experiment")  # tags without the name of their key
NO_RECIPE = ("trainer", *NAMED)


@dataclass(frozen=True)
class Labels:
    """Group and tags.

    Args:
        group: the name of the sweep's folder; None outside of a sweep.
        tags: key -> value: method, data set, backbone, experiment, and the settings of the command line that change the
            training.
    """

    group: str | None = None
    tags: dict[str, str] = field(default_factory=dict)

    def short(self) -> list[str]:
        """The tags as texts of at most `LONGEST` characters, each once."""
        texts = (value if key in NAMED else f"{key}={value}" for key, value in self.tags.items())
        return list(dict.fromkeys(_cut(text) for text in texts if text))


def labels(cfg: DictConfig) -> Labels:
    """The labels of a run. Without Hydra's command line there are neither group nor overrides."""
    tags = {"method": str(cfg.method.name), "data": str(cfg.data.name), "backbone": str(cfg.backbone.name)}
    if not HydraConfig.initialized():
        return Labels(None, tags)
    hydra = HydraConfig.get()
    # A choice tells more than a name: resnet18_small is named resnet18.
    tags |= {key: str(hydra.runtime.choices[key]) for key in NAMED if hydra.runtime.choices.get(key) is not None}
    for override in hydra.overrides.task:
        key, _, value = override.lstrip("+~").partition("=")
        named = (key, *re.findall(r"[\w.-]+(?=['\"]?\s*:)", value))  # a value may be a mapping
        if key not in NO_RECIPE and not _is_mutable(key) and not any(map(is_secret, named)):
            tags.setdefault(key, without_passwords(value.strip("'\"")))
    return Labels(Path(hydra.sweep.dir).name if in_sweep() else None, tags)


def _is_mutable(key: str) -> bool:
    """Whether the setting, or group, does not belong to the recipe."""
    return key.startswith(RESUME_MUTABLE_KEYS) or f"{key}.".startswith(RESUME_MUTABLE_KEYS)


def _cut(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
