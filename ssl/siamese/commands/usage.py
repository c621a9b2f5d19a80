"""`--help` of the commands: groups and their options, the settings most used, examples, on one screen."""

import textwrap
from dataclasses import dataclass

from siamese.options import options

WIDTH = 80


@dataclass(frozen=True)
class Help:
    """What the help of a command says.

    Args:
        what: the command does.
        groups: that a person chooses from.
        settings: KEY=VALUE -> a few words.
        examples: settings behind the command's name.
    """

    what: str
    groups: tuple[str, ...]
    settings: dict[str, str]
    examples: tuple[str, ...]


JUDGED = ("data", "backbone", "augment")  # groups that describe a pretraining; left out, as a checkpoint was trained
HELP = {
    "train": Help(
        "Pretrain a backbone without labels.",
        ("method", "data", "backbone", "augment", "optimizer", "trainer", "logger", "callbacks", "experiment"),
        {
            "data.path=PATH": "file or folder of the images (data=folder, npz, ...)",
            "data.crop=N": "side of the views, pixels",
            "epochs=N": "length of the training",
            "batch_size=N": "images of a step, over all devices",
            "optimizer.lr=X": "base learning rate",
            "trainer.devices=N": "GPUs; trainer=ddp takes all",
            "init_from=FILE": "start from a checkpoint, or timm:NAME",
            "run_dir=DIR": "the run folder",
            "resume=true": "continue the run in run_dir",
            "seed=N": "of weights, order and views",
        },
        (
            "method=byol data=cifar10 data.download=true",
            "data=folder data.path=photos backbone=resnet18 run_dir=runs/a",
            "-m method=simclr,moco seed=0,1,2",
        ),
    ),
    "eval": Help(
        "Judge the features of a checkpoint on labelled images.",
        ("eval", *JUDGED, "eval/linear_crops", "eval/lowshot", "eval/finetune"),
        {
            "ckpt=FILE": "checkpoint of ours or of a third party",
            "data.path=PATH": "where the images lie now",
            "eval.data=[NAME:PATH]": "further data sets",
            "eval.supervised=FILE": "a checkpoint of method=supervised, as a row",
            "eval.cache=DIR": "where features are kept; null: nowhere",
            "compare=[DIR,DIR]": "evaluations side by side, nothing else",
            "batch_size=N": "images of a forward pass",
            "device=NAME": "auto, cpu or cuda",
            "run_dir=DIR": "of the results",
            "overwrite=true": "replace the results in run_dir",
        },
        (
            "ckpt=runs/a/checkpoints/last.ckpt",
            "ckpt=runs/a/checkpoints/last.ckpt eval=all data=stl10",
            "ckpt=moco_v2.pth.tar data=imagenet data.path=DIR",
        ),
    ),
    "embed": Help(
        "Write the features of images to a file.",
        JUDGED,
        {
            "ckpt=FILE": "ours, a third party's, or timm:NAME",
            "out=FILE": ".parquet, .csv, .npz or .npy",
            "data.path=PATH": "where the images lie",
            "data.on_error=stop": "at an unreadable image; else it is skipped",
            "neighbours=true": "also nearest neighbours and near-duplicates",
            "queries=N": "pictures whose neighbours are shown",
            "duplicates=X": "cosine similarity of near-duplicates",
            "batch_size=N": "images of a forward pass",
            "device=NAME": "auto, cpu or cuda",
            "overwrite=true": "replace the file",
        },
        (
            "ckpt=runs/a/checkpoints/last.ckpt out=features.parquet",
            "ckpt=timm:resnet18 data=folder data.path=photos out=f.csv",
            "ckpt=last.ckpt out=features.npz neighbours=true",
        ),
    ),
    "export": Help(
        "Hand a backbone to another library; checked on real images.",
        JUDGED,
        {
            "ckpt=FILE": "ours, a third party's, or timm:NAME",
            "to=FORMAT": "timm, torchvision, safetensors, onnx or hf",
            "out=DIR": "the folder to make",
            "images=N": "on which both networks are compared",
            "onnx.opset=N": "version of ONNX's operators",
            "onnx.preprocessing=false": "the network takes normalised images",
            "data.path=PATH": "where the images lie now",
            "data.workers=N": "processes that decode",
            "data.on_error=skip": "at an unreadable image",
            "trust_config=true": "the file may name classes of your own",
        },
        (
            "ckpt=runs/a/checkpoints/last.ckpt to=timm out=net",
            "ckpt=runs/a/checkpoints/last.ckpt to=onnx out=net",
            "ckpt=last.ckpt to=hf out=net data=folder data.path=photos",
        ),
    ),
    "check": Help(
        "Look at images and settings; nothing is trained or written.",
        ("data", "method", "backbone", "augment", "optimizer", "trainer", "experiment"),
        {
            "data.path=PATH": "file or folder of the images",
            "data.labels=VALUE": "folders, none, or FILE.csv",
            "data.include=[GLOB]": "take these files only",
            "data.exclude=[GLOB]": "leave these files out",
            "data.channels=N": "of the images; auto: as they are",
            "data.max_pixels=N": "refuse larger images",
            "data.on_error=skip": "at an unreadable image",
            "data.workers=N": "processes that decode",
            "data.crop=N": "side of the views, pixels",
            "batch_size=N": "images of a step, over all devices",
        },
        (
            "data=folder data.path=photos",
            "data=folder data.path=tiles backbone=resnet50 data.crop=224",
            "data=npz data.path=pathmnist.npz method=byol",
        ),
    ),
}


def text(command: str, program: str) -> str:
    """The help of a command.

    Args:
        command: a key of `HELP`.
        program: how it is called, such as "python train.py".
    """
    told = HELP[command]
    more = "siamese list tells more" if "method" in told.groups else "data, backbone, augment: else as trained"
    lines = [f"usage: {program} [KEY=VALUE ...]", told.what, f"groups, GROUP=OPTION ({more}):"]
    lines += _rows({group: grouped(options(group)) for group in told.groups})
    lines += ["settings, KEY=VALUE:", *_rows(told.settings), "examples:"]
    lines += [f"  {program} {example}" for example in told.examples]
    several = {"train": "; -m runs a sweep, -m sweep=METHOD a search", "eval": "; -m runs a sweep (ckpt=A,B)"}
    lines.append(f"--cfg job prints every key{several.get(command, '')}")
    return "\n".join(lines)


def grouped(names: list[str]) -> str:
    """Options in a row; those of a folder in braces, folders with the same options together."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        folders.setdefault(folder, []).append(last)
    out = folders.pop("", [])
    alike: dict[str, list[str]] = {}
    for folder, held in folders.items():
        alike.setdefault(", ".join(held), []).append(folder)
    for inner, where in alike.items():
        out.append(f"{where[0] if len(where) == 1 else '{' + ', '.join(where) + '}'}/{{{inner}}}")
    return ", ".join(out)


def _rows(told: dict[str, str]) -> list[str]:
    """Two columns, the second one wrapped."""
    wide = max(map(len, told)) + 4
    lines = []
    for name, words in told.items():
        first = f"  {name}".ljust(wide)
        lines += textwrap.wrap(
            words, WIDTH, initial_indent=first, subsequent_indent=" " * wide, break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    return lines
