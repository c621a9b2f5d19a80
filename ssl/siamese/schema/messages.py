"""Errors of Hydra and OmegaConf as `UserError`: key, value, remedy."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig

from siamese.errors import UserError
from siamese.options import is_group, options, roots
from siamese.schema.groups import TRAINER_OWN
from siamese.schema.saved import RENAMED


def explain(error: Exception, arguments: Sequence[str], keys: Sequence[str]) -> UserError:
    """A Hydra or OmegaConf error in one line.

    Args:
        arguments: of the command line.
        keys: dotted names that exist, for suggestions.
    """
    text = str(error)
    found = re.search(r"Could not find '([^/']+(?:/[^/']+)*)/([^/']*)'", text)
    if found:
        return _unknown_option(found.group(1), found.group(2), text, arguments)
    found = re.search(r"use 'override (\S+): (\S+)'", text)
    if found:
        group, option = found.groups()
        return UserError(f"+{group}={option}", "the group has an option already", f"use {group}={option}")
    found = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if found:
        return _unknown_key(found.group(1), arguments, keys)
    line = " ".join(text.split())
    if any(word in line for word in UNPARSED):
        return UserError("command line", line, "put a value with special characters in quotes: 'run_dir=\"my run\"'")
    return UserError("command line", line, "--cfg job prints all keys")


NEEDS_SWEEP = ("hydra/launcher=joblib", "hydra/launcher=submitit_local", "hydra/launcher=submitit_slurm",
               "hydra/sweeper=optuna")  # fmt: skip
# What others call a setting -> keys of ours, without regard to case and underscores.
SYNONYMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("learningrate", "lr", "baselr"), ("optimizer.lr",)),
    **dict.fromkeys(("wd", "decay", "l2"), ("optimizer.weight_decay",)),
    **dict.fromkeys(("nepochs", "maxepochs", "numepochs", "epoch"), ("epochs",)),
    **dict.fromkeys(("bs", "batch", "globalbatchsize", "trainbatchsize"), ("batch_size",)),
    **dict.fromkeys(("warmup", "warmuplength", "nwarmup"), ("optimizer.warmup_epochs",)),
    **dict.fromkeys(("scheduler", "lrschedule", "lrscheduler"), ("optimizer.schedule",)),
    **dict.fromkeys(("temp", "t"), ("method.temperature",)),
    "tau": ("method.temperature", "method.momentum"),  # the symbol of both
    **dict.fromkeys(("ema", "m", "emamomentum", "mocomomentum"), ("method.momentum",)),
    **dict.fromkeys(("gpus", "numgpus", "ngpus", "ngpu"), ("trainer.devices",)),
    **dict.fromkeys(("amp", "fp16", "bf16", "halfprecision"), ("trainer.precision",)),
    **dict.fromkeys(("accumulate", "accumiter", "gradientaccumulation", "gradientaccumulationsteps"),
                    ("trainer.accumulate_grad_batches",)),
    **dict.fromkeys(("workers", "numworkers", "nworkers"), ("data.workers",)),
    **dict.fromkeys(("imagesize", "imgsize", "size", "resolution", "inputsize"), ("data.crop", "data.size")),
    **dict.fromkeys(("datadir", "dataroot", "root", "datapath"), ("data.path",)),
    **dict.fromkeys(("arch", "model", "network", "encoder"), ("backbone",)),
    **dict.fromkeys(("dataset", "datasetname"), ("data",)),
    **dict.fromkeys(("algorithm", "algo", "ssl"), ("method",)),
    **dict.fromkeys(("opt", "optim"), ("optimizer",)),
    **dict.fromkeys(("augmentation", "augmentations", "transform", "transforms"), ("augment",)),
    **dict.fromkeys(("outputdir", "outdir", "savedir", "logdir", "output"), ("run_dir", "out")),
    **dict.fromkeys(("checkpoint", "ckpt", "ckptpath", "checkpointpath", "weights", "pretrained", "resumefrom"),
                    ("ckpt", "init_from")),
    **dict.fromkeys(("randomseed", "manualseed"), ("seed",)),
}  # fmt: skip
UNPARSED = ("no viable alternative", "mismatched", "NoViableAlt", "token recognition", "missing EQUAL")


def _unknown_option(group: str, option: str, text: str, arguments: Sequence[str]) -> UserError:
    root, _, within = group.partition("/")
    typed = f"{root}={within}/{option}"
    if typed in arguments:  # Hydra moves the first part of an option with a slash to the group
        known = [name for name in options(root) if "/" in name] or options(root)
        return UserError(typed, "no such option", f"choose one of {', '.join(known)}")
    if f"{group}={option}" in NEEDS_SWEEP:
        typed = next((a for a in arguments if a == f"{group}={option}" or a.startswith("sweep=")), f"{group}={option}")
        return UserError(typed, "needs packages that are not installed", "pip install siamese-ssl[sweep]")
    known = sorted({*re.findall(r"^\t([^_\s]\S*)$", text, re.MULTILINE), *options(group)})
    remedy = f"choose one of {', '.join(known)}" if known else f"see conf/{group}"
    return UserError(f"{group}={option}", "no such option", remedy)


def _is_swept(group: str, arguments: Sequence[str]) -> bool:
    return any(re.match(rf"{re.escape(group)}=[\w/]+,", a) for a in arguments)


def _has_some_option(group: str, key: str) -> bool:
    """Whether a key of this name stands in the file of any option of the group."""
    files = (file for root in roots() for file in (root / group).rglob("*.yaml"))
    return any(re.search(rf"^\s*{re.escape(key)}:", file.read_text(encoding="utf-8"), re.MULTILINE) for file in files)


def _unknown_key(key: str, arguments: Sequence[str], keys: Sequence[str]) -> UserError:
    given = next((a for a in arguments if a.lstrip("+~").split("=")[0] == key), key)
    if key.removeprefix("trainer.") in TRAINER_OWN:
        return UserError(given, "the run sets it itself", f"use {TRAINER_OWN[key.removeprefix('trainer.')]}")
    root = key.split(".")[0]
    if _is_swept(root, arguments) and _has_some_option(root, key.rpartition(".")[2]):
        problem = f"is no key of the default option of {root}=, which is swept"  # Hydra looks at that one alone
        return UserError(given, problem, f"write ++{key}=…")
    if RENAMED.get(root) in keys:
        return UserError(given, f"{root} was renamed", f"use {RENAMED[root]}{key.removeprefix(root)}=")
    if "/" in key and is_group(key):
        parent = key.rpartition("/")[0]
        return UserError(given, f"the chosen option of {parent} has no such group", f"choose another {parent}=")
    parent, _, last = key.rpartition(".")
    meant = [k for k in SYNONYMS.get(re.sub("[-_]", "", last.lower()), ()) if k in keys and k != key]
    if meant:
        return UserError(given, "no such key", f"did you mean {' or '.join(meant)}?")
    siblings = [k for k in keys if k.rpartition(".")[0] == parent]
    near = (
        [k for k in keys if k.startswith(f"{key}_")]
        or get_close_matches(key, keys, n=3, cutoff=0.7)
        or [k for k in keys if k.split(".")[-1] in get_close_matches(last, [k.split(".")[-1] for k in keys], 1, 0.8)]
    )
    if near:
        return UserError(given, "no such key", f"did you mean {' or '.join(near[:3])}?")
    if parent and siblings:
        return UserError(given, "no such key", f"{parent} has {', '.join(k.rpartition('.')[2] for k in siblings)}")
    return UserError(given, "no such key", "--cfg job prints all keys")


def all_keys(node: Any, prefix: str = "") -> list[str]:
    """Dotted names of a config, nodes included."""
    out = []
    for key in node:
        out.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            out += all_keys(child, f"{prefix}{key}.")
    return out
