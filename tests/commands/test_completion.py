"""The shell's completion, asked as bash asks."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

from siamese.commands import completion

KEYS = ["epochs", "optimizer", "optimizer.lr", "optimizer.algorithm", "optimizer.algorithm.momentum", "run_dir"]


def answer(*words, command="train"):
    return completion.answer(command, words, lambda before: KEYS)


def test_groups_and_keys_level_by_level():
    assert answer("opti") == ["optimizer.", "optimizer="]
    assert answer("optimizer.") == ["optimizer.algorithm.", "optimizer.lr="]
    assert answer("optimizer.al") == ["optimizer.algorithm."]
    assert answer("method/") == ["method/loss=", "method/regularizer=", "method/teacher="]
    assert answer("eval=lo", command="eval") == ["eval=logistic", "eval=lowshot"]
    assert not [word for word in answer("") if "_base" in word]


def test_options_also_of_a_sweep_and_nested():
    assert answer("seed=1", "method=by") == ["method=byol"]
    assert answer("method=byol,si") == ["method=byol,simclr", "method=byol,simsiam"]
    assert answer("+method=by") == ["+method=byol"]
    assert "augment=large/dino" in answer("augment=large/d")
    assert not [word for word in answer("augment=") if "/_" in word or "=_" in word]


def test_files_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    (tmp_path / "pho to").touch()
    (tmp_path / ".hidden").touch()
    assert answer("data.path=") == ["data.path=photos/"]
    assert answer("data.path=photos/") == ["data.path=photos/a.png"]
    assert answer(f"data.path={tmp_path}/.h") == [f"data.path={tmp_path}/.hidden"]
    assert answer("data.path=nowhere/") == []


def test_unfinished_line_prints_no_message():
    def wrong(before):
        raise RuntimeError("a wrong setting")

    assert completion.answer("train", ["tra"], wrong) == ["trainer="]


def test_line_ends_at_the_cursor(monkeypatch):
    monkeypatch.setenv("COMP_LINE", "siamese train meth seed=1")
    monkeypatch.setenv("COMP_POINT", "18")
    assert completion.line() == ["siamese", "train", "meth"]
    monkeypatch.delenv("COMP_POINT")
    monkeypatch.setenv("COMP_LINE", "siamese train ")
    assert completion.line() == ["siamese", "train", ""]


@pytest.fixture
def shell(tmp_path):
    """Completes a line in a bash in which both commands were installed."""
    programs = tmp_path / "programs"
    programs.mkdir()
    texts = {
        "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
        "siamese": f"#!{sys.executable}\nfrom siamese.__main__ import main\nmain()\n",
    }
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def complete(line, install):
        script = f"""
        set -e
        eval "$({install} -sc install=bash)"
        complete -p {install.split()[0]} >&2
        set +e
        COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_CWORD={len(line.split(" ")) - 1}
        hydra_bash_completion
        printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "ssl"), environment.get("PYTHONPATH", "")])
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "hydra_bash_completion" in done.stderr
        return done.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("install", "line", "found"),
    [
        ("python train.py", "python train.py method=by", ["method=byol"]),
        ("python train.py", "python train.py method=byol method.mom", ["method.momentum="]),
        ("python train.py", "python eval_linear.py data=cifar10 compar", ["compare="]),
        ("siamese", "siamese tr", ["train"]),
        ("siamese", "siamese train method=moco method.que", ["method.queue_size="]),
        ("siamese", "siamese export t", ["to=", "trust_config="]),
        ("siamese", "siamese list back", ["backbone"]),
    ],
)
def test_bash(shell, install, line, found):
    assert shell(line, install) == found
