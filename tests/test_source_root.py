"""`ssl/` is a source root. Python's own ssl module must stay reachable from everywhere."""

import ssl
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from paths import ROOT

STDLIB = Path(sysconfig.get_paths()["stdlib"]).resolve()


def test_standard_ssl_is_imported_under_pytest():
    assert STDLIB in Path(ssl.__file__).resolve().parents


@pytest.mark.parametrize("where", [ROOT, ROOT / "tests", Path("/")])
def test_standard_ssl_is_imported_from_each_folder(where):
    code = "import ssl; print(ssl.__file__); ssl.create_default_context()"
    out = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, check=True)
    assert STDLIB in Path(out.stdout.strip()).resolve().parents


def test_ssl_folder_is_no_package():
    assert not (ROOT / "ssl" / "__init__.py").exists()
