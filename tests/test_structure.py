"""The order of the floors: no import runs up, none in a circle; no file and no function is too long."""

import ast
import re

import pytest
from paths import ROOT

PACKAGE = ROOT / "ssl" / "siamese"
# From the ground up. A module may import modules of lower floors, and of its own room.
FLOORS = (
    ("errors", "options", "processors", "imports", "intervals", "precision"),
    ("paths", "output", "files", "signals", "schema"),
    ("config", "recipe", "environment", "distributed"),
    ("batchnorm", "run_dir", "checkpoints", "pages", "progress"),
    ("augment", "backbones", "losses", "optim"),
    ("data",),
    ("methods", "probes"),
    ("factory",),
    ("training", "evaluation"),
    ("sweep", "inspection", "handoff"),
    ("commands", "api"),
    ("cli",),
    ("__main__",),
)
FILES = sorted(PACKAGE.rglob("*.py"))


def module(file):
    """siamese/data/sets.py -> data.sets, siamese/data/__init__.py -> data."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


MODULES = {module(f): f for f in FILES}


def imported(file, also_types=False):
    """Modules of the package that a file imports anywhere, also within functions."""
    tree = ast.parse(file.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not also_types:
            skipped |= set(ast.walk(node))
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "siamese":
            base = node.module.removeprefix("siamese").removeprefix(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                found.add(name if name in MODULES else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("siamese.") for a in node.names if a.name.startswith("siamese.")}
    return {name for name in found if name}


def room(name):
    return name.split(".")[0]


def floor(name):
    return next(i for i, rooms in enumerate(FLOORS) if room(name) in rooms)


def test_every_module_has_a_floor():
    rooms = {room(name) for name in MODULES if name}
    assert rooms == {name for rooms in FLOORS for name in rooms}


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name))
def test_imports_run_down(name):
    for other in imported(MODULES[name]):
        assert room(other) == room(name) or floor(other) < floor(name), f"{name} imports {other}"


def test_no_imports_run_in_a_circle():
    graph = {name: imported(file, also_types=False) & set(MODULES) - {name} for name, file in MODULES.items() if name}

    def visit(name, path):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph.get(name, ())):
                # A package's own __init__ gathers its modules; they import each other, not the package.
                visit(other, [*path, name])
            done.add(name)

    done = set()
    for name in sorted(graph):
        visit(name, [])


def test_callbacks_do_not_know_each_other():
    for name in MODULES:
        if name.startswith("training.callbacks."):
            others = {n for n in imported(MODULES[name], also_types=True) if n.startswith("training.callbacks")}
            assert not others, name


@pytest.mark.parametrize("file", [*FILES, *PACKAGE.rglob("*.cpp")], ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_file_is_long(file):
    assert len(file.read_text().splitlines()) <= 300


def test_every_module_is_in_the_api_reference():
    shown = re.findall(r"^::: siamese\.(\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    rooms = {name for name, file in MODULES.items() if file.name == "__init__.py"}
    assert sorted(set(shown) - rooms) == sorted(set(MODULES) - rooms)
    assert len(shown) == len(set(shown))


def test_no_function_is_long():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno - node.lineno < 60, f"{file.name}: {node.name}"


def test_modules_of_hydra_and_config_stay_out_of_the_objects():
    """Modules receive modules, never a config: Hydra builds, `factory` and the two builders wire."""
    for name in MODULES:
        if room(name) in ("augment", "data", "backbones", "losses", "optim", "methods", "probes"):
            assert "omegaconf" not in MODULES[name].read_text(), name
