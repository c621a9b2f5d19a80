"""A protocol is one Python file and one yaml: those of docs/extend.md, put into a copy of the package."""

import json
import os
import re
import shutil

import processes
from paths import ROOT


def test_the_protocol_of_the_documentation(tmp_path):
    for name in ("ssl", "conf", "eval_linear.py"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, tmp_path / name)
    page = (ROOT / "docs" / "extend.md").read_text()
    files = re.findall(r"```(?:python|yaml)\n# (\S*centroid\S*)\n(.*?)```", page, re.DOTALL)
    assert [name.rpartition(".")[2] for name, _ in files] == ["py", "yaml"]
    for name, text in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    ckpt = ROOT / "tests" / "kept" / "run_2026-11-24" / "checkpoints" / "last.ckpt"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "ssl"), "COLUMNS": "200"}

    def evaluate(*arguments):
        command = ["eval_linear.py", f"ckpt={ckpt}", "eval.cache=null", *arguments]
        return processes.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = evaluate("eval=centroid", "run_dir=e")
    assert done.returncode == 0, done.stderr
    assert re.search(r"digits +│ centroid +│ +\d\d.\d\d +│ +\d\d.\d\d +│ +\d\d.\d\d", done.stdout), done.stdout
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["protocols"]["centroid"]["settings"] == {"p": 2.0}
    refused = evaluate("eval=centroid", "eval.centroid.p=0", "run_dir=f")
    assert refused.stderr == "error: eval.centroid.p=0: not a possible value; give a number above 0\n"
    listed = evaluate("eval=all", "--cfg", "job").stdout
    assert re.search(r"protocols:\n  - centroid\n  - finetune\n", listed)
