"""`--help` of the commands: one screen, every option, no private file, no torch."""

import shlex
import subprocess
import sys

import pytest
from omegaconf import OmegaConf
from paths import ROOT

from siamese.__main__ import COMMANDS
from siamese.cli import moved_groups
from siamese.commands.usage import HELP, grouped, text
from siamese.schema.messages import all_keys

CONF = ROOT / "conf"
NESTED = ("loss", "regularizer", "teacher")  # groups within an option
PROTOCOLS = {f.parent.name for f in (CONF / "eval").glob("*/default.yaml")}


def rows(command):
    """Groups and settings of a help: name -> what stands beside it."""
    found, name = {}, None
    for line in text(command, "siamese x").splitlines():
        if line.startswith("  ") and line[2] != " ":
            name, _, beside = line.strip().partition("  ")
            found[name] = beside.strip()
        elif line.startswith("    "):
            found[name] += " " + line.strip()
    return found


def expanded(options):
    """What a shell makes of the braces."""
    words = "{" + options.replace(", ", ",") + "}"
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {words}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def files(group):
    """The public options of a group, by its files."""
    found = [f.relative_to(CONF / group).with_suffix("") for f in (CONF / group).rglob("*.yaml")]
    names = {str(f) for f in found if not f.name.startswith("_") and f.parts[0] not in NESTED}
    return {n for n in names if n.split("/")[0] not in PROTOCOLS} | PROTOCOLS | {"all"} if group == "eval" else names


def config_of(command):
    return COMMANDS[command][0]


def test_every_command_with_a_config_has_a_help():
    assert set(HELP) == {name for name, (config, *_) in COMMANDS.items() if config}


@pytest.mark.parametrize("command", HELP)
def test_help_is_one_screen(command):
    script = {"train": ["python train.py"], "eval": ["python eval_linear.py"]}
    for program in [f"siamese {command}", *script.get(command, [])]:
        lines = text(command, program).splitlines()
        assert len(lines) <= 40
        assert max(map(len, lines)) <= 80
    assert "--cfg job prints every key" in lines[-1]


@pytest.mark.parametrize("command", HELP)
def test_help_names_every_option_and_no_private_one(command):
    shown = rows(command)
    for group in HELP[command].groups:
        names = expanded(shown[group])
        assert sorted(names) == sorted(files(group)), group
    assert not [word for word in text(command, "siamese x").split() if word.startswith("_") or "/_" in word]


@pytest.mark.parametrize("command", HELP)
def test_settings_of_the_help_exist(command, config):
    # A folder of images has the keys of images.
    name = config_of(command)
    keys = all_keys(config(*(["data=folder"] if name == "train" else []), name=name))
    told = [setting.partition("=")[0] for setting in HELP[command].settings]
    assert set(told) <= set(keys)
    assert len(told) == len(set(told)) == 10


@pytest.mark.parametrize(("command", "example"), [(c, e) for c, told in HELP.items() for e in told.examples])
def test_examples_compose(command, example, config):
    words = [w for w in shlex.split(example) if w != "-m"]
    if "-m" in example.split():
        words = [w.split(",")[0] for w in words]
    name = config_of(command)
    cfg = config(*(words if name == "train" else moved_groups(words)), name=name)
    assert not OmegaConf.is_missing(cfg, "run_dir") if "run_dir" in cfg else cfg.out


def test_own_options_are_named(tmp_path, monkeypatch):
    for name in ("conf/method/mine.yaml", "conf/method/_base.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    assert "mine" not in rows("train")["method"]
    monkeypatch.chdir(tmp_path)
    assert "mine" in expanded(rows("train")["method"])


def test_options_of_folders_are_in_braces():
    assert grouped(["a", "b/x", "b/y", "c/x", "c/y", "d/z", "e"]) == "a, e, {b, c}/{x, y}, d/{z}"


WITHOUT_TORCH = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
found = {"torch", "pytorch_lightning", "numpy"} & set(sys.modules)
assert not found, found
"""


@pytest.mark.parametrize(
    "words",
    [["train.py", "--help"], ["eval_linear.py", "seed=1", "-h"], ["ssl/siamese/__main__.py", "check", "--help"]],
)
def test_help_imports_no_torch(words, tmp_path):
    given = [str(ROOT / words[0]), *words[1:]]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *given], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""
