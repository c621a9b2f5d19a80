"""A new method is one Python file and one yaml, as the documentation shows it."""

import re

from paths import ROOT


def example(name):
    """The code block of README.md and docs/ whose first line is the comment `# name`; all copies are equal."""
    pages = "\n".join(file.read_text() for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])
    (code,) = set(re.findall(rf"```\w+\n# {re.escape(name)}\n(.*?)```", pages, re.DOTALL))
    return code


def test_documented_method_trains_and_is_evaluated(command, tiny, tmp_path):
    (tmp_path / "mine.py").write_text(example("mine.py"))
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(example("conf/method/mine.yaml"))
    search_path = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    done = command("train.py", "method=mine", search_path, *tiny, "run_dir=r", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout
    judge = ("eval_linear.py", "ckpt=r/checkpoints/last.ckpt", "eval.linear.epochs=2")
    done = command(*judge, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "mine.Mine: is not a class of this project" in done.stderr
    assert "trust_config=true" in done.stderr
    done = command(*judge, "trust_config=true", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
