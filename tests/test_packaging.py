"""What pyproject.toml, the requirements and the package's files say of each other."""

import sys

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(name):
    lines = [line.strip() for line in (ROOT / name).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def test_dependencies_are_those_of_requirements_txt():
    assert list(map(Requirement, PROJECT["project"]["dependencies"])) == requirements("requirements.txt")
    assert (ROOT / "requirements.txt").read_text().splitlines()[-1] == "-e ."


def test_oldest_versions_are_the_lower_bounds():
    pinned = {r.name: str(r.specifier).removeprefix("==") for r in requirements("requirements-oldest.txt")}
    admitted = requirements("requirements.txt") + requirements("requirements-dev.txt")
    assert set(pinned) == {r.name for r in admitted}
    for r in admitted:
        (bound,) = [s.version for s in r.specifier if s.operator == ">="]
        assert pinned[r.name] == bound or pinned[r.name].startswith(f"{bound}."), r.name


def test_extras_are_tested():
    """Their packages, with the same bounds, are among those that the tests use."""
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras) == {"tiff", "hf"}
    assert {r for extra in extras.values() for r in map(Requirement, extra)} <= set(
        requirements("requirements-dev.txt")
    )


@pytest.mark.parametrize(("version", "admitted"), [("3.9", False), ("3.10", True), ("3.13", True), ("3.14", False)])
def test_python_versions(version, admitted):
    assert (version in SpecifierSet(PROJECT["project"]["requires-python"])) is admitted


def test_files_beside_the_code_are_packaged():
    package = ROOT / "ssl" / "siamese"
    beside = {f for f in package.rglob("*.*") if f.suffix in (".cpp", ".h", ".yaml")}
    named = PROJECT["tool"]["setuptools"]["package-data"]
    found = {package.parent / module.replace(".", "/") / f for module, files in named.items() for f in files}
    assert found == beside
