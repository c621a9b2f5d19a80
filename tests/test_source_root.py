"""`ssl/` is a source root. Python's own ssl module must stay reachable from everywhere."""

import ssl
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STDLIB = Path(sysconfig.get_paths()["stdlib"]).resolve()


def test_under_pytest():
    assert STDLIB in Path(ssl.__file__).resolve().parents


@pytest.mark.parametrize("where", [ROOT, ROOT / "tests", Path("/")])
def test_from(where):
    code = "import ssl; print(ssl.__file__); ssl.create_default_context()"
    out = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, check=True)
    assert STDLIB in Path(out.stdout.strip()).resolve().parents


def test_it_is_no_package():
    assert not (ROOT / "ssl" / "__init__.py").exists()
