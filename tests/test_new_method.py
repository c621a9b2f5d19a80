"""A new method is one Python file and one yaml (README, "A method of your own")."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_one_python_file_and_one_yaml(command, tiny, tmp_path):
    readme = (ROOT / "README.md").read_text()
    code, recipe = (re.search(rf"```{kind}\n# (\S+)\n(.*?)```", readme, re.DOTALL) for kind in ("python", "yaml"))
    assert code is not None
    assert recipe is not None
    assert (code[1], recipe[1]) == ("mine.py", "conf/method/mine.yaml")
    (tmp_path / "mine.py").write_text(code[2])
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(recipe[2])
    search_path = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    done = command("train.py", "method=mine", search_path, *tiny, "run_dir=r", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout
    judge = ("eval_linear.py", "ckpt=r/checkpoints/last.ckpt", "eval.linear.epochs=2")
    done = command(*judge, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "mine.Mine: is none of this project's own" in done.stderr
    assert "trust_config=true" in done.stderr
    done = command(*judge, "trust_config=true", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
